"""Draw and score maps of every case on every arm; what is measured is kept at once."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor

from sparsight.attribution import attribute_many
from sparsight.attribution.metrics import BLIND
from sparsight.attribution.result import Reduction
from sparsight.benchmarks.maps.arms import Arm
from sparsight.benchmarks.maps.cases import Case
from sparsight.errors import InputError, SparsightError
from sparsight.networks import Network, overlay
from sparsight.storage import write_text

__all__ = ["Progress", "Row", "Score", "measure_maps", "read_rows"]

Progress = Callable[[str, int, int], None]
Score = Callable[[Tensor, Case], Mapping[str, float]]
"""From a map ``(H, W)`` and its case to values by metric."""

_ROWS, _SETTINGS = "rows.jsonl", "settings.json"


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
    """

    case: str
    arm: str
    scores: dict[str, dict[str, float]]
    refused: dict[str, str]
    seconds: float = 0.0
    kept: bool = True
    pruned: float = 0.0


def measure_maps(
    network: Network,
    cases: Sequence[Case],
    arms: Sequence[Arm],
    methods: Sequence[str],
    score: Score,
    folder: Path,
    *,
    settings: Mapping[str, Any],
    method_settings: Mapping[str, Mapping[str, Any]] | None = None,
    reduction: Reduction | None = None,
    calibration: Tensor | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Row]:
    """Score maps of all cases on all arms, and of maps that know no network.

    Rows are written to ``folder`` one by one. Those that are there already, of the same settings,
    are not measured again.

    Parameters
    ----------
    network
        The network to explain.
    cases
        Images with targets.
    arms
        Networks to draw maps on.
    methods
        Names of attribution methods.
    score
        Judges a map; called with maps ``(H, W)``.
    folder
        Made if it is not there.
    settings
        Whatever else decides about the rows, in plain values: rows of other settings in the folder
        are refused.
    method_settings
        Settings by method name.
    reduction
        How channels become one, for every method; each method's own if not given.
    calibration
        Normalised images ``(N, C, H, W)`` for arms that are pruned once.
    seed
        Of traces and of stochastic methods; the case's number is added.
    progress
        Called as ``progress(arm, done, total)``.

    Raises
    ------
    InputError
        If the folder holds rows of other settings, no case is given, or two have one name.
    """
    if not cases:
        raise InputError("no case to measure: no image fools the network, or none was found")
    names = Counter(case.key for case in cases)
    if names.most_common(1)[0][1] > 1:
        raise InputError(
            f"two images are called {names.most_common(1)[0][0]!r}: give them names of their own"
        )
    known = {(row.case, row.arm): row for row in _open(folder, settings)}
    total = len(cases) * (len(arms) + 1)
    done = 0
    rows = []
    with (folder / _ROWS).open("a", encoding="utf-8") as file:
        for arm in (None, *arms):
            name = arm.name if arm is not None else "blind"
            missing = [case for case in cases if (case.key, name) not in known]
            if arm is not None and missing and calibration is not None:
                arm.prepare(network, calibration)
            for number, case in enumerate(cases):
                if progress is not None:
                    progress(name, done, total)
                done += 1
                found = known.get((case.key, name))
                if found is None:
                    given = method_settings or {}
                    found = (
                        _blind(case, score, seed + number)
                        if arm is None
                        else _one(
                            network, case, arm, methods, given, reduction, score, seed + number
                        )
                    )
                    file.write(json.dumps(vars(found), allow_nan=False) + "\n")
                    file.flush()
                rows.append(found)
    return rows


def read_rows(folder: Path) -> list[Row]:
    """Read the rows in a folder; one that was cut off in the middle does not count.

    Raises
    ------
    InputError
        If there is no such file, or another line is damaged.
    """
    file = folder / _ROWS
    if not file.is_file():
        raise InputError(f"{folder} holds no {_ROWS}: give a folder that a benchmark wrote")
    lines = file.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise InputError(f"{file}, line {number}, is damaged: delete the line") from error
    return rows


def _open(folder: Path, settings: Mapping[str, Any]) -> list[Row]:
    """Make the folder, or read what is there of the same settings."""
    folder.mkdir(parents=True, exist_ok=True)
    known, rows = folder / _SETTINGS, folder / _ROWS
    text = json.dumps(settings, indent=2, sort_keys=True, allow_nan=False) + "\n"
    if known.is_file():
        if known.read_text(encoding="utf-8") != text:
            raise InputError(
                f"{folder} holds results of other settings ({_SETTINGS}): choose another folder"
            )
    elif rows.exists():
        raise InputError(f"{folder} holds rows of unknown settings: choose another folder")
    else:
        write_text(known, text)
    if not rows.exists():
        return []
    content = rows.read_text(encoding="utf-8")
    whole = content[: content.rfind("\n") + 1]
    if whole != content:  # the last line was cut off by an interruption
        rows.write_text(whole, encoding="utf-8")
    return read_rows(folder)


def _blind(case: Case, score: Score, seed: int) -> Row:
    scores = {}
    for name, draw in BLIND.items():
        heat = draw(case.x, seed)[0]
        scores[name] = _finite(score(heat, case))
    return Row(case.key, "blind", scores, {})


def _one(
    network: Network,
    case: Case,
    arm: Arm,
    methods: Sequence[str],
    method_settings: Mapping[str, Mapping[str, Any]],
    reduction: Reduction | None,
    score: Score,
    seed: int,
) -> Row:
    start = perf_counter()
    weights = arm.weights(network, case, seed)
    seconds = perf_counter() - start
    refused: dict[str, str] = {}
    with overlay(network.model, weights):
        answer = network.logits(case.x)[0]
        given = {name: method_settings[name] for name in methods if name in method_settings}
        maps = attribute_many(
            network, case.x, case.target, methods, seed=seed, settings=given, refusals=refused
        )
    scores = {}
    for name, found in maps.items():
        try:
            scores[name] = _finite(score(found.heat(reduction), case))
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
