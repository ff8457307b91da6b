"""Prune every layer by itself, as published: dense inputs, dense targets.

One pass of the dense network over the views accumulates the second moment of each layer's input;
then each layer is one sparse regression, whatever becomes of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sparsight.errors import NumericalError
from sparsight.networks import LayerCall, Network, Recording, WeightMatrix
from sparsight.networks.matrices import parameter_of, weight_of
from sparsight.traces.layers import LayerTrace
from sparsight.traces.moments import Moment, moment_for
from sparsight.traces.plan import Plan
from sparsight.traces.precision import in_full
from sparsight.traces.solvers import Moments, solve_at
from sparsight.traces.views import require_answers

__all__ = ["record", "solve_layers"]

Progress = Callable[[str, int, int], None]

_CHOICE = 64  # weights among which a mask decision should at least choose


def record(
    network: Network,
    views: Tensor,
    matrices: Sequence[WeightMatrix],
    plan: Plan,
    chunk: int,
    progress: Progress | None,
) -> tuple[dict[str, Moment], dict[str, Tensor]]:
    """Return second moments by leading layer, and squared outputs by layer."""
    moments: dict[str, Moment] = {}
    outputs: dict[str, Tensor] = {}
    leaders = {plan.leader[matrix.name] for matrix in matrices}
    recorded = [m for m in plan.order if m in matrices or m.name in leaders]

    def add(call: LayerCall) -> None:
        name = call.matrix.name
        with in_full(call.input.device):
            squared = call.squared_output()
            outputs[name] = outputs[name] + squared if name in outputs else squared
            if name in leaders:
                if name not in moments:
                    moments[name] = moment_for(call, len(views))
                moments[name].add(call)

    if not matrices:
        return moments, outputs

    with torch.no_grad(), Recording(network.model, recorded, add):
        for start in range(0, len(views), chunk):
            if progress is not None:
                progress("recording", start, len(views))
            answers = network(views[start : start + chunk])
            require_answers(answers, start + 1)
    return moments, outputs


def _block(matrix: WeightMatrix) -> int:
    """Columns that share a mask decision: one input channel, or enough for a choice to exist."""
    return max(matrix.block, -(-_CHOICE // matrix.rows)) if matrix.block == 1 else matrix.block


def _shared(solver: str, matrix: WeightMatrix, block: int) -> int:
    """Weights that a solver decides on together, one of which it keeps at least."""
    if solver == "sparsegpt":
        return matrix.rows * min(block, matrix.columns)
    return matrix.columns if solver == "wanda" else matrix.rows * matrix.columns


def _solve(
    network: Network,
    matrix: WeightMatrix,
    sparsities: Sequence[float],
    moment: Moments,
    output: Tensor,
    settings: tuple[str, float],
) -> list[tuple[Tensor, LayerTrace]]:
    """Solve one layer at several sparsities: the sparse matrix and what became of it."""
    solver, damping = settings
    block = _block(matrix)
    size = _shared(solver, matrix, block)
    spared = [round(sparsity * size) == size for sparsity in sparsities]
    least = [
        (size - 1) / size if one else asked for asked, one in zip(sparsities, spared, strict=True)
    ]
    weight = weight_of(network.model, matrix)
    weight = weight if weight.dtype == torch.float64 else weight.float()
    try:
        solutions = solve_at(solver, weight, moment, least, block, damping)
    except NumericalError as error:
        raise NumericalError(f"layer {matrix.name!r}: {error}") from error
    total = float(output)
    found = []
    for asked, one, solution in zip(sparsities, spared, solutions, strict=True):
        zeros = float((solution.weight == 0).double().mean())
        relative = (solution.lost / total) ** 0.5 if total > 0 else 0.0
        notes = [f"one weight kept of each {size}"] if one else []
        notes += [solution.note] if solution.note else []
        row = LayerTrace.of(matrix, asked, zeros, relative, solution.damping, "; ".join(notes))
        found.append((solution.weight, row))
    return found


def solve_layers(
    network: Network,
    matrices: Sequence[WeightMatrix],
    ratios: Sequence[Mapping[str, float]],
    recorded: tuple[dict[str, Moment], dict[str, Tensor]],
    plan: Plan,
    settings: tuple[str, float],
    progress: Progress | None,
) -> list[tuple[dict[str, Tensor], dict[str, LayerTrace]]]:
    """Solve the layers one after another; moments are let go as soon as they are used.

    For each set of ratios: pruned parameters, and what became of the layers.

    Parameters
    ----------
    network, matrices, plan
        What to solve.
    ratios
        Sets of sparsities by layer; a layer with 0 stays as it is.
    recorded
        What :func:`record` returned; emptied.
    settings
        Name of the solver, and damping.
    progress
        Called as ``progress(stage, done, total)``.
    """
    moments, outputs = recorded
    found: list[tuple[dict[str, Tensor], dict[str, LayerTrace]]] = [({}, {}) for _ in ratios]
    done = 0
    for leader in list(moments):
        moment = moments.pop(leader).result()
        for matrix in (m for m in matrices if plan.leader[m.name] == leader):
            if progress is not None:
                progress("solving", done, len(matrices))
            done += 1
            name = matrix.name
            asked = sorted({wanted[name] for wanted in ratios} - {0})
            solved = _solve(network, matrix, asked, moment, outputs[name], settings)
            known = dict(zip(asked, solved, strict=True))
            for wanted, (tensors, rows) in zip(ratios, found, strict=True):
                if wanted[name] == 0:
                    continue
                weight, rows[name] = known[wanted[name]]
                if matrix.parameter not in tensors:
                    tensors[matrix.parameter] = parameter_of(network.model, matrix).clone()
                matrix.write(tensors[matrix.parameter], weight)
    return found
