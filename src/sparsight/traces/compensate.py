r"""Prune a network for one sample front to back, each layer making up for those before it.

Layers are taken in the order of use. Each sees the inputs :math:`\hat x_t` that the layers pruned
before it really deliver, and fits what the *dense* network computes at the same positions. With
``F`` what a row keeps and ``P`` the rest,

.. math::

    \min_{v} \; \sum_t \omega_t \, (w x_t - v \hat x_t)^2 + \lambda \|v - w\|^2, \qquad v_P = 0,

so errors do not add up along the network. Of a row that keeps many weights, those that pass most on
(128 by default) are fitted and the others stay as they are: that is plenty to make up for what is
gone, and bounds the work. The network runs once: a layer is solved at the moment
it is first used, and what comes after it sees the result. No more than one layer's inputs are
held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparsight.errors import NumericalError
from sparsight.networks import LayerInput, Network, Recording, WeightMatrix, overlay
from sparsight.networks.matrices import parameter_of, weight_of
from sparsight.traces.moments import gram
from sparsight.traces.observe import Observed
from sparsight.traces.plan import Shapes
from sparsight.traces.positions import inputs_at
from sparsight.traces.precision import in_full
from sparsight.traces.solvers import LowRank, Solution
from sparsight.traces.solvers.factor import absolute_damping
from sparsight.traces.solvers.magnitude import notes
from sparsight.traces.solvers.patterns import Pattern, select
from sparsight.traces.solvers.refit import least_squares

__all__ = ["Compensated", "compensate", "keep_by_layer", "keep_over_network"]

Progress = Callable[[str, int, int], None]

_PER_CLASS = 4  # weights that each class keeps
_GATHERED = 40  # products that take as long as fetching the samples of one input
_GRAM = 0.62  # share of a Gram matrix that is computed
_SPARSE = 16  # weights per weight that is not zero from which a sparse product is faster


@dataclass(frozen=True, eq=False)
class Compensated:
    """A network pruned front to back.

    Attributes
    ----------
    tensors
        Pruned parameters by name.
    solutions
        By layer. Of these, ``lost`` is relative to the squared norm of the target.
    logits
        Answers of the pruned network, ``(images, classes)``.
    """

    tensors: dict[str, Tensor]
    solutions: dict[str, Solution]
    logits: Tensor


def keep_over_network(
    network: Network, observed: Observed, matrices: Sequence[WeightMatrix], sparsity: float
) -> dict[str, Tensor]:
    """Mark the costliest weights of all layers together, ``(groups, rows, columns)`` by layer.

    Weights that cost nothing at all go too, beyond the share. Each class keeps the four weights
    that pass most on, whatever they cost: that is next to nothing for an improbable class, but to
    second order only, and without weights it would get the probability that its bias gives it.
    """
    costs = {matrix.name: observed.cost(network, matrix) for matrix in matrices}
    flat = torch.cat([cost.flatten() for cost in costs.values()])
    pruned = min(round(sparsity * len(flat)), len(flat) - 1)
    threshold = _smallest(flat, pruned) if pruned > 0 else flat.new_full((), -1.0)
    keep = {name: cost > threshold for name, cost in costs.items()}
    last = matrices[-1]
    if last.units == observed.logits.shape[-1]:
        passed = weight_of(network.model, last).square() * observed.energy[:, None]
        few = passed.topk(min(_PER_CLASS, last.columns), dim=2).indices
        keep[last.name] = keep[last.name].scatter(2, few, True)
    return keep


def _smallest(values: Tensor, number: int) -> Tensor:
    """Return the smallest but so many of many values; ``number`` counts from 1."""
    if values.device.type != "cpu":
        return values.kthvalue(number).values
    found = np.partition(values.numpy(), number - 1)[number - 1]  # ten times faster
    return values.new_tensor(found)


def keep_by_layer(
    network: Network,
    observed: Observed,
    matrices: Sequence[WeightMatrix],
    sparsity: Mapping[str, float | None],
    pattern: Pattern,
) -> dict[str, Tensor]:
    """Mark the costliest weights of each layer, as many as its sparsity and the pattern leave."""
    return {
        m.name: select(observed.cost(network, m), sparsity[m.name], pattern, m.block)
        for m in matrices
    }


@torch.no_grad()
def compensate(
    network: Network,
    images: Tensor,
    matrices: Sequence[WeightMatrix],
    shapes: Mapping[str, Shapes],
    observed: Observed,
    keep: Mapping[str, Tensor],
    damping: float,
    refitted: int,
    fitted: int,
    chunk: int,
    progress: Progress | None = None,
) -> Compensated:
    """Run the network and prune each layer when it is first used.

    Parameters
    ----------
    network
        In evaluation mode; as it was afterwards.
    images
        Those that were observed, ``(1 + views, C, H, W)``.
    matrices
        Layers to prune.
    shapes
        By layer.
    observed
        What the dense network told of these layers and images.
    keep
        Which weights stay, ``(groups, rows, columns)`` by layer.
    damping
        Relative to the mean squared input of a layer, over inputs that are not always zero.
    refitted
        Weights of a row that are fitted at most.
    fitted
        Images that layers are fitted on, from the first; they go through in one batch.
    chunk
        How many of the others go through in one pass.
    progress
        Called as ``progress(stage, done, total)``.

    Raises
    ------
    NumericalError
        If a layer cannot be solved (named).
    """
    solutions: dict[str, Solution] = {}
    tensors = {m.parameter: parameter_of(network.model, m) for m in matrices}

    def solve(use: LayerInput) -> None:
        matrix, name = use.matrix, use.matrix.name
        if name in solutions:
            return
        if progress is not None:
            progress("solving", len(solutions), len(matrices))
        with in_full(use.input.device):
            x, y = _fitted_on(use, observed, shapes[name], fitted)
            weight = weight_of(model, matrix).to(x.dtype)
            try:
                solutions[name] = _solve(weight, x, y, keep[name].to(x.device), damping, refitted)
            except NumericalError as error:
                raise NumericalError(f"layer {name!r}: {error}") from error
        matrix.write(model.get_parameter(matrix.parameter), solutions[name].weight)

    with overlay(network.model, tensors) as model:
        batches = [images[:fitted], *images[fitted:].split(chunk)]
        with Recording(model, matrices, on_input=solve):
            answers = [network(batches[0])]
        answers += [network(batch) for batch in batches[1:] if len(batch)]
        pruned = {name: model.get_parameter(name).detach().clone() for name in tensors}
    return Compensated(pruned, solutions, torch.cat(answers).to(images.dtype))


def _fitted_on(
    use: LayerInput, observed: Observed, shape: Shapes, images: int
) -> tuple[Tensor, Tensor]:
    """Return what a layer sees, ``(groups, positions, columns)``, and its targets, root-weighted.

    A layer that is used again later is fitted on the dense network's inputs to those uses.
    """
    name = use.matrix.name
    where = observed.where[name].of(0, images, use.input.device)
    inputs = [inputs_at(use, where, images, shape.input)]
    inputs += [torch.cat(observed.later[name, i], 1) for i in range(1, shape.uses)]
    targets = [torch.cat(observed.targets[name, i], 1) for i in range(shape.uses)]
    root = where.weight.sqrt().to(inputs[0])[:, None]
    x, y = (
        torch.cat([part * root for part in parts], 1) if shape.uses > 1 else parts[0].mul_(root)
        for parts in (inputs, targets)
    )
    return x, y


def _solve(
    weight: Tensor, x: Tensor, y: Tensor, keep: Tensor, damping: float, refitted: int
) -> Solution:
    """Fit ``y`` by ``x`` times sparse weights; all with groups in front."""
    energy = x.square().sum(1)
    dead, ridge = absolute_damping(energy, damping)
    keep = keep & ~dead[:, None]
    kept = weight * keep
    moving = _largest_few(kept.square() * energy[:, None], keep, refitted)
    z = x.mT.contiguous()
    left = y.mT - _times(kept, z)
    if _few(moving):
        solved = least_squares(weight, LowRank(z), moving, ridge, left)
    else:
        moment = torch.stack([gram(part) for part in x])
        solved = least_squares(weight, moment, moving, ridge, left @ x)
    solved = solved + kept * ~moving
    total = float(y.double().square().sum())
    lost = float((left - _times(solved.to(x) - kept, z)).double().square().sum())
    return Solution(
        solved, lost / total if total > 0 else 0.0, float(ridge.mean()), notes(solved, dead)
    )


def _few(moving: Tensor) -> bool:
    """Whether systems are cheaper made from samples, row by row, than read from a Gram matrix."""
    sizes = moving.sum(2).double()
    from_samples = float(sizes.square().sum() + _GATHERED * sizes.sum())
    read = float(sizes.square().sum()) / 2
    return from_samples < _GRAM * moving.shape[0] * moving.shape[2] ** 2 + read


def _times(weight: Tensor, z: Tensor) -> Tensor:
    """Product of sparse weights and samples, ``(groups, rows, samples)``."""
    few = int(weight.count_nonzero()) * _SPARSE < weight.numel()
    if z.device.type == "cpu" and few:  # elsewhere sums would come in any order
        pairs = zip(weight, z, strict=True)
        return torch.stack([torch.sparse.mm(w.to_sparse(), part) for w, part in pairs])
    return weight @ z


def _largest_few(score: Tensor, keep: Tensor, most: int) -> Tensor:
    """Mark what is kept of each row, but no more than so many of the largest scores."""
    if keep.shape[2] <= most or int(keep.sum(2).max()) <= most:
        return keep
    largest = score.masked_fill(~keep, -1).topk(most, dim=2, sorted=False).indices
    return torch.zeros_like(keep).scatter_(2, largest, True) & keep
