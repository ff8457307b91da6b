"""What a map is like, in a few numbers that compare over images."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsight.errors import InputError

__all__ = ["MEASURES", "likeness", "measure"]

MEASURES = ("gini", "top", "row", "column")
"""Names of what :func:`measure` finds."""

_TOP = 0.05


def measure(heat: Tensor) -> dict[str, float | None]:
    """Measure how concentrated a map is, and where its middle lies.

    Parameters
    ----------
    heat
        ``(H, W)``; signs do not count.

    Returns
    -------
    dict
        ``gini``, the Gini index of the pixels: 0 if all are alike, near 1 if few have all of it;
        ``top``, the share of the sum that the largest 5 % of pixels have; ``row`` and ``column``
        of the centre of mass, 0 to 1 from the top left. ``None`` of a map that is zero.

    Raises
    ------
    InputError
        If it is no map.

    Examples
    --------
    >>> found = measure(torch.eye(4) * torch.tensor([1.0, 0, 0, 0]))
    >>> found["gini"], found["row"]
    (0.9375, 0.125)
    >>> measure(torch.ones(4, 4))["gini"]
    0.0
    """
    if heat.ndim != 2 or not heat.numel():
        raise InputError(f"a map of shape {tuple(heat.shape)}: give (H, W)")
    size = heat.detach().cpu().double().abs()
    total = float(size.sum())
    if not total:
        return dict.fromkeys(MEASURES)
    values = size.flatten().sort().values
    count = len(values)
    ranks = torch.arange(1, count + 1, dtype=torch.float64)
    largest = max(1, round(_TOP * count))
    height, width = size.shape
    rows, columns = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (height, width))
    return {
        "gini": float((2 * ranks - count - 1) @ values) / (count * total),
        "top": float(values[-largest:].sum()) / total,
        "row": float(size.sum(1) @ rows) / total,
        "column": float(size.sum(0) @ columns) / total,
    }


def likeness(a: Tensor, b: Tensor) -> float | None:
    """Correlate two maps, pixel by pixel; ``None`` where one does not vary.

    Examples
    --------
    >>> round(likeness(torch.eye(3), 2 * torch.eye(3)), 6)
    1.0
    """
    first, second = (m.detach().cpu().double().flatten() for m in (a, b))
    first, second = first - first.mean(), second - second.mean()
    scale = float(first.norm() * second.norm())
    return float(first @ second) / scale if scale else None
