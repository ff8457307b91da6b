r"""How strongly each unit pulls on the loss of a sample: mean absolute gradient of its weights.

For sample *b* and a unit with weights :math:`\theta_i, i \in u`, of a labelled loss :math:`L_b`,

.. math::

    \bar s_u(b) = \frac{1}{|u|} \sum_{i \in u} \left| \partial L_b / \partial \theta_i \right|,

Levin et al., "Where do models go wrong? Parameter-space saliency maps for explainability"
(NeurIPS 2022). Many samples go through together: in evaluation mode they do not touch one another,
so the gradient at a layer's output is each sample's own, and its weight gradient is an outer
product of what went in with what came back. Nothing is kept but the sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.blame.weight_gradients import sums_of_gradients
from sparsight.errors import InputError, NumericalError, UnsupportedError
from sparsight.networks import (
    LayerCall,
    LayerInput,
    Network,
    Recording,
    Units,
    images_first,
    memory_layout,
    shared_view,
)
from sparsight.networks.watching import Normalisations, NormCall, PassPlan, require_apart, wide

__all__ = ["LOSSES", "Measured", "SaliencyOf", "loss_of"]

_Axis = tuple[str, str]  # a matrix's name, and rows or columns


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _of_prediction(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, logits.argmax(1), reduction="none")


def _logit(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.gather(1, labels[:, None])[:, 0]


def _difference(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.amax(1) - own


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "label": _cross_entropy,
    "prediction": _of_prediction,
    "logit": _logit,
    "difference": _difference,
}
"""What gradients are taken of: cross-entropy of the label, or of the prediction; minus the label's
logit; the largest other logit minus the label's. Each maps logits and labels to ``(N,)``."""


