r"""What the dense network tells, in one pass, about the layers that are to be pruned.

Two things are kept: the products of every layer at some positions, which a pruned layer is to
reproduce, and what the removal of a weight alone would do to the *evidence* for the class in
question, its log-odds :math:`m = z_c - \log \sum_{k \ne c} e^{z_k}`:

.. math::

    \mathrm{cost}_{ij} = w_{ij}^2 \sum_v \omega_v \, p_c(v) \sum_t g_{it}^2 \, x_{jt}^2 ,

where :math:`g_{it} = \partial m / \partial y_{it}` at output *i* and position *t* of view *v*,
:math:`\omega_v` is the view's weight and :math:`p_c(v)` how far the view shows the class at all.
This is the diagonal of :math:`\mathbb{E}[(\partial m / \partial w_{ij})^2]` with positions taken as
independent: a weight counts where its input and the evidence *meet*. Costs of all layers have the
same unit, so that one threshold can serve the whole network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

from sparsight.errors import NumericalError, UnsupportedError
from sparsight.networks import (
    LayerCall,
    LayerInput,
    Network,
    Recording,
    WeightMatrix,
    failed_machine,
    images_first,
)
from sparsight.networks.calls import pad_input
from sparsight.networks.matrices import weight_of
from sparsight.traces.plan import Shapes
from sparsight.traces.positions import Positions, draw, inputs_at, outputs_at, wide
from sparsight.traces.precision import in_full
from sparsight.traces.result import against_rest
from sparsight.traces.views import require_answers

__all__ = ["Observed", "Sampling", "observe"]

Progress = Callable[[str, int, int], None]

_LEAST_SHOWN = 1e-12  # less would leave nothing of squared gradients


@dataclass(frozen=True)
class Sampling:
    """How much of the images goes into the fit.

    Attributes
    ----------
    fitted
        Images that layers are fitted on, from the first; the others are only answered.
    scored
        Images that gradients are taken of, from the first.
    positions
        Positions per layer and use, if there are as many; 0 for none.
    focus
        Share of the weight on the first image, the sample itself, in [0, 1].
    seed
        Of positions.
    target
        Index of the class whose evidence counts.
    """

    fitted: int
    scored: int
    positions: int
    focus: float
    seed: int
    target: int

    def shares(self) -> Tensor:
        """Weight of each scored image; they sum to 1."""
        share = torch.full((self.scored,), (1 - self.focus) / max(self.scored - 1, 1))
        share[0] = self.focus if self.scored > 1 else 1.0
        return share


@dataclass
class Observed:
    """What the dense network told.

    Attributes
    ----------
    where
        Positions that a layer is fitted on.
    targets
        Products of the dense layer there, ``(groups, positions, rows)``, by layer and use, in
        pieces.
    later
        Inputs of the dense layer there, ``(groups, positions, columns)``, of every use but the
        first.
    passed
        Of each layer that a gradient reaches, squared inputs times squared gradients, summed over
        positions and weighted views, ``(groups, rows, columns)``.
    energy
        Weighted sum of the squared inputs of the last layer, ``(groups, columns)``.
    logits
        Dense answers, ``(images, classes)``.
    """

    where: dict[str, Positions]
    targets: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    later: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    passed: dict[str, Tensor] = field(default_factory=dict)
    energy: Tensor = field(default_factory=lambda: torch.empty(0))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def cost(self, network: Network, matrix: WeightMatrix) -> Tensor:
        """Return what the removal of each weight costs, ``(groups, rows, columns)``.

        A layer that no gradient reaches costs nothing.
        """
        squared = wide(weight_of(network.model, matrix)).square()
        passed = self.passed.get(matrix.name)
        return torch.zeros_like(squared) if passed is None else squared * passed


def observe(
    network: Network,
    images: Tensor,
    matrices: Sequence[WeightMatrix],
    shapes: Mapping[str, Shapes],
    sampling: Sampling,
    chunk: int,
    progress: Progress | None = None,
) -> Observed:
    """Run the dense network over the sample and its views, and keep what the fit needs.

    Parameters
    ----------
    network
        In evaluation mode.
    images
        The sample and its views, ``(1 + views, C, H, W)``.
    matrices
        Layers to observe.
    shapes
        By layer.
    sampling
        How much to keep.
    chunk
        Images per pass.
    progress
        Called as ``progress(stage, done, total)``.

    Raises
    ------
    UnsupportedError
        If no gradient flows back from the network's answer.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    where = {
        m.name: draw(
            shapes[m.name].positions, sampling.fitted, sampling.positions, sampling.focus, generator
        )
        for m in matrices
    }
    found = Observed(where)
    shares = sampling.shares().to(images.device)
    answers: list[Tensor] = []
    last = matrices[-1].name if matrices else ""
    for start in range(0, len(images), chunk):
        if progress is not None:
            progress("observing", start, len(images))
        batch = images[start : start + chunk]
        share = shares[start : start + chunk]
        watch = _Watch(found, shapes, start, len(batch), share, last)
        pull = watch.pull if len(share) else None
        with torch.set_grad_enabled(len(share) > 0):
            batch = batch.detach().requires_grad_(len(share) > 0)
            with Recording(network.model, matrices, watch.see, pull):
                logits = network(batch)
            if len(share):
                _backward(logits[: len(share)], batch, share, sampling.target)
        answers.append(logits.detach().to(images.dtype))
    found.logits = torch.cat(answers)
    _require_finite(found)
    return found


