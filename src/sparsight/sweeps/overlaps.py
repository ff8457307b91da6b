"""How far traces of many images agree: all pairs at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparsight.errors import InputError
from sparsight.sweeps.result import Sweep

__all__ = ["Overlaps", "overlaps"]

_COLUMNS = 1 << 15  # weights at a time


@dataclass(frozen=True, eq=False)
class Overlaps:
    r"""Agreement of the kept weights of every two images.

    Attributes
    ----------
    numbers
        The images.
    jaccard
        ``(N, N)`` float64: weights that both traces keep, of those that one of them keeps.
    chance
        What random sets of the same sizes in each layer have, :math:`\sum_l a_l b_l / n_l` of both
        in layers of :math:`n_l` weights, as a Jaccard index.
    """

    numbers: tuple[int, ...]
    jaccard: Tensor
    chance: Tensor

    @property
    def corrected(self) -> Tensor:
        """Agreement beyond chance: 1 for equal traces, 0 for chance."""
        return (self.jaccard - self.chance) / (1 - self.chance).clamp_min(1e-12)

    def within(self, groups: Sequence[object]) -> tuple[float, float]:
        """Mean corrected overlap of pairs of one group, and of pairs of two.

        Parameters
        ----------
        groups
            Of each image; ``None`` for none.

        Raises
        ------
        InputError
            If there is no pair of one kind.
        """
        same = torch.tensor([[a == b for b in groups] for a in groups])
        known = torch.tensor([g is not None for g in groups])
        pairs = torch.ones_like(same).triu(1) & known & known[:, None]
        found = [self.corrected[pairs & kind] for kind in (same, ~same)]
        if not all(len(values) for values in found):
            raise InputError("no two images of one group, or of two: give more images")
        return float(found[0].mean()), float(found[1].mean())


def overlaps(
    found: Sweep,
    numbers: Sequence[int] | None = None,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> Overlaps:
    """Compare the traces of images of a sweep, every two of them.

    It takes a bit of memory for each weight and image, and time for each pair: give some of the
    images of a large sweep.

    Parameters
    ----------
    found
        A sweep that kept traces.
    numbers
        Which images; all that could be used by default.
    progress
        Called as ``progress("overlap", done, total)``.

    Raises
    ------
    InputError
        If traces were not kept.
    """
    if numbers is None:
        problems = found.table.column("problem").to_pylist()
        numbers = [number for number, why in enumerate(problems) if why is None]
    masks: dict[str, list[Tensor]] = {}
    weights: dict[str, int] = {}
    for place, number in enumerate(numbers):
        if progress is not None:
            progress("overlap", place, len(numbers))
        for name, tensor in found.trace(number).tensors.items():
            masks.setdefault(name, []).append(_bits(tensor))
            weights[name] = tensor.numel()
    count = len(numbers)
    both = torch.zeros(count, count, dtype=torch.float64)
    expected = torch.zeros_like(both)
    kept = torch.zeros(count, dtype=torch.float64)
    for name in list(masks):
        packed = torch.stack(masks.pop(name))
        sizes = torch.zeros(count, dtype=torch.float64)
        step = _COLUMNS // 8
        for start in range(0, packed.shape[1], step):
            part = _unpacked(packed[:, start : start + step])
            both += (part @ part.T).double()
            sizes += part.sum(1).double()
        kept += sizes
        expected += torch.outer(sizes, sizes) / weights[name]
    either = kept + kept[:, None]
    return Overlaps(
        tuple(numbers),
        both / (either - both).clamp_min(1),
        expected / (either - expected).clamp_min(1),
    )


def _bits(tensor: Tensor) -> Tensor:
    """Pack which weights are kept, eight to a byte."""
    return torch.from_numpy(np.packbits((tensor != 0).flatten().numpy()))


def _unpacked(packed: Tensor) -> Tensor:
    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=1)).float()
