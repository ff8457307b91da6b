r"""What the dense network tells, in one pass, about the layers that are to be pruned.

Two things are kept: the products of every layer at some positions, which a pruned layer is to
reproduce, and what the removal of a weight alone would cost in the network's *answer*, to second
order, with a Fisher matrix taken as diagonal and positions taken as independent:

.. math::

    \mathrm{cost}_{ij} = w_{ij}^2 \; \mathbb{E}[g_i^2] \; \sum_t \omega_t x_{jt}^2 ,

where :math:`g_i` is the gradient, at output *i* of the layer, of the logits weighted by a random
vector with the covariance of the softmax, :math:`\mathrm{diag}(p) - p p^\top`, and
:math:`\omega_t` the share of the image that position *t* belongs to. Costs of all layers have the
same unit, nats of the answer, so that one threshold can serve the whole network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sparsight.errors import UnsupportedError
from sparsight.networks import LayerCall, LayerInput, Network, Recording, WeightMatrix
from sparsight.networks.matrices import weight_of
from sparsight.traces.plan import Shapes
from sparsight.traces.positions import Positions, draw, images_first, inputs_at, outputs_at, wide
from sparsight.traces.precision import in_full

__all__ = ["Observed", "Sampling", "observe"]

Progress = Callable[[str, int, int], None]


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
        Of positions and of gradient directions.
    """

    fitted: int
    scored: int
    positions: int
    focus: float
    seed: int

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
    energy
        Weighted sum of squared inputs, ``(groups, columns)``.
    slope
        Mean squared gradient at the outputs, ``(groups * rows,)``.
    logits
        Dense answers, ``(images, classes)``.
    """

    where: dict[str, Positions]
    targets: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    later: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    energy: dict[str, Tensor] = field(default_factory=dict)
    slope: dict[str, Tensor] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def cost(self, network: Network, matrix: WeightMatrix) -> Tensor:
        """Return what the removal of each weight costs, ``(groups, rows, columns)``.

        A layer that no gradient reaches costs nothing.
        """
        squared = wide(weight_of(network.model, matrix)).square()
        energy = self.energy[matrix.name]
        slope = self.slope.get(matrix.name, energy.new_zeros(matrix.units))
        return squared * slope.reshape(matrix.groups, matrix.rows, 1) * energy[:, None]


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
    noise = torch.empty(0)
    for start in range(0, len(images), chunk):
        if progress is not None:
            progress("observing", start, len(images))
        batch = images[start : start + chunk].contiguous(memory_format=torch.channels_last)
        share = shares[start : start + chunk]
        watch = _Watch(found, shapes, start, len(batch), share)
        pull = watch.pull if len(share) else None
        with torch.set_grad_enabled(len(share) > 0):
            batch = batch.detach().requires_grad_(len(share) > 0)
            with Recording(network.model, matrices, watch.see, pull):
                logits = network(batch)
            if not answers:  # all draws at once, whatever the chunk
                size = (sampling.scored, logits.shape[1])
                noise = torch.randn(size, generator=generator).to(images.device)
            if len(share):
                _backward(logits, batch, share, noise[start : start + chunk])
        answers.append(logits.detach().to(images.dtype))
    found.logits = torch.cat(answers)
    return found


def _backward(logits: Tensor, batch: Tensor, share: Tensor, noise: Tensor) -> None:
    """Send gradients back whose covariance at the logits is that of the softmax, times share.

    ``noise`` is standard normal, one row for each image that has a share.
    """
    if not logits.requires_grad:
        raise UnsupportedError(
            "the network's answer has no gradient, which the choice of weights needs: let it run "
            "with gradients, or choose another solver and a sparsity for each layer"
        )
    p = logits[: len(share)].detach().float().softmax(-1)
    noise = p.sqrt() * noise
    direction = (noise - p * noise.sum(-1, keepdim=True)) * share[:, None].sqrt()
    scalar = (logits[: len(share)] * direction.to(logits.dtype)).sum()
    torch.autograd.grad(scalar, batch, allow_unused=True)


class _Watch:
    """Takes down what one chunk of images tells."""

    def __init__(
        self,
        found: Observed,
        shapes: Mapping[str, Shapes],
        start: int,
        images: int,
        share: Tensor,
    ) -> None:
        self.found, self.shapes, self.share = found, shapes, share
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
            if len(self.share):
                energy = _energy(call, self.share, self.images, shape.input)
                known = found.energy.get(name)
                found.energy[name] = energy if known is None else known + energy

    def pull(self, use: LayerInput, gradient: Tensor) -> None:
        name, found = use.matrix.name, self.found
        rows = (
            gradient if use.geometry is None else gradient.movedim(-len(use.matrix.kernel) - 1, -1)
        )
        squared = wide(rows.detach()).reshape(-1, use.matrix.units).square().sum(0)
        slope = squared / (self.shapes[name].positions * self.shapes[name].uses)
        known = found.slope.get(name)
        found.slope[name] = slope if known is None else known + slope


def _energy(call: LayerCall, share: Tensor, images: int, single: torch.Size) -> Tensor:
    """Weighted sum of squared inputs over positions, ``(groups, columns)``."""
    if call.geometry is None:
        x = wide(images_first(call.input.detach(), images, single)[: len(share)])
        return torch.einsum("npc,npc,n->c", x, x, share.to(x))[None]
    x = call.batched.detach()
    each = share.repeat_interleave(len(x) // images)
    squared = wide(x[: len(each)]).square() * each.reshape(-1, *[1] * (x.ndim - 1)).to(x.device)
    return replace(call, input=squared.sum(0, keepdim=True)).columns().sum(-1)
