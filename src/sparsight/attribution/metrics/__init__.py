"""Metrics that judge a map, and blind maps that every table of results must carry.

Where the *mask* makes a value undefined the call is refused; where the *map* does (it has no
positive relevance, or is constant) the value is NaN, so that one degenerate map does not stop a
table. :data:`METRICS` lists all metrics with direction, range and needs.
"""

from sparsight.attribution.metrics.blind import BLIND, centre_map, edge_map, random_map
from sparsight.attribution.metrics.curves import Curve, deletion, insertion
from sparsight.attribution.metrics.faithfulness import infidelity, sensitivity
from sparsight.attribution.metrics.localization import (
    pointing_game,
    relevance_mass,
    relevance_rank,
    roc_auc,
)
from sparsight.attribution.metrics.randomisation import Randomisation, randomise
from sparsight.attribution.metrics.ranks import average_ranks, rank_correlation
from sparsight.attribution.metrics.registry import METRICS, Metric

__all__ = [
    "BLIND",
    "METRICS",
    "Curve",
    "Metric",
    "Randomisation",
    "average_ranks",
    "centre_map",
    "deletion",
    "edge_map",
    "infidelity",
    "insertion",
    "pointing_game",
    "random_map",
    "randomise",
    "rank_correlation",
    "relevance_mass",
    "relevance_rank",
    "roc_auc",
    "sensitivity",
]