def loss_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Find a loss by name.

    Raises
    ------
    InputError
        If there is no such loss.
    """
    if name not in LOSSES:
        raise InputError(f"no loss is called {name!r}: choose from {', '.join(LOSSES)}")
    return LOSSES[name]


@dataclass(frozen=True, eq=False)
class Measured:
    """Saliency of units for some samples.

    Attributes
    ----------
    saliency
        ``(N, units)``, float32 or float64: mean absolute gradient over a unit's weights.
    loss
        ``(N,)``.
    logits
        ``(N, classes)``.
    """

    saliency: Tensor
    loss: Tensor
    logits: Tensor


class SaliencyOf:
    """Measures the saliency of a network's units, batch by batch.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    units
        Which units, ``Units.of(network.model)``.
    loss
        One of :data:`LOSSES`.

    Attributes
    ----------
    untouched
        Titles of groups that no gradient has reached so far: their saliency is zero.

    Raises
    ------
    InputError
        No such loss, or no units at all.
    NetworkError
        A network in training mode.

    Examples
    --------
    >>> import torch, sparsight
    >>> from sparsight.networks import Units
    >>> network = sparsight.load("embedded")
    >>> measure = SaliencyOf(network, Units.of(network.model, ["filter"]))
    >>> found = measure(torch.rand(2, 3, 64, 64), torch.tensor([0, 1]))
    >>> found.saliency.shape == (2, len(measure.units)), bool((found.saliency >= 0).all())
    (True, True)
    """

    def __init__(self, network: Network, units: Units, loss: str = "label") -> None:
        network.require_eval()
        if not len(units):
            raise InputError(f"network {network.spec!r} has no such units: name other kinds")
        self.network, self.units = network, units
        self._loss = loss_of(loss)
        self._axes = {(p.matrix.name, p.axis) for group in units.groups for p in group.parts}
        self._view = shared_view(network)  # its parameters want no gradients
        self._plan: PassPlan | None = None
        self._layout = torch.contiguous_format
        self._reached: set[str] = set()

    @property
    def untouched(self) -> list[str]:
        """Titles of groups that no gradient has reached."""
        return [
            group.title
            for group in self.units.groups
            if group.name not in self._reached
            and not any(part.matrix.name in self._reached for part in group.parts)
        ]

    def __call__(self, images: Tensor, labels: Tensor) -> Measured:
        """Measure a batch.

        Parameters
        ----------
        images
            Normalised, ``(N, C, H, W)``.
        labels
            ``(N,)``, int64.

        Raises
        ------
        NumericalError
            If a loss is NaN or infinite.
        UnsupportedError
            If no gradient reaches any unit, or a layer hides which part of its input belongs to
            which image.
        """
        first = self._plan is None
        if self._plan is None:
            self._plan = PassPlan(self.network, self.units, images[:1])
            self._layout = memory_layout(self._view, images)
        found = self._measure(images, labels, self._plan)
        if first and len(images) > 1:
            alone = self._measure(images[-1:], labels[-1:], self._plan).saliency[0]
            remedy = "measure them one at a time (batch=1, --batch 1)"
            require_apart(self.network, found.saliency[-1], alone, remedy)
        return found

    def _measure(self, images: Tensor, labels: Tensor, plan: PassPlan) -> Measured:
        model = self._view.get_submodule("model")
        sums = _Sums(plan, len(images), self._axes)
        images = images.detach().contiguous(memory_format=self._layout).requires_grad_()
        with (
            torch.enable_grad(),
            Recording(
                model, plan.matrices, on_gradient=sums.pull, on_input=sums.see,
                edit_output=sums.reach,
            ),
            Normalisations(model, plan.norms, sums.see_norm),
        ):  # fmt: skip
            logits: Tensor = self._view(images)
            loss = self._loss(logits.float() if logits.dtype.itemsize < 4 else logits, labels)
        if not torch.isfinite(loss).all():
            raise NumericalError(
                f"network {self.network.spec!r} has a loss of NaN or infinity: its weights or "
                "these images are corrupt"
            )
        if loss.requires_grad:
            torch.autograd.grad(loss.sum(), [images, *sums.leaves], allow_unused=True)
        sums.finish()
        self._reached |= sums.reached
        if not self._reached:
            raise UnsupportedError(
                "no gradient of the loss reaches any unit: let the network run with gradients"
            )
        return Measured(self._assemble(sums, len(images)), loss.detach(), logits.detach())

    def _assemble(self, sums: _Sums, images: int) -> Tensor:
        home = next(iter([*sums.absolute.values(), *sums.norms.values()]))
        found = home.new_zeros(images, len(self.units))
        for group, piece in self.units.pieces(found):
            if group.name in sums.norms:
                piece.copy_(sums.norms[group.name])
            for part in group.parts:
                values = sums.absolute.get((part.matrix.name, part.axis))
                if values is not None:
                    used = values[:, part.start : part.start + group.count * part.size]
                    piece += used.reshape(images, group.count, part.size).sum(2)
            if group.parts:
                piece /= sum(part.weights for part in group.parts)
        return found


class _Sums:
    """Sums of absolute weight gradients of one batch."""

    def __init__(self, plan: PassPlan, images: int, axes: set[_Axis]) -> None:
        self.plan, self.images, self.axes = plan, images, axes
        self.absolute: dict[_Axis, Tensor] = {}
        self.norms: dict[str, Tensor] = {}
        self.reached: set[str] = set()
        self._scale: dict[str, Tensor] = {}
        self._shift: dict[str, Tensor] = {}
        self.leaves: list[Tensor] = []
        self._kept: list[LayerInput] = []  # alive, so that no other gets its number
        self._versions: dict[int, int] = {}
        self._waiting: dict[str, list[tuple[LayerInput, Tensor]]] = {}

    def see(self, use: LayerInput) -> None:
        """Note the state of a layer's input, which is read again in the backward pass."""
        self._versions[id(use)] = use.input._version

    def reach(self, call: LayerCall) -> Tensor | None:
        """Let the gradient come to a layer that no image leads to, such as learnt queries."""
        if call.output.requires_grad or call.matrix.name in self.plan.shared:
            return None
        leaf = call.output.detach().requires_grad_()
        use = LayerInput(call.matrix, call.input, call.bias, call.geometry)
        self.see(use)
        self._kept.append(use)
        leaf.register_hook(partial(self.pull, use))
        self.leaves.append(leaf)
        return leaf

    def pull(self, use: LayerInput, gradient: Tensor) -> None:
        """Take the gradient of a layer's output, once those of all its uses are there."""
        name = use.matrix.name
        if name in self.plan.shared:
            return
        if use.input._version != self._versions[id(use)]:
            raise UnsupportedError(
                f"what layer {name!r} gets is overwritten in place after its use, and the gradient "
                "of its weights needs it: make the operation that does so not in place"
            )
        uses = self._waiting.setdefault(name, [])
        uses.append((use, gradient))
        if len(uses) == self.plan.uses[name]:
            self._take(self._waiting.pop(name))

    def see_norm(self, call: NormCall) -> None:
        """Wait for the gradient of a normalisation's output."""
        name = call.name
        if name is None or not call.output.requires_grad:
            return
        single, plain = self.plan.inputs[name], wide(call.normalise())

        def pull(gradient: Tensor) -> None:
            with torch.no_grad():
                both = (self._scale, wide(gradient) * plain), (self._shift, wide(gradient))
                for table, found in both:
                    sums = images_first(call.by_entry(found), self.images, single).sum(1)
                    table[name] = sums if name not in table else table[name] + sums

        call.output.register_hook(pull)

    @torch.no_grad()
    def finish(self) -> None:
        """Take what a layer that did not pass on all its uses' gradients left."""
        for uses in self._waiting.values():
            self._take(uses)
        self._waiting.clear()
        for name, scale in self._scale.items():
            self.norms[name] = scale.abs()
            if name in self.plan.shifted:
                self.norms[name] = (scale.abs() + self._shift[name].abs()) / 2
            self.reached.add(name)

    @torch.no_grad()
    def _take(self, uses: list[tuple[LayerInput, Tensor]]) -> None:
        matrix = uses[0][0].matrix
        self.reached.add(matrix.name)
        wanted = [axis for axis in ("rows", "columns") if (matrix.name, axis) in self.axes]
        shapes = self.plan.inputs[matrix.name], self.plan.outputs[matrix.name]
        found = sums_of_gradients(uses, self.images, shapes, wanted)
        for axis, sums in found.items():
            self.absolute[matrix.name, axis] = sums.flatten(1)
