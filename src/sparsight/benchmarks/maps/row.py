"""Scores of one case on one arm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from torch import Tensor

from sparsight.attribution import attribute_many
from sparsight.attribution.metrics import BLIND
from sparsight.attribution.result import Reduction
from sparsight.benchmarks.maps.arms import Arm
from sparsight.benchmarks.maps.cases import Case
from sparsight.errors import SparsightError
from sparsight.networks import Network, overlay

__all__ = ["Measure", "Row", "Score"]

Score = Callable[[Tensor, Case], Mapping[str, float]]
"""From a map ``(H, W)`` and its case to values by metric."""


@dataclass(frozen=True)
class Row:
    """Scores of one case on one arm.

    Attributes
    ----------
    case, arm
        Names.
    scores
        Values by method and metric; for maps that know no network the method is ``""``.
    refused
        Why a method gave no map, by method.
    seconds
        What it took to get the arm's weights.
    kept
        Whether the arm's network gives the dense network's answer.
    pruned
        Share of the network's parameters that the arm changed to zero.
    of
        What tells the case and the arm from others of the same names.
    """

    case: str
    arm: str
    scores: dict[str, dict[str, float]]
    refused: dict[str, str]
    seconds: float = 0.0
    kept: bool = True
    pruned: float = 0.0
    of: str = ""


@dataclass(frozen=True)
class Measure:
    """How rows are measured; ``None`` among the arms stands for maps that know no network.

    Attributes
    ----------
    network, cases, arms, methods, method_settings, reduction, score, seed
        See :func:`sparsight.benchmarks.maps.measure_maps`.
    """

    network: Network
    cases: tuple[Case, ...]
    arms: tuple[Arm | None, ...]
    methods: tuple[str, ...]
    method_settings: Mapping[str, Mapping[str, Any]]
    reduction: Reduction | None
    score: Score
    seed: int

    def key(self, arm: int, case: int) -> tuple[str, str]:
        """Return the names of the case and of the arm."""
        found = self.arms[arm]
        return self.cases[case].key, "blind" if found is None else found.name

    def row(self, arm: int, case: int) -> Row:
        """Measure a case on an arm."""
        found = self.arms[arm]
        seed = self.seed + case
        return self._blind(case, seed) if found is None else self._drawn(found, case, seed)

    def _blind(self, number: int, seed: int) -> Row:
        case = self.cases[number]
        scores = {
            name: _finite(self.score(draw(case.x, seed)[0], case)) for name, draw in BLIND.items()
        }
        return Row(case.key, "blind", scores, {})

    def _drawn(self, arm: Arm, number: int, seed: int) -> Row:
        network, case = self.network, self.cases[number]
        start = perf_counter()
        weights = arm.weights(network, case, seed)
        seconds = perf_counter() - start
        refused: dict[str, str] = {}
        given = {m: self.method_settings[m] for m in self.methods if m in self.method_settings}
        with overlay(network.model, weights):
            answer = network.logits(case.x)[0]
            maps = attribute_many(
                network, case.x, case.target, self.methods,
                seed=seed, settings=given, refusals=refused,
            )  # fmt: skip
        scores = {}
        for name, found in maps.items():
            try:
                scores[name] = _finite(self.score(found.heat(self.reduction), case))
            except SparsightError as error:
                refused[name] = str(error)
        dense = network.logits(case.x)[0]
        total = sum(p.numel() for p in network.model.parameters())
        zero = sum(int((value == 0).sum()) for value in weights.values())
        return Row(
            case.key, arm.name, scores, refused, seconds,
            bool(answer.argmax() == dense.argmax()), zero / total,
        )  # fmt: skip


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
