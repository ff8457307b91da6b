"""What a sweep says as a whole: shares with intervals, and what goes with mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsight.robust.evaluate import wilson
from sparsight.sweeps.result import Sweep

__all__ = ["Estimate", "findings"]

_DRAWS = 2000
_LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval: Wilson's of a share, else by the bootstrap over images.

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

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


Columns = dict[str, np.ndarray]


def _estimate(of: Callable[[Columns], float], values: Columns, seed: int) -> Estimate | None:
    """Estimate a number of columns; nothing where there is too little to tell."""
    count = len(next(iter(values.values())))
    with np.errstate(invalid="ignore", divide="ignore"):
        value = of(values) if count else float("nan")
        if not np.isfinite(value):
            return None
        rng = np.random.default_rng(seed)
        drawn = np.array([
            of({name: v[chosen] for name, v in values.items()})
            for chosen in (rng.integers(0, count, count) for _ in range(_DRAWS))
        ])  # fmt: skip
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Estimate(float(value), float(low), float(high), count)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def auc(scores: np.ndarray, marked: np.ndarray) -> float:
    """Chance that a marked one scores higher than one that is not; ties count half.

    Examples
    --------
    >>> auc(np.array([1.0, 2.0, 3.0]), np.array([False, True, True]))
    1.0
    """
    from sklearn.metrics import roc_auc_score

    if marked.all() or not marked.any():
        return float("nan")
    return float(roc_auc_score(marked, scores))


def findings(found: Sweep, *, seed: int = 0) -> dict[str, Estimate | int]:
    """Summarise a sweep.

    Parameters
    ----------
    found
        A finished sweep.
    seed
        Of the bootstrap.

    Returns
    -------
    dict
        ``images`` and ``unusable``; as estimates ``right`` answers, traces that ``changed`` the
        answer, mean ``sparsity``, and as far as labels are known: mean sparsity of right and of
        wrong answers, and how well mistakes are told by low ``confidence``, by low ``sparsity``, by
        large ``kl`` and by a changed answer (area under the curve, 0.5 is chance). What there is
        nothing to say about is left out.
    """
    frame = found.table.to_pydict()
    fit = np.array([why is None for why in frame["problem"]])
    result: dict[str, Any] = {"images": len(fit), "unusable": int((~fit).sum())}

    def column(name: str) -> np.ndarray | None:
        if name not in frame:
            return None
        values = np.array(frame[name], dtype=object)[fit]
        return None if any(v is None for v in values) else values.astype(float)

    wrong, changed = column("wrong"), column("changed")
    sparsity, kl, confidence = (column(name) for name in ("sparsity", "kl", "confidence"))

    def add(name: str, of: Callable[[Columns], float], **values: np.ndarray | None) -> None:
        known = {key: v for key, v in values.items() if v is not None}
        estimate = _estimate(of, known, seed) if len(known) == len(values) else None
        if estimate is not None:
            result[name] = estimate

    for name, hits in (("right", None if wrong is None else wrong == 0), ("changed", changed)):
        if hits is not None and len(hits):
            count = int(hits.sum())
            result[name] = Estimate(count / len(hits), *wilson(count, len(hits)), len(hits))
    add("sparsity", lambda c: _mean(c["s"]), s=sparsity)
    add("sparsity of right answers", lambda c: _mean(c["s"][c["w"] == 0]), s=sparsity, w=wrong)
    add("sparsity of wrong answers", lambda c: _mean(c["s"][c["w"] == 1]), s=sparsity, w=wrong)
    scores = {"low confidence": confidence, "low sparsity": sparsity, "large kl": kl,
              "changed answer": changed}  # fmt: skip
    for name, values in scores.items():
        sign = -1 if name.startswith("low") else 1
        add(
            f"mistakes told by {name}",
            lambda c, sign=sign: auc(sign * c["v"], c["w"] == 1),  # type: ignore[misc]
            v=values, w=wrong,
        )  # fmt: skip
    return result
