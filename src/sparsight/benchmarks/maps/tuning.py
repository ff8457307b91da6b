"""Ratios per block, tuned as published: greedily, on images whose Trojans are known.

SPADE (ICML 2024) gives each residual block one ratio of a grid. Blocks are decided from the output
to the input: each takes the ratio at which maps of *one* method score best, with later blocks as
decided and earlier ones dense. Since layers are solved by themselves, one solution per image, layer
and ratio serves the whole search.

What this asks for, masks of the very Trojan in question, nobody has for a new question. The search
is here to be compared with the rule that needs none (``auto``), and to say what a wrong ratio
costs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsight.attribution import attribute_many
from sparsight.attribution.metrics import METRICS
from sparsight.attribution.result import Reduction
from sparsight.benchmarks.maps.run import Progress
from sparsight.benchmarks.maps.score import check_places, score_by
from sparsight.benchmarks.maps.solutions import GRID, Solutions
from sparsight.benchmarks.maps.summary import Estimate, estimate
from sparsight.errors import InputError
from sparsight.networks import overlay
from sparsight.storage import write_text

__all__ = ["Sensitivity", "Tuned", "tune_ratios", "wrong_ratios"]


@dataclass(frozen=True)
class Tuned:
    """Ratios for one method.

    Attributes
    ----------
    method, metric
        What they were tuned for.
    ratios
        By block; a mapping that :func:`sparsight.trace` takes as its ``sparsity``.
    steps
        Mean score by block and ratio at the time when the block was decided.
    """

    method: str
    metric: str
    ratios: dict[str, float]
    steps: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Sensitivity:
    """What wrong ratios cost, by block and ratio.

    Attributes
    ----------
    method, metric
        What is scored.
    tuned
        Score with the ratios as they are.
    changed
        Difference from it, paired, with one block at another ratio; above 0 is a better map.
    everywhere
        Difference from it with one and the same ratio in every block.
    """

    method: str
    metric: str
    tuned: Estimate
    changed: dict[str, dict[str, Estimate]]
    everywhere: dict[str, Estimate]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Sensitivity:
        """Read what :func:`wrong_ratios` wrote."""
        return cls(
            content["method"],
            content["metric"],
            Estimate(**content["tuned"]),
            {
                block: {ratio: Estimate(**value) for ratio, value in changed.items()}
                for block, changed in content["changed"].items()
            },
            {ratio: Estimate(**value) for ratio, value in content["everywhere"].items()},
        )

    def markdown(self, ratios: Mapping[str, float]) -> str:
        """Render as a table: blocks from the output to the input."""
        lines = [
            f"| {self.method}: block | ratio | a step sparser | a step denser | worst ratio |",
            "|---|---:|---:|---:|---:|",
        ]
        for block, changed in self.changed.items():
            place = GRID.index(ratios[block])
            sparser = _cell(changed, GRID[place + 1 : place + 2])
            denser = _cell(changed, GRID[max(0, place - 1) : place])
            worst = min(changed, key=lambda ratio: changed[ratio].value)
            lines.append(
                f"| {block} | {ratios[block]:g} | {sparser} | {denser} | "
                f"{changed[worst].percent()} at {worst} |"
            )
        best = max(self.everywhere, key=lambda ratio: self.everywhere[ratio].value)
        lines.append(
            f"| all blocks alike, at best | {best} | | | {self.everywhere[best].percent()} |"
        )
        return "\n".join(lines)


def tune_ratios(
    solutions: Solutions,
    method: str,
    metric: str,
    file: Path,
    *,
    method_settings: Mapping[str, Mapping[str, Any]] | None = None,
    reduction: Reduction | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Search ratios greedily from the output to the input.

    Of ratios with the same mean score the larger is taken, as published. A map that the method
    refuses to draw, or that has no value, has the metric's worst one.

    Parameters
    ----------
    solutions
        Solved.
    method, metric
        What to tune for.
    file
        JSON, written after every block; a search that it holds goes on.
    method_settings
        Settings by method name.
    reduction
        How channels become one; the method's own if not given.
    progress
        Called as ``progress(stage, done, total)``.

    Raises
    ------
    InputError
        If the file holds another search, or there is no case, method or metric of that name.
    """
    judge = _Judge(solutions, method, metric, method_settings or {}, reduction)
    facts = {**solutions.facts(), **judge.facts()}
    ratios: dict[str, float] = {}
    steps: dict[str, dict[str, float]] = {}
    if file.is_file():
        known = _read(file, facts)
        ratios, steps = known["ratios"], known["steps"]
    for done, block in enumerate(reversed(solutions.blocks)):
        if progress is not None:
            progress(f"tuning {method}", done, len(solutions.blocks))
        if block in ratios:
            continue
        means = {r: float(judge.scores({**ratios, block: r}).mean()) for r in GRID}
        ratios[block] = max(GRID, key=lambda r: (means[r], r))
        steps[block] = {f"{r:g}": judge.sign * mean for r, mean in means.items()}
        content = {"facts": facts, "ratios": ratios, "steps": steps}
        write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return Tuned(method, metric, ratios, steps)


