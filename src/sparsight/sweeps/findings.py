"""What a sweep says as a whole: shares with intervals, and what goes with mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsight.robust.evaluate import wilson
from sparsight.sweeps.result import Sweep

__all__ = ["Estimate", "findings"]

_Z = 1.959964  # of an interval of 95 %


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval.

    Of a share it is Wilson's, of a mean the normal one, and of an area under the curve that of
    DeLong et al. (1988).

    Attributes
    ----------
    value, low, high
        The number and its interval.
    count
        Images that it is of.
    """

    value: float
    low: float
    high: float
    count: int

    @classmethod
    def share(cls, hits: np.ndarray) -> Estimate:
        """Estimate a share, of flags."""
        right, count = int(hits.sum()), len(hits)
        return cls(right / count, *wilson(right, count), count)

    @classmethod
    def mean(cls, values: np.ndarray) -> Estimate:
        """Estimate a mean, of two values or more."""
        middle, error = values.mean(), _Z * values.std(ddof=1) / np.sqrt(len(values))
        return cls(float(middle), float(middle - error), float(middle + error), len(values))

    @classmethod
    def area(cls, scores: np.ndarray, marked: np.ndarray) -> Estimate:
        """Estimate how well scores tell marked ones; some must be marked and some not."""
        above, below = _placed(scores, marked)
        spread = above.var(ddof=1) / len(above) if len(above) > 1 else 0.0
        spread += below.var(ddof=1) / len(below) if len(below) > 1 else 0.0
        area, error = float(above.mean()), _Z * float(np.sqrt(spread))
        return cls(area, max(0.0, area - error), min(1.0, area + error), len(scores))

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


def _placed(scores: np.ndarray, marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say what share of the others each marked one beats, and what share beats each other one."""
    from scipy.stats import rankdata

    ranks, above, below = rankdata(scores), int(marked.sum()), int((~marked).sum())
    beats = (ranks[marked] - rankdata(scores[marked])) / below
    beaten = 1 - (ranks[~marked] - rankdata(scores[~marked])) / above
    return beats, beaten


def findings(found: Sweep) -> dict[str, Estimate | int]:
    """Summarise a sweep.

    Parameters
    ----------
    found
        A finished sweep.

    Returns
    -------
    dict
        ``images`` and ``unusable``; as estimates ``right`` answers, traces that ``changed`` the
        answer, mean ``sparsity``, and as far as labels are known: mean sparsity of right and of
        wrong answers, and how well mistakes are told by low confidence, by low sparsity, by
        large KL divergence and by a changed answer (area under the curve, 0.5 is chance). What
        there is nothing to say about is left out.
    """
    frame = found.table.to_pydict()
    fit = np.array([why is None for why in frame["problem"]])
    result: dict[str, Estimate | int] = {"images": len(fit), "unusable": int((~fit).sum())}

    def column(name: str) -> np.ndarray | None:
        if name not in frame:
            return None
        values = np.array(frame[name], dtype=object)[fit]
        return None if any(v is None for v in values) or not len(values) else values.astype(float)

    wrong, changed, sparsity = (column(name) for name in ("wrong", "changed", "sparsity"))
    if wrong is not None:
        result["right"] = Estimate.share(wrong == 0)
    if changed is not None:
        result["changed"] = Estimate.share(changed == 1)
    groups = {"sparsity": slice(None)} if wrong is None else {
        "sparsity": slice(None),
        "sparsity of right answers": wrong == 0, "sparsity of wrong answers": wrong == 1,
    }  # fmt: skip
    for name, chosen in groups.items():
        if sparsity is not None and len(sparsity[chosen]) > 1:
            result[name] = Estimate.mean(sparsity[chosen])
    if wrong is None or wrong.all() or not wrong.any():
        return result
    scores = {
        "low confidence": (-1, column("confidence")), "low sparsity": (-1, sparsity),
        "large kl": (1, column("kl")), "changed answer": (1, changed),
    }  # fmt: skip
    for name, (sign, values) in scores.items():
        if values is not None:
            result[f"mistakes told by {name}"] = Estimate.area(sign * values, wrong == 1)
    return result
