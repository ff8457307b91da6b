"""What if the blamed units took a few steps down the gradient: mended weights, with controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsight.blame.layout import spread_over_weights
from sparsight.blame.saliency import loss_of
from sparsight.blame.whatif import COUNTS, ORDERS, Curve, answered_rightly, choices, curves_of
from sparsight.errors import InputError, UnsupportedError
from sparsight.networks import Network, Units, shared_view

__all__ = ["Mending", "Repair", "mend", "repair"]

_BATCH = 32  # images per pass of the whole network


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


@dataclass(frozen=True, eq=False)
class Mending:
    """What becomes of an answer, and of others, as more and more units are mended.

    Attributes
    ----------
    curve
        Of the image.
    lost
        Share of other right answers that are lost, ``(draws, counts)``, float64; none without
        images to count them on.
    """

    curve: Curve
    lost: Tensor | None


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
    _require_steps(steps, rate)
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
        if step == steps or not value.requires_grad:  # not so where all units are unused
            break
        gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        with torch.no_grad():
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(rate * gradient * masks[name])
    tensors = {name: parameter.detach() for name, parameter in parameters.items()}
    settings = {"units": len(chosen), "steps": steps, "rate": rate, "loss": loss}
    return Repair(tensors, tuple(losses), settings)


def mend(
    network: Network,
    x: Tensor,
    label: int,
    units: Units,
    scores: Tensor,
    *,
    counts: Sequence[int] = COUNTS,
    steps: int = 1,
    rate: float = 1e-3,
    loss: str = "label",
    images: Tensor | None = None,
    labels: Tensor | None = None,
    draws: int = 5,
    seed: int = 0,
    chunk: int = 8,
) -> dict[str, Mending]:
    """Mend the units that score highest, random ones and the lowest, all numbers in one sweep.

    Every choice of units is :func:`repair` of these units; a chunk of choices steps and answers
    together, each with weights of its own.

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
        How many are mended.
    steps, rate, loss
        See :func:`repair`.
    images, labels
        ``(N, C, H, W)`` and ``(N,)``: others, to count the right answers that get lost.
    draws, seed
        Of random units.
    chunk
        Choices at a time, each a copy of the weights that change.

    Returns
    -------
    dict
        :class:`Mending` by order.

    Raises
    ------
    InputError
        No step or unit at all, a rate that is not positive, images without labels, or none of
        them answered rightly.
    UnsupportedError
        If the network cannot run with several sets of weights at once.

    Examples
    --------
    >>> import torch, sparsight
    >>> from sparsight.networks import Units
    >>> network = sparsight.load("embedded")
    >>> units = Units.of(network.model, ["filter"])
    >>> scores = torch.arange(len(units)).double()
    >>> found = mend(network, torch.rand(1, 3, 64, 64), 3, units, scores, counts=[0, 5], rate=0.1)
    >>> true = found["salient"].curve.true[0]
    >>> bool(true[1] > true[0])
    True
    """
    _require_steps(steps, rate)
    if not any(counts):
        raise InputError("no unit to mend: give a count of 1 or more")
    network.require_eval()
    right = _right(network, images, labels)
    chosen = {order: choices(scores, counts, order, draws, seed) for order in ORDERS}
    together = torch.cat([part.flatten(0, 1) for part in chosen.values()])
    sweep = _Sweep(network, units, together)
    pull = sweep.pull(x, label, loss)
    answers, gone = [], []
    for start in range(0, len(together), chunk):
        tensors = sweep.stepped(together[start : start + chunk], pull, x, label, steps, rate, loss)
        answers.append(sweep.answer(tensors, x)[:, 0])
        if right is not None:
            wrong = [
                sweep.answer(tensors, some).argmax(2) != own[None]
                for some, own in zip(right[0].split(chunk), right[1].split(chunk), strict=True)
            ]
            gone.append(torch.cat(wrong, 1).double().mean(1).cpu())
    curves = curves_of(network, x, label, counts, chosen, torch.cat(answers))
    sizes = [part.shape[0] * part.shape[1] for part in chosen.values()]
    parts = torch.cat(gone).split(sizes) if gone else [None] * len(sizes)
    return {
        order: Mending(curve, None if own is None else own.reshape(curve.true.shape))
        for (order, curve), own in zip(curves.items(), parts, strict=True)
    }


def _require_steps(steps: int, rate: float) -> None:
    if steps < 1 or not rate > 0:
        raise InputError(f"{steps} steps of rate {rate}: give 1 step or more, of a positive rate")


def _right(
    network: Network, images: Tensor | None, labels: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Return those images that are answered rightly, and their labels."""
    if images is None or labels is None:
        if images is not None or labels is not None:
            raise InputError("images without labels, or labels without images: give both")
        return None
    right = answered_rightly(network, images, labels, _BATCH)
    labels = labels.to(images.device)
    if not right.any():
        raise InputError("the network gets none of these images right: nothing can be lost")
    return images[right], labels[right]


