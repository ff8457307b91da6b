"""Insertion and deletion: what a network says as pixels come and go, the hottest first.

The published code of SPADE takes the pixels ``order[-0:]`` at 0 %, which are *all* pixels, so its
insertion starts at 1 and its deletion near 0. Here the first point is right: nothing inserted,
nothing deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.attribution.metrics.inputs import (
    Classifier,
    answering,
    checked_baseline,
    checked_count,
    checked_heat,
    checked_images,
    checked_targets,
)
from sparsight.errors import InputError

__all__ = ["Curve", "deletion", "insertion"]


@dataclass(frozen=True, eq=False)
class Curve:
    """What a network says of its class, over the share of pixels inserted or deleted.

    Attributes
    ----------
    shares
        ``(steps + 1,)`` float64 from 0 to 1: pixels inserted or deleted.
    values
        ``(N, steps + 1)`` float64 in [0, 1]: probability, or its share of the full image's.
    """

    shares: Tensor
    values: Tensor

    @property
    def area(self) -> Tensor:
        """Area below each curve by the trapezoid rule, ``(N,)`` float64 in [0, 1]."""
        return torch.trapezoid(self.values, self.shares)

    def __repr__(self) -> str:
        areas = ", ".join(f"{area:.3f}" for area in self.area[:4].tolist())
        more = ", ..." if len(self.values) > 4 else ""
        return f"Curve({len(self.shares) - 1} steps, area {areas}{more})"


def insertion(
    network: Classifier,
    image: Tensor,
    target: int | Sequence[int] | Tensor,
    heat: Tensor,
    *,
    steps: int = 100,
    baseline: float | Tensor = 0.0,
    relative: bool = True,
    batch: int = 64,
) -> Curve:
    r"""Insert pixels into an empty image, the hottest first.

    At step :math:`k` the :math:`\lfloor kP / \text{steps} \rfloor` hottest of :math:`P` pixels
    are the image's, the others the baseline's; equally hot pixels come row by row. Measure maps
    of a trace on the *dense* network too: it is the one to be explained.

    Parameters
    ----------
    network
        A classifier in eval mode, or a function from images to logits.
    image
        ``(N, C, H, W)``, preprocessed.
    target
        One class for all images, or one per image.
    heat
        ``(N, H, W)``.
    steps
        Number of equal shares.
    baseline
        What stands for a missing pixel, in the image's normalised space: a number, or a tensor
        that broadcasts to the images, such as a blurred image.
    relative
        Divide each probability by the full image's and clip to [0, 1], as published.
    batch
        Images per pass.

    Returns
    -------
    Curve
        A large ``area`` is better; it lies in [0, 1].

    Raises
    ------
    InputError
        More steps than pixels, impossible classes, shapes that do not fit, NaN.
    NetworkError
        A network in training mode.
    NumericalError
        A network that answers NaN.

    References
    ----------
    Petsiuk, Das, Saenko, *RISE*, BMVC 2018, arXiv:1806.07421.

    Examples
    --------
    >>> def brighter(x):
    ...     return torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], 1)
    >>> image = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
    >>> curve = insertion(brighter, image, 0, image[:, 0], steps=4, relative=False)
    >>> [round(value, 3) for value in curve.values[0].tolist()]
    [0.5, 0.881, 0.881, 0.881, 0.881]
    """
    return _curve(network, image, target, heat, steps, baseline, relative, batch, insert=True)


def deletion(
    network: Classifier,
    image: Tensor,
    target: int | Sequence[int] | Tensor,
    heat: Tensor,
    *,
    steps: int = 100,
    baseline: float | Tensor = 0.0,
    relative: bool = True,
    batch: int = 64,
) -> Curve:
    r"""Delete pixels from the image, the hottest first.

    At step :math:`k` the :math:`\lfloor kP / \text{steps} \rfloor` hottest of :math:`P` pixels
    are the baseline's, the others the image's; equally hot pixels go row by row.

    Parameters
    ----------
    network, image, target, heat, steps, baseline, relative, batch
        As for :func:`insertion`.

    Returns
    -------
    Curve
        A small ``area`` is better; it lies in [0, 1].

    Raises
    ------
    InputError, NetworkError, NumericalError
        As for :func:`insertion`.

    References
    ----------
    Petsiuk, Das, Saenko, *RISE*, BMVC 2018, arXiv:1806.07421.

    Examples
    --------
    >>> def brighter(x):
    ...     return torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], 1)
    >>> image = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
    >>> deletion(brighter, image, 0, image[:, 0], steps=4)
    Curve(4 steps, area 0.622)
    """
    return _curve(network, image, target, heat, steps, baseline, relative, batch, insert=False)


def _curve(
    network: Classifier,
    image: Tensor,
    target: int | Sequence[int] | Tensor,
    heat: Tensor,
    steps: int,
    baseline: float | Tensor,
    relative: bool,
    batch: int,
    *,
    insert: bool,
) -> Curve:
    x = checked_images(network, image)
    heat = checked_heat(heat, x)
    empty = checked_baseline(baseline, x)
    targets = checked_targets(target, len(x))
    answer = answering(network, targets)
    pixels = heat[0].numel()
    if checked_count("steps", steps) > pixels:
        raise InputError(f"{steps} steps for {pixels} pixels: a step must move at least one pixel")
    order = heat.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = order.argsort(1).reshape(heat.shape)[:, None]  # 0 is the hottest pixel's
    counts = torch.arange(steps + 1, device=x.device) * pixels // steps
    classes = torch.tensor(targets, device=x.device)
    found = []
    points = torch.arange(len(x) * len(counts), device=x.device)
    for part in points.split(checked_count("batch", batch)):
        row, step = part // len(counts), part % len(counts)
        moved = places[row] < counts[step][:, None, None, None]
        logits = answer(torch.where(moved == insert, x[row], empty[row]))
        chances = logits.double().log_softmax(1)
        found.append(chances.gather(1, classes[row, None].to(chances.device))[:, 0].cpu())
    values = torch.cat(found).reshape(len(x), len(counts))
    if relative:
        whole = values[:, -1:] if insert else values[:, :1]
        values = values - whole
    return Curve(counts.double().cpu() / pixels, values.exp().clamp(max=1))
