"""Scores of a map by the names of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sparsight.attribution.metrics import METRICS
from sparsight.benchmarks.maps.cases import Case
from sparsight.benchmarks.maps.row import Score
from sparsight.errors import InputError
from sparsight.networks import Network

__all__ = ["INSERTION", "LOCALISATION", "check_places", "score_by"]

LOCALISATION = ("roc_auc", "pointing_game", "relevance_mass", "relevance_rank")
"""Metrics of how well a map finds a known place."""

INSERTION = ("insertion", "deletion")
"""Metrics of how much the answer depends on the pixels that a map ranks first."""


_STEPS = 100  # of insertion and deletion, where there are as many pixels
_GIVEN = {"heat", "network", "image", "target", "mask"}


def check_places(metric: str, cases: Sequence[Case]) -> None:
    """Refuse a metric of places for cases without one.

    Raises
    ------
    InputError
        If there is such a case (named).
    """
    without = [case.key for case in cases if case.mask is None]
    if without and METRICS[metric].needs == "mask":
        raise InputError(
            f"metric {metric!r} needs a place, and {without[0]!r} has none: choose insertion or "
            "deletion"
        )


def score_by(metrics: Sequence[str], network: Network) -> Score:
    """Make a score of metrics; those of a place are left out where no place is known.

    Parameters
    ----------
    metrics
        Names in :data:`sparsight.attribution.metrics.METRICS`.
    network
        What insertion and deletion ask, the dense network.

    Raises
    ------
    InputError
        If there is no such metric.

    Examples
    --------
    >>> import torch
    >>> from sparsight.benchmarks.maps.cases import scene_cases
    >>> from sparsight.networks import load
    >>> network = load("embedded")
    >>> case = next(scene_cases(network, 1))
    >>> score_by(LOCALISATION, network)(case.mask.float(), case)["roc_auc"]
    1.0
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise InputError(f"unknown metric {unknown[0]!r}: choose from {', '.join(METRICS)}")
    for name in metrics:
        if not set(METRICS[name].arguments) <= _GIVEN:
            usable = [n for n, metric in METRICS.items() if set(metric.arguments) <= _GIVEN]
            raise InputError(f"metric {name!r} judges no map by itself: use {', '.join(usable)}")
    return _Scores(tuple(metrics), network)


@dataclass(frozen=True)
class _Scores:
    metrics: tuple[str, ...]
    network: Network

    def __call__(self, heat: Tensor, case: Case) -> dict[str, float]:
        given = {
            "heat": heat[None],
            "network": self.network,
            "image": case.x,
            "target": case.target,
        }
        if case.mask is not None:
            given["mask"] = case.mask[None]
        settings = {"steps": min(_STEPS, case.x[0, 0].numel())}
        return {
            name: float(METRICS[name](given, **(settings if name in INSERTION else {})))
            for name in self.metrics
            if case.mask is not None or METRICS[name].needs != "mask"
        }