class _Sweep:
    """A network with several sets of some of its weights side by side."""

    def __init__(self, network: Network, units: Units, together: Tensor) -> None:
        self._network, self._units = network, units
        self._view = shared_view(network)
        touched = self._masks(together.any(0))
        self._base = {
            name: self._view.get_parameter(f"model.{name}").detach()
            for name, mask in touched.items()
            if bool(mask.any())
        }

    def _masks(self, chosen: Tensor) -> dict[str, Tensor]:
        marked = chosen.to(self._network.device, torch.float32)
        spread = spread_over_weights(self._units, marked, self._network.model)
        return {name: mask > 0 for name, mask in spread.items()}

    def pull(self, x: Tensor, label: int, loss: str) -> dict[str, Tensor]:
        """Gradient of the loss with the weights as they are: the first step of all choices."""
        one = {name: value[None] for name, value in self._base.items()}
        return {name: own[0] for name, own in self._gradients(one, x, label, loss).items()}

    def stepped(
        self,
        chosen: Tensor,
        pull: Mapping[str, Tensor],
        x: Tensor,
        label: int,
        steps: int,
        rate: float,
        loss: str,
    ) -> dict[str, Tensor]:
        """Weights after the steps, ``(choices, ...)`` each."""
        rows = [self._masks(own) for own in chosen]
        masks = {name: torch.stack([row[name] for row in rows]) for name in self._base}
        tensors = {
            name: value - rate * pull[name] * masks[name] for name, value in self._base.items()
        }
        for _ in range(steps - 1):
            pulls = self._gradients(tensors, x, label, loss)
            tensors = {name: v - rate * pulls[name] * masks[name] for name, v in tensors.items()}
        return tensors

    def answer(self, tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Answer images with every set of weights, ``(choices, N, classes)``."""
        with torch.no_grad():
            return self._logits(tensors, images)

    def _gradients(
        self, tensors: Mapping[str, Tensor], x: Tensor, label: int, loss: str
    ) -> dict[str, Tensor]:
        held = {name: value.detach().requires_grad_() for name, value in tensors.items()}
        count = len(next(iter(held.values())))
        labels = torch.full((count * len(x),), label, device=x.device)
        with torch.enable_grad():
            logits = self._logits(held, x).flatten(0, 1)
            total = loss_of(loss)(logits, labels).sum() / len(x)
        pulls: tuple[Tensor | None, ...] = (None,) * len(held)
        if total.requires_grad:  # not so where all units are unused
            pulls = torch.autograd.grad(total, list(held.values()), allow_unused=True)
        return {
            name: torch.zeros_like(value) if pull is None else pull
            for (name, value), pull in zip(held.items(), pulls, strict=True)
        }

    def _logits(self, tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
        count = len(next(iter(tensors.values())))
        named = {f"model.{name}": value for name, value in tensors.items()}

        def answer(own: dict[str, Tensor], given: Tensor) -> Tensor:
            found: Tensor = torch.func.functional_call(self._view, own, (given,))
            return found

        each: Callable[..., Tensor] = torch.func.vmap(answer)
        try:
            with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for several weights
                return each(named, images.expand(count, *images.shape))
        except RuntimeError as error:
            raise UnsupportedError(
                f"network {self._network.spec!r} cannot run with several sets of weights at once "
                f"({str(error).splitlines()[0]}): use repair(), one choice at a time"
            ) from error