def _require_finite(found: Observed) -> None:
    """Refuse what no choice can be made by.

    Raises
    ------
    NumericalError
        An answer, or a gradient of one, is NaN or infinite.
    """
    require_answers(found.logits, 0)
    for name, passed in found.passed.items():
        if not passed.isfinite().all():
            raise NumericalError(
                f"layer {name!r}: the gradient of the answer is NaN or infinite: augment the "
                "sample less, or give the layers' sparsities and another solver"
            )


def _backward(logits: Tensor, batch: Tensor, share: Tensor, target: int) -> None:
    """Send back the gradient of the evidence for a class, times the root of each image's weight."""
    if not logits.requires_grad:
        raise UnsupportedError(
            "the network's answer has no gradient, which the choice of weights needs: let it run "
            "with gradients, or choose another solver and a sparsity for each layer"
        )
    own, rest = against_rest(logits, target).unbind(-1)
    shown = (own - rest).detach().sigmoid().clamp_min(_LEAST_SHOWN)
    evidence = ((own - rest) * (share * shown).sqrt()).sum()
    try:
        torch.autograd.grad(evidence, batch, allow_unused=True)
    except RuntimeError as error:
        if failed_machine(error):
            raise
        why = str(error).partition("\n")[0]
        raise UnsupportedError(
            "the gradient of the network's answer, which the choice of weights needs, cannot be "
            f"had ({why}): choose another solver and a sparsity for each layer"
        ) from error


class _Watch:
    """Takes down what one chunk of images tells."""

    def __init__(
        self,
        found: Observed,
        shapes: Mapping[str, Shapes],
        start: int,
        images: int,
        share: Tensor,
        last: str,
    ) -> None:
        self.found, self.shapes, self.share = found, shapes, share
        self.last = last
        self.versions: dict[tuple[str, int], int] = {}
        self.start, self.images = start, images
        self.uses: Counter[str] = Counter()

    def see(self, call: LayerCall) -> None:
        name, found = call.matrix.name, self.found
        shape, key = self.shapes[name], (name, self.uses[name])
        self.uses[name] += 1
        where = found.where[name].of(self.start, self.start + self.images, call.input.device)
        with torch.no_grad(), in_full(call.input.device):
            if len(where.image):
                piece = outputs_at(call, where, self.images, shape.output)
                found.targets.setdefault(key, []).append(piece)
                if key[1] > 0:
                    piece = inputs_at(call, where, self.images, shape.input)
                    found.later.setdefault(key, []).append(piece)
            if len(self.share) and name == self.last:
                energy = _energy(call, self.share, self.images, shape.input)
                found.energy = energy if not len(found.energy) else found.energy + energy
        self.versions[name, id(call.input)] = call.input._version

    def pull(self, use: LayerInput, gradient: Tensor | None) -> None:
        name, found = use.matrix.name, self.found
        if gradient is None:  # an operation after it has none
            return
        if use.input._version != self.versions[name, id(use.input)]:
            raise UnsupportedError(
                f"what layer {name!r} gets is overwritten in place after its use, and the choice "
                "of weights needs it: make the operation that does so not in place"
            )
        with torch.no_grad(), in_full(gradient.device):
            passed = _passed(use, gradient, len(self.share) / self.images)
        known = found.passed.get(name)
        found.passed[name] = passed if known is None else known + passed


def _passed(use: LayerInput, gradient: Tensor, scored: float) -> Tensor:
    """Squared inputs times squared gradients, summed over positions: ``(groups, rows, columns)``.

    Only the first images, a share ``scored`` of the batch, have a gradient.
    """
    matrix = use.matrix
    if use.geometry is None:
        x = wide(use.input.detach()).reshape(-1, matrix.columns).square()
        return (wide(gradient).reshape(-1, matrix.units).square().mT @ x)[None]
    x, geometry = use.planar()
    few = round(len(x) * scored)
    x = pad_input(wide(x[:few].detach()).square(), geometry)
    planar = use.planar_output(gradient)
    size = (matrix.units, matrix.columns // prod(geometry.kernel), *geometry.kernel)
    found: Tensor = conv2d_weight(
        x, size, wide(planar[:few]).square(),
        stride=geometry.stride, dilation=geometry.dilation, groups=matrix.groups,
    )  # fmt: skip
    return found.reshape(matrix.groups, matrix.rows, matrix.columns)


def _energy(call: LayerCall, share: Tensor, images: int, single: torch.Size) -> Tensor:
    """Weighted sum of squared inputs over positions, ``(groups, columns)``."""
    if call.geometry is None:
        x = wide(images_first(call.input.detach(), images, single)[: len(share)])
        return torch.einsum("npc,npc,n->c", x, x, share.to(x))[None]
    x = call.batched.detach()
    each = share.repeat_interleave(len(x) // images)
    squared = wide(x[: len(each)]).square() * each.reshape(-1, *[1] * (x.ndim - 1)).to(x.device)
    return replace(call, input=squared.sum(0, keepdim=True)).columns().sum(-1)
