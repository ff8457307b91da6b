"""What is read off maps: shares that compare, a scale that both sides share, and checks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparsight.reports.case import MapPair

__all__ = [
    "Grade",
    "Reading",
    "concentration",
    "grade_gap",
    "grade_kl",
    "inside",
    "rank_correlation",
    "read_pair",
    "shared_bound",
    "shares",
]

Heat = NDArray[np.float32]


def shares(heat: Heat) -> Heat | None:
    """Express relevance in units of an even spread: the map over the mean of its absolute values.

    1 is what each pixel would have if relevance were spread evenly. That makes the maps of two
    networks comparable, whose gradients differ in size. None for a map of zeros.

    Examples
    --------
    >>> shares(np.array([[3.0, -1.0]], np.float32)).tolist()
    [[1.5, -0.5]]
    """
    mean = float(np.abs(heat).mean(dtype=np.float64))
    if mean == 0 or not math.isfinite(mean):
        return None
    return np.asarray(heat.astype(np.float64) / mean, dtype=np.float32)


def shared_bound(maps: list[Heat], quantile: float = 0.995) -> float:
    """Find the end of the scale: the 99.5th percentile of absolute values of all maps together.

    The largest value where that percentile is zero.
    """
    if not maps:
        return 1.0
    values = np.abs(np.concatenate([heat.ravel() for heat in maps]))
    bound = float(np.quantile(values, quantile))
    return bound if bound > 0 else float(values.max()) or 1.0


def _ranks(values: Heat) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def rank_correlation(first: Heat, second: Heat) -> float | None:
    """Compute Spearman's rank correlation, ties averaged; None if a map is constant.

    Examples
    --------
    >>> a = np.array([[1.0, 2.0, 3.0]], np.float32)
    >>> rank_correlation(a, -a)
    -1.0
    """
    a, b = (ranks - ranks.mean() for ranks in (_ranks(first), _ranks(second)))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else None


def concentration(heat: Heat) -> float | None:
    """Find the smallest fraction of pixels that holds half of the absolute relevance.

    Examples
    --------
    >>> concentration(np.array([[0.0, 0.0, 5.0, 1.0]], np.float32))
    0.25
    """
    values = np.sort(np.abs(heat).ravel().astype(np.float64))[::-1]
    total = float(values.sum())
    if total == 0:
        return None
    return (int(np.searchsorted(np.cumsum(values), total / 2)) + 1) / values.size


def inside(heat: Heat, mask: NDArray[np.bool_]) -> float | None:
    """Measure the share of positive relevance that lies inside a mask; chance is the mask's area.

    Examples
    --------
    >>> inside(np.array([[3.0, 1.0]], np.float32), np.array([[True, False]]))
    0.75
    """
    weight = mask.astype(np.float32)
    if weight.shape != heat.shape:
        size = (heat.shape[1], heat.shape[0])
        weight = np.asarray(Image.fromarray(weight).resize(size, Image.Resampling.BOX))
    positive = heat.clip(0).astype(np.float64)
    total = float(positive.sum())
    return float((positive * weight).sum()) / total if total > 0 else None


@dataclass(frozen=True)
class Grade:
    """A word for a number, and the tone it is shown in: good, fair, bad or none."""

    word: str
    tone: str


def grade_gap(gap: float | None) -> Grade:
    """Judge how well a map sums to what it ought to.

    Examples
    --------
    >>> [grade_gap(gap).word for gap in (0.003, 0.04, 0.5, None)]
    ['adds up', 'roughly', 'does not add up', 'no check']
    """
    if gap is None:
        return Grade("no check", "none")
    if abs(gap) <= 0.01:
        return Grade("adds up", "good")
    return Grade("roughly", "fair") if abs(gap) <= 0.1 else Grade("does not add up", "bad")


def grade_kl(kl: float) -> Grade:
    """Judge how near the trace's class probabilities are to those of the dense network.

    Examples
    --------
    >>> grade_kl(0.02).word
    'close'
    """
    if kl <= 0.1:
        return Grade("close", "good")
    return Grade("drifted", "fair") if kl <= 0.5 else Grade("far", "bad")


@dataclass(frozen=True, eq=False)
class Reading:
    """A pair of maps in comparable shares, and what is read off them."""

    dense: Heat | None
    traced: Heat | None
    difference: Heat | None
    bound: float
    correlation: float | None
    dense_half: float | None
    traced_half: float | None
    dense_inside: float | None
    traced_inside: float | None


def read_pair(pair: MapPair, mask: NDArray[np.bool_] | None = None) -> Reading:
    """Normalise a pair, choose its scale, and measure it.

    Examples
    --------
    >>> pair = MapPair("m", "M", np.array([[2.0, 0.0]]), np.array([[30.0, 10.0]]))
    >>> read_pair(pair).difference.tolist()
    [[-0.5, 0.5]]
    """
    dense, traced = (
        None if side not in pair.heats else shares(pair.heats[side]) for side in ("dense", "traced")
    )
    both = dense is not None and traced is not None
    return Reading(
        dense=dense,
        traced=traced,
        difference=traced - dense if dense is not None and traced is not None else None,
        bound=shared_bound([heat for heat in (dense, traced) if heat is not None]),
        correlation=rank_correlation(pair.heats["dense"], pair.heats["traced"]) if both else None,
        dense_half=None if dense is None else concentration(dense),
        traced_half=None if traced is None else concentration(traced),
        dense_inside=None if dense is None or mask is None else inside(dense, mask),
        traced_inside=None if traced is None or mask is None else inside(traced, mask),
    )
