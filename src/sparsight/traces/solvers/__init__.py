"""Sparse regression of one layer: pure tensor kernels behind one registry."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparsight.traces.solvers.factor import LowRank, Moments
from sparsight.traces.solvers.forward import forward
from sparsight.traces.solvers.magnitude import magnitude
from sparsight.traces.solvers.obs import obs
from sparsight.traces.solvers.patterns import Pattern, parse_pattern, select
from sparsight.traces.solvers.refit import refit
from sparsight.traces.solvers.solution import Solution
from sparsight.traces.solvers.sparsegpt import sparsegpt
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
