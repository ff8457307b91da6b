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
        Number of cases that every arm has.
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
    """

    metric: str
    cases: int
    means: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    closed: dict[str, Estimate]
    seconds: dict[str, float]
    kept: dict[str, float]
    pruned: dict[str, float]


def estimate(values: NDArray[np.float64], seed: int = 0) -> Estimate:
    """Return the mean of values, one per case, with its bootstrap interval.

    Examples
    --------
    >>> estimate(np.array([0.25, 0.25, 0.25]))
    Estimate(value=0.25, low=0.25, high=0.25)
    """
    draws = np.random.default_rng(seed).integers(0, len(values), (_DRAWS, len(values)))
    return _estimate(values, draws)


def summarise(rows: Sequence[Row], metric: str, best: float, seed: int = 0) -> Summary:
    """Summarise one metric.

    A case counts if every arm has a value there, a method if it has one for each of these cases on
    every arm.

    Parameters
    ----------
    rows
        Of all cases and arms.
    metric
        Its name in the rows' scores.
    best
        The value of a perfect map, to which the dense network's gap is measured.
    seed
        Of the bootstrap.

    Raises
    ------
    InputError
        If no case has a value on every arm.
    """
    by_arm: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_arm.setdefault(row.arm, {})[row.case] = row
    cases = [
        case
        for case in next(iter(by_arm.values()))
        if all(case in found and _has(found[case], metric) for found in by_arm.values())
    ]
    if not cases:
        raise InputError(f"no case has a value of {metric!r} on every arm: measure others")
    draws = np.random.default_rng(seed).integers(0, len(cases), (_DRAWS, len(cases)))
    tables = {arm: _table(found, cases, metric) for arm, found in by_arm.items()}
    arms = [arm for arm in tables if arm != "blind"]
    methods = [m for m in tables[arms[0]] if all(m in tables[arm] for arm in arms)]
    means: dict[str, dict[str, Estimate]] = {}
    differences: dict[str, dict[str, Estimate]] = {}
    closed: dict[str, Estimate] = {}
    for arm, table in tables.items():
        chosen = {m: table[m] for m in (table if arm == "blind" else methods)}
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
    )  # fmt: skip


def _has(row: Row, metric: str) -> bool:
    return any(metric in values for values in row.scores.values())


def _table(
    found: dict[str, Row], cases: Sequence[str], metric: str
) -> dict[str, NDArray[np.float64]]:
    """Values by method, of methods that have one for every case."""
    scores = [found[case].scores for case in cases]
    names = dict.fromkeys(method for score in scores for method in score)
    return {
        name: np.array([score[name][metric] for score in scores])
        for name in names
        if all(metric in score.get(name, {}) for score in scores)
    }


def _estimate(values: NDArray[np.float64], draws: NDArray[np.int64]) -> Estimate:
    low, high = np.quantile(values[draws].mean(1), (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high))


def _ratio(
    above: NDArray[np.float64], below: NDArray[np.float64], draws: NDArray[np.int64]
) -> Estimate | None:
    """Return a ratio of means; none if what it is divided by may be nothing."""
    divisor = below[draws].mean(1)
    if not (divisor > 0).all() and not (divisor < 0).all():
        return None
    low, high = np.quantile(above[draws].mean(1) / divisor, (0.025, 0.975))
    return Estimate(float(above.mean() / below.mean()), float(low), float(high))
