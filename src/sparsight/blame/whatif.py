"""What if the blamed units were off, or mended: curves with controls, and the damage elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparsight.blame.layout import spread_over_weights
from sparsight.blame.saliency import loss_of
from sparsight.blame.switches import answers_without
from sparsight.errors import InputError
from sparsight.networks import Network, Units, shared_view

__all__ = [
    "COUNTS",
    "ORDERS",
    "Curve",
    "Repair",
    "choices",
    "damage",
    "knock_out",
    "lost",
    "repair",
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
    predicted = int(network.logits(x)[0].argmax())
    off = {order: choices(scores, counts, order, draws, seed) for order in ORDERS}
    together = torch.cat([part.flatten(0, 1) for part in off.values()])
    logits = answers_without(network, x, units, together, mode=mode, usual=usual, chunk=chunk)[0]
    curves, start = {}, 0
    for order, part in off.items():
        own = logits[start : start + part.shape[0] * part.shape[1]]
        start += len(own)
        shape = part.shape[:2]
        probability = own.double().softmax(1).cpu()
        curves[order] = Curve(
            tuple(counts),
            probability[:, predicted].reshape(shape),
            probability[:, label].reshape(shape),
            (own.argmax(1) == label).cpu().reshape(shape),
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
    labels = labels.to(images.device)
    right = torch.cat([network.logits(part).argmax(1) for part in images.split(chunk)]) == labels
    if not right.any():
        return torch.zeros(len(off), dtype=torch.float64), 0
    logits = answers_without(
        network, images[right], units, off, mode=mode, usual=usual, chunk=chunk
    )
    wrong = logits.argmax(2) != labels[right][:, None]
    return wrong.double().sum(0).cpu(), int(right.sum())


@dataclass(frozen=True, eq=False)
class Repair:
    """Weights after a few gradient steps on some units.

    Attributes
    ----------
    tensors
        New parameters by name, to :func:`sparsight.networks.overlay`.
    losses
        Before each step, and at last.
    settings
        How it was made.
    """

    tensors: dict[str, Tensor]
    losses: tuple[float, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def repair(
    network: Network,
    x: Tensor,
    label: int,
    units: Units,
    chosen: Tensor,
    *,
    steps: int = 1,
    rate: float = 1e-3,
    loss: str = "label",
) -> Repair:
    """Take gradient steps on the weights of some units, all others fixed.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    x
        ``(N, C, H, W)``, normalised.
    label
        What the answer should be.
    units, chosen
        The units, and indices of those that may change.
    steps, rate
        Of plain gradient descent.
    loss
        One of :data:`sparsight.blame.LOSSES`.

    Raises
    ------
    InputError
        No step at all, or a rate that is not positive.
    """
    if steps < 1 or not rate > 0:
        raise InputError(f"{steps} steps of rate {rate}: give 1 step or more, of a positive rate")
    network.require_eval()
    view, loss_function = shared_view(network), loss_of(loss)
    labels = torch.full((len(x),), label, device=x.device)
    marked = torch.zeros(len(units), dtype=torch.float32, device=x.device)
    marked[chosen.to(x.device)] = 1.0
    masks = {
        name: mask > 0
        for name, mask in spread_over_weights(units, marked, network.model).items()
        if bool((mask > 0).any())
    }
    parameters = {name: view.get_parameter(f"model.{name}") for name in masks}
    for parameter in parameters.values():
        parameter.data = parameter.data.clone()
        parameter.requires_grad_()
    losses = []
    for step in range(steps + 1):
        with torch.enable_grad():
            value = loss_function(view(x), labels).mean()
        losses.append(float(value.detach()))
        if step == steps:
            break
        gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        with torch.no_grad():
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(rate * gradient * masks[name])
    tensors = {name: parameter.detach() for name, parameter in parameters.items()}
    settings = {"units": len(chosen), "steps": steps, "rate": rate, "loss": loss}
    return Repair(tensors, tuple(losses), settings)