def wrong_ratios(
    solutions: Solutions,
    tuned: Tuned,
    file: Path,
    *,
    method_settings: Mapping[str, Mapping[str, Any]] | None = None,
    reduction: Reduction | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure what it costs to give one block, or all, another ratio.

    Parameters
    ----------
    solutions
        Solved; best of cases that ``tuned`` has not seen.
    tuned
        Ratios to depart from.
    file
        JSON, written at the end; if it holds this very measurement, that is read.
    method_settings, reduction, progress
        As in :func:`tune_ratios`.

    Raises
    ------
    InputError
        As :func:`tune_ratios`.
    """
    judge = _Judge(solutions, tuned.method, tuned.metric, method_settings or {}, reduction)
    facts = {**solutions.facts(), **judge.facts(), "ratios": tuned.ratios}
    if file.is_file():
        return Sensitivity.of(_read(file, facts))
    own = judge.scores(tuned.ratios)
    changed: dict[str, dict[str, Estimate]] = {}
    for done, (block, ratio) in enumerate(tuned.ratios.items()):
        if progress is not None:
            progress(f"wrong ratios for {tuned.method}", done, len(tuned.ratios) + 1)
        changed[block] = {
            f"{other:g}": estimate(judge.scores({**tuned.ratios, block: other}) - own)
            for other in GRID
            if other != ratio
        }
    everywhere = {
        f"{ratio:g}": estimate(judge.scores(dict.fromkeys(solutions.blocks, ratio)) - own)
        for ratio in GRID
    }
    shown = estimate(judge.sign * own)
    found = Sensitivity(tuned.method, tuned.metric, shown, changed, everywhere)
    content = {"facts": facts, **asdict(found)}
    write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return found


class _Judge:
    """Scores of one method's maps on all cases, the higher the better."""

    def __init__(
        self,
        solutions: Solutions,
        method: str,
        metric: str,
        method_settings: Mapping[str, Mapping[str, Any]],
        reduction: Reduction | None,
    ) -> None:
        if not solutions.cases:
            raise InputError("no case to tune on: no image fools the network, or none was found")
        self.solutions, self.method, self.metric = solutions, method, metric
        check_places(metric, solutions.cases)
        self.settings = {k: v for k, v in method_settings.items() if k == method}
        self.reduction: Reduction | None = reduction
        self.score = score_by([metric], solutions.network)
        self.sign = 1.0 if METRICS[metric].direction == "higher" else -1.0
        self.worst = METRICS[metric].worst

    def facts(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "metric": self.metric,
            "settings": {name: dict(given) for name, given in self.settings.items()},
            "reduction": self.reduction or "own",
        }

    def scores(self, ratios: Mapping[str, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
        found = [self._one(number, ratios) for number in range(len(self.solutions.cases))]
        return self.sign * np.array(found)

    def _one(self, number: int, ratios: Mapping[str, float]) -> float:
        network, case = self.solutions.network, self.solutions.cases[number]
        with overlay(network.model, self.solutions.weights(number, ratios)):
            maps = attribute_many(
                network, case.x, case.target, [self.method],
                seed=self.solutions.seed + number, settings=self.settings, refusals={},
            )  # fmt: skip
        if self.method not in maps:
            return self.worst
        values = self.score(maps[self.method].heat(self.reduction), case)
        return values[self.metric] if math.isfinite(values[self.metric]) else self.worst


def _read(file: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Read what is known, if it is of the same."""
    try:
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        same = known["facts"] == facts
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged: delete it") from error
    if not same:
        raise InputError(f"{file} holds another measurement: choose another folder")
    return known


def _cell(changed: Mapping[str, Estimate], ratios: Sequence[float]) -> str:
    return changed[f"{ratios[0]:g}"].percent() if ratios else ""
