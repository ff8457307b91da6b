"""Sparse regression of one layer: pure tensor kernels behind one registry."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparsight.traces.solvers.factor import LowRank, Moments
from sparsight.traces.solvers.solution import Solution
from sparsight.traces.solvers.sparsegpt import sparsegpt

__all__ = ["SOLVERS", "LowRank", "Moments", "Solution", "Solver", "sparsegpt"]

Solver = Callable[[Tensor, Moments, float, int, float], Solution]
"""``(weight, moment, sparsity, block, damping) -> Solution``; see :func:`sparsegpt`."""

SOLVERS: dict[str, Solver] = {"sparsegpt": sparsegpt}
