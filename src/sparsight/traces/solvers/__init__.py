"""Sparse regression of one layer: pure tensor kernels behind one registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from sparsight.traces.solvers.factor import LowRank, Moments
from sparsight.traces.solvers.forward import forward
from sparsight.traces.solvers.magnitude import magnitude
from sparsight.traces.solvers.obs import obs, prepare_obs
from sparsight.traces.solvers.patterns import Pattern, parse_pattern, select
from sparsight.traces.solvers.refit import refit
from sparsight.traces.solvers.solution import Solution
from sparsight.traces.solvers.sparsegpt import prepare_sparsegpt, sparsegpt
from sparsight.traces.solvers.wanda import wanda

__all__ = [
    "SOLVERS",
    "LowRank",
    "Moments",
    "Pattern",
    "Solution",
    "Solver",
    "forward",
    "magnitude",
    "obs",
    "parse_pattern",
    "refit",
    "select",
    "solve_at",
    "sparsegpt",
    "wanda",
]

Solver = Callable[[Tensor, Moments, float, int, float], Solution]
"""``(weight, moment, sparsity, block, damping) -> Solution``; see :func:`sparsegpt`."""

SOLVERS: dict[str, Solver] = {
    "sparsegpt": sparsegpt,
    "obs": obs,
    "forward": forward,
    "refit": refit,
    "wanda": wanda,
    "magnitude": magnitude,
}

_PREPARE: dict[str, Callable[[Tensor, Moments, int, float], Callable[[float], Solution]]] = {
    "sparsegpt": prepare_sparsegpt,
    "obs": prepare_obs,
}


def solve_at(
    solver: str,
    weight: Tensor,
    moment: Moments,
    sparsities: Sequence[float],
    block: int,
    damping: float,
) -> list[Solution]:
    """Solve one layer at several sparsities, with one factorisation where the solver can.

    Parameters
    ----------
    solver
        A name in :data:`SOLVERS`.
    weight, moment, block, damping
        As for :func:`sparsegpt`.
    sparsities
        Each as for :func:`sparsegpt`.

    Returns
    -------
    list of Solution
        Each what the solver alone gives.

    Raises
    ------
    NumericalError
        As the solver.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(16, 100)
    >>> weight, moment = torch.randn(1, 8, 16), (x @ x.T)[None]
    >>> found = solve_at("obs", weight, moment, [0.5, 0.75], 1, 0.01)
    >>> [int((one.weight == 0).sum()) for one in found]
    [64, 96]
    """
    if solver not in _PREPARE or not any(sparsities):
        return [SOLVERS[solver](weight, moment, s, block, damping) for s in sparsities]
    solve = _PREPARE[solver](weight, moment, block, damping)
    return [solve(s) if s else Solution(weight.clone(), 0.0, 0.0) for s in sparsities]
