"""Draw and score maps of every case on every arm; what is measured is kept at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsight.attribution.result import Reduction
from sparsight.benchmarks.maps.arms import Arm
from sparsight.benchmarks.maps.cases import Case, digest
from sparsight.benchmarks.maps.row import Measure, Row, Score
from sparsight.benchmarks.maps.workers import spread
from sparsight.errors import InputError
from sparsight.networks import Network
from sparsight.storage import write_text

__all__ = ["Progress", "Row", "Score", "check_settings", "measure_maps", "read_rows"]

Progress = Callable[[str, int, int], None]

_ROWS, _SETTINGS = "rows.jsonl", "settings.json"


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
    workers: int = 1,
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
        Whatever else decides about the rows, in plain values. Rows of other settings in the folder
        are refused, and so are those of other weights, cases, arms or calibration images.
    method_settings
        Settings by method name.
    reduction
        How channels become one, for every method; each method's own if not given.
    calibration
        Normalised images ``(N, C, H, W)`` for arms that are pruned once.
    seed
        Of traces and of stochastic methods; the case's number is added.
    workers
        Processes that measure side by side, each with its share of the cores and a copy of the
        network.
    progress
        Called as ``progress(arm, done, total)``.

    Raises
    ------
    InputError
        If the folder holds rows of other settings, no case is given, two have one name, or the
        network cannot be copied to other processes.
    """
    if not cases:
        raise InputError("no case to measure: no image fools the network, or none was found")
    names = Counter(case.key for case in cases)
    if names.most_common(1)[0][1] > 1:
        raise InputError(
            f"two images are called {names.most_common(1)[0][0]!r}: give them names of their own"
        )
    images = {} if calibration is None else {"calibration images": calibration}
    whole = {**settings, "of": digest(network.model.state_dict() | images)}
    known = {(row.case, row.arm): row for row in _open(folder, whole)}
    measure = Measure(
        network, tuple(cases), (None, *arms), tuple(methods), method_settings or {}, reduction,
        score, seed,
    )  # fmt: skip
    jobs = [(arm, case) for arm in range(len(measure.arms)) for case in range(len(cases))]
    shown = [case.digest() for case in cases]
    of = {(a, c): f"{shown[c]}, {_told(measure.arms[a])}" for a, c in jobs}
    for job in jobs:
        if (row := known.get(measure.key(*job))) is not None and row.of != of[job]:
            raise InputError(
                f"{folder} holds a row of another image called {row.case!r}, or of another "
                f"{row.arm!r}: choose another folder"
            )
    missing = [job for job in jobs if measure.key(*job) not in known]
    for number in sorted({arm for arm, _ in missing}):
        arm = measure.arms[number]
        if arm is not None and calibration is not None:
            arm.prepare(network, calibration)
    with (folder / _ROWS).open("a", encoding="utf-8") as file:
        measured = {measure.key(*job): of[job] for job in missing}
        for done, found in enumerate(spread(measure, missing, workers), len(jobs) - len(missing)):
            row = replace(found, of=measured[found.case, found.arm])
            if progress is not None:
                progress(row.arm, done + 1, len(jobs))
            file.write(json.dumps(vars(row), allow_nan=False) + "\n")
            file.flush()
            known[row.case, row.arm] = row
    return [known[measure.key(*job)] for job in jobs]


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
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise InputError(f"{file}, line {number}, is damaged: delete the line") from error
    return rows


def _told(arm: Arm | None) -> str:
    return "blind" if arm is None else arm.describe()


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make a folder and write into it what its content is of, or see that it is of the same.

    Raises
    ------
    InputError
        If the folder holds something else, or cannot be made.
    """
    known = folder / _SETTINGS
    text = json.dumps(settings, indent=2, sort_keys=True, allow_nan=False) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not known.is_file():
            if any(folder.iterdir()):
                raise InputError(f"{folder} holds something else: choose another folder")
            write_text(known, text)
        elif known.read_bytes() != text.encode():
            raise InputError(
                f"{folder} holds results of other settings, images or weights ({_SETTINGS}): "
                "choose another folder"
            )
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write to {folder} ({reason}): choose another folder") from error


def _open(folder: Path, settings: Mapping[str, Any]) -> list[Row]:
    """Make the folder, or read what is there of the same settings."""
    check_settings(folder, settings)
    rows = folder / _ROWS
    if not rows.exists():
        return []
    content = rows.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:  # the last line was cut off by an interruption
        rows.write_bytes(whole)
    return read_rows(folder)
