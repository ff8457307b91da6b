"""What if the blamed units were off: curves with controls, and the damage elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.blame.switches import answers_without
from sparsight.errors import InputError
from sparsight.networks import Network, Units

__all__ = [
    "COUNTS",
    "ORDERS",
    "Curve",
    "answered_rightly",
    "choices",
    "curves_of",
    "damage",
    "knock_out",
    "lost",
]

COUNTS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
"""How many units are off, by default."""

ORDERS = ("salient", "random", "least")
"""The units with the largest scores, any units, and those with the smallest scores."""


@dataclass(frozen=True, eq=False)
class Curve:
    """What becomes of an answer as more and more units go off.

    Attributes
    ----------
    counts
        How many units are off.
    predicted, true
        Probability of the class that the whole network predicts, and of the label,
        ``(draws, counts)``; one draw unless the order is random.
    corrected
        Whether the label is answered, ``(draws, counts)``, bool.
    """

    counts: tuple[int, ...]
    predicted: Tensor
    true: Tensor
    corrected: Tensor


def choices(
    scores: Tensor, counts: Sequence[int], order: str, draws: int = 1, seed: int = 0
) -> Tensor:
    """Choose units to be off: nested sets, growing in an order.

    Parameters
    ----------
    scores
        ``(units,)``.
    counts
        How many units are off.
    order
        One of :data:`ORDERS`.
    draws
        How often random units are drawn; other orders have one draw.
    seed
        Of the random draws.

    Returns
    -------
    Tensor
        ``(draws, counts, units)``, bool.

    Raises
    ------
    InputError
        No such order, or more units than there are.

    Examples
    --------
    >>> import torch
    >>> choices(torch.tensor([0.1, 3.0, 2.0]), [0, 1, 2], "salient")[0].int().tolist()
    [[0, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    units = len(scores)
    if not counts or not all(0 <= count <= units for count in counts):
        raise InputError(f"cannot switch off {list(counts)} of {units} units: give 0 to {units}")
    if order == "random":
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(units, generator=generator) for _ in range(draws)]
    elif order in ORDERS:
        orders = [scores.argsort(descending=order == "salient", stable=True)]
    else:
        raise InputError(f"no order is called {order!r}: choose from {', '.join(ORDERS)}")
    off = torch.zeros(len(orders), len(counts), units, dtype=torch.bool)
    for draw, ordered in enumerate(orders):
        for number, count in enumerate(counts):
            off[draw, number, ordered[:count]] = True
    return off


def knock_out(
    network: Network,
    x: Tensor,
    label: int,
    units: Units,
    scores: Tensor,
    *,
    counts: Sequence[int] = COUNTS,
    mode: str = "weights",
    usual: Mapping[str, Tensor] | None = None,
    draws: int = 5,
    seed: int = 0,
    chunk: int = 32,
) -> dict[str, Curve]:
    """Switch off the units that score highest, random ones and the lowest, in one sweep.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    x
        ``(1, C, H, W)``, normalised.
    label
        What the answer should be.
    units, scores
        The units, and their scores ``(units,)``.
    counts
        How many are off.
    mode, usual
        What off means, see :func:`answers_without`.
    draws, seed
        Of random units.
    chunk
        Choices per pass.

    Returns
    -------
    dict
        :class:`Curve` by order.
    """
    off = {order: choices(scores, counts, order, draws, seed) for order in ORDERS}
    together = torch.cat([part.flatten(0, 1) for part in off.values()])
    logits = answers_without(network, x, units, together, mode=mode, usual=usual, chunk=chunk)[0]
    return curves_of(network, x, label, counts, off, logits)


def curves_of(
    network: Network,
    x: Tensor,
    label: int,
    counts: Sequence[int],
    chosen: Mapping[str, Tensor],
    logits: Tensor,
) -> dict[str, Curve]:
    """Make curves of the answers to an image with units changed.

    Parameters
    ----------
    network, x, label
        See :func:`knock_out`.
    counts
        How many units are changed.
    chosen
        What :func:`choices` gave, by order.
    logits
        ``(choices, classes)``, of all orders one after the other.
    """
    predicted = int(network.logits(x)[0].argmax())
    parts = logits.double().cpu().split([own.shape[0] * own.shape[1] for own in chosen.values()])
    curves = {}
    for (order, part), own in zip(chosen.items(), parts, strict=True):
        shape = part.shape[:2]
        probability = own.softmax(1)
        curves[order] = Curve(
            tuple(counts),
            probability[:, predicted].reshape(shape),
            probability[:, label].reshape(shape),
            (own.argmax(1) == label).reshape(shape),
        )
    return curves


def damage(
    network: Network,
    images: Tensor,
    labels: Tensor,
    units: Units,
    off: Tensor,
    *,
    mode: str = "weights",
    usual: Mapping[str, Tensor] | None = None,
    chunk: int = 32,
) -> Tensor:
    """Share of images answered rightly that are no longer so with units off.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    images, labels
        ``(N, C, H, W)`` and ``(N,)``; those that the whole network gets wrong do not count.
    units, off
        The units, and which are off, ``(K, units)``.
    mode, usual, chunk
        See :func:`answers_without`.

    Returns
    -------
    Tensor
        ``(K,)``, float64.

    Raises
    ------
    InputError
        If the network gets none of the images right.
    """
    gone, right = lost(network, images, labels, units, off, mode=mode, usual=usual, chunk=chunk)
    if not right:
        raise InputError("the network gets none of these images right: nothing can be lost")
    return gone / right


def answered_rightly(network: Network, images: Tensor, labels: Tensor, chunk: int) -> Tensor:
    """Tell which images the whole network answers rightly, ``(N,)``, bool."""
    answers = torch.cat([network.logits(part).argmax(1) for part in images.split(chunk)])
    return answers == labels.to(images.device)


def lost(
    network: Network,
    images: Tensor,
    labels: Tensor,
    units: Units,
    off: Tensor,
    *,
    mode: str = "weights",
    usual: Mapping[str, Tensor] | None = None,
    chunk: int = 32,
) -> tuple[Tensor, int]:
    """Count right answers that are lost, ``(K,)``, and right answers; as :func:`damage`."""
    right = answered_rightly(network, images, labels, chunk)
    labels = labels.to(images.device)
    if not right.any():
        return torch.zeros(len(off), dtype=torch.float64), 0
    logits = answers_without(
        network, images[right], units, off, mode=mode, usual=usual, chunk=chunk
    )
    wrong = logits.argmax(2) != labels[right][:, None]
    return wrong.double().sum(0).cpu(), int(right.sum())
