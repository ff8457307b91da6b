"""Means over cases with intervals, differences from the dense network, and the gap closed.

Intervals are percentile bootstrap intervals over *cases*: all arms and methods of a drawn case come
with it, so that differences are paired and the mean over methods is resampled as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsight.benchmarks.maps.run import Row
from sparsight.errors import InputError

__all__ = ["Estimate", "Summary", "estimate", "summarise"]

_DRAWS = 2000
_LEAST_GAP = 0.05  # of the mean gap: where it may be smaller, no share of it is told


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def percent(self, digits: int = 1) -> str:
        """Write as per cent with the interval in brackets.

        Examples
        --------
        >>> Estimate(0.5, 0.25, 0.75).percent()
        '50.0 [25.0, 75.0]'
        """
        return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(
            *(100 * x for x in (self.value, self.low, self.high)), d=digits
        )


@dataclass(frozen=True)
class Summary:
    """One metric over all cases.

    Attributes
    ----------
    metric
        Its name.
    cases
        Number of cases that the metric applies to.
    means
        By arm and method; ``"mean"`` is over methods, ``"blind"`` the arm of maps that know no
        network.
    differences
        From the dense network, by arm and method, paired.
    closed
        Share of the dense network's distance to the best value that an arm closes, by arm, for the
        mean over methods; missing where the dense network may have no such distance.
    seconds
        Median to get an arm's weights, by arm.
    kept, pruned
        Share of cases whose answer the arm keeps, and mean share of weights that are gone.
    lacking
        On how many cases a method gave an arm no map, or one that has no value, by arm and method.
        They count as the worst value.
    left_out
        Methods that the first arm has no value of at all.
    """

    metric: str
    cases: int
    means: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    closed: dict[str, Estimate]
    seconds: dict[str, float]
    kept: dict[str, float]
    pruned: dict[str, float]
    lacking: dict[str, dict[str, int]]
    left_out: tuple[str, ...]


def estimate(values: NDArray[np.float64], seed: int = 0) -> Estimate:
    """Return the mean of values, one per case, with its bootstrap interval.

    Examples
    --------
    >>> estimate(np.array([0.25, 0.25, 0.25]))
    Estimate(value=0.25, low=0.25, high=0.25)
    """
    draws = np.random.default_rng(seed).integers(0, len(values), (_DRAWS, len(values)))
    return _estimate(values, draws)


def summarise(
    rows: Sequence[Row], metric: str, best: float, worst: float, seed: int = 0
) -> Summary:
    """Summarise one metric.

    A case counts if the metric applies to it, which is where any map has a value; a method, if the
    first arm has a value of it anywhere. What an arm lacks of these counts as the worst value, so
    that no arm is better for maps that it failed to give.

    Parameters
    ----------
    rows
        Of all cases and arms.
    metric
        Its name in the rows' scores.
    best
        The value of a perfect map, to which the dense network's gap is measured.
    worst
        The value of no map.
    seed
        Of the bootstrap.

    Raises
    ------
    InputError
        If no case, or no method, has a value.
    """
    by_arm: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_arm.setdefault(row.arm, {})[row.case] = row
    applies = {row.case for row in rows if _has(row, metric)}
    cases = [case for case in next(iter(by_arm.values())) if case in applies]
    if not cases:
        raise InputError(f"no case has a value of {metric!r}: measure others")
    draws = np.random.default_rng(seed).integers(0, len(cases), (_DRAWS, len(cases)))
    arms = [arm for arm in by_arm if arm != "blind"]
    methods, left_out = _methods(by_arm[arms[0]], cases, metric)
    if not methods:
        raise InputError(f"no method has a value of {metric!r}: choose others")
    tables = {
        arm: _table(
            found, cases, metric, methods if arm in arms else _methods(found, cases, metric)[0]
        )
        for arm, found in by_arm.items()
    }
    counted = {
        arm: {m: int(np.isnan(values).sum()) for m, values in tables[arm].items()} for arm in arms
    }
    lacking = {arm: {m: n for m, n in one.items() if n} for arm, one in counted.items()}
    for table in tables.values():
        for values in table.values():
            values[np.isnan(values)] = worst
    means: dict[str, dict[str, Estimate]] = {}
    differences: dict[str, dict[str, Estimate]] = {}
    closed: dict[str, Estimate] = {}
    for arm, table in tables.items():
        chosen = dict(table)
        if arm != "blind":
            chosen["mean"] = np.mean(list(chosen.values()), 0)
        means[arm] = {m: _estimate(values, draws) for m, values in chosen.items()}
        if arm in ("blind", "dense") or "dense" not in tables:
            continue
        dense = {m: tables["dense"][m] for m in methods}
        dense["mean"] = np.mean(list(dense.values()), 0)
        differences[arm] = {m: _estimate(chosen[m] - dense[m], draws) for m in chosen}
        share = _ratio(chosen["mean"] - dense["mean"], best - dense["mean"], draws)
        if share is not None:
            closed[arm] = share
    return Summary(
        metric, len(cases), means, differences, closed,
        {a: float(np.median([r.seconds for r in by_arm[a].values()])) for a in arms},
        {a: float(np.mean([r.kept for r in by_arm[a].values()])) for a in arms},
        {a: float(np.mean([r.pruned for r in by_arm[a].values()])) for a in arms},
        {a: found for a, found in lacking.items() if found}, left_out,
    )  # fmt: skip


def _has(row: Row, metric: str) -> bool:
    return any(metric in values for values in row.scores.values())


def _methods(
    found: dict[str, Row], cases: Sequence[str], metric: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the methods that have a value anywhere, and those that have none."""
    rows = [found[case] for case in cases]
    tried = dict.fromkeys(m for row in rows for m in (*row.scores, *row.refused))
    have = tuple(m for m in tried if any(metric in row.scores.get(m, {}) for row in rows))
    return have, tuple(m for m in tried if m not in have)


def _table(
    found: dict[str, Row], cases: Sequence[str], metric: str, methods: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Values by method, NaN where there is none."""
    scores = [found[case].scores for case in cases]
    return {m: np.array([s.get(m, {}).get(metric, np.nan) for s in scores]) for m in methods}


def _estimate(values: NDArray[np.float64], draws: NDArray[np.int64]) -> Estimate:
    low, high = np.quantile(values[draws].mean(1), (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high))


def _ratio(
    above: NDArray[np.float64], below: NDArray[np.float64], draws: NDArray[np.int64]
) -> Estimate | None:
    """Return a ratio of means; none if what it is divided by may be next to nothing."""
    divisor, mean = below[draws].mean(1), float(below.mean())
    if mean == 0 or (divisor / mean).min() < _LEAST_GAP:
        return None
    low, high = np.quantile(above[draws].mean(1) / divisor, (0.025, 0.975))
    return Estimate(float(above.mean() / below.mean()), float(low), float(high))
