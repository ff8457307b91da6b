"""What a measurement of speed found, on disk and off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any

from sparsight.errors import InputError
from sparsight.storage import read_manifest, save_report

__all__ = ["SpeedReport"]

_KIND = "speed report"
_SCHEMA = 1
_RATIOS = [
    ("trace", "forward"),
    ("trace", "fastest forward"),
    ("published", "trace"),
    ("trace of all views", "forward"),
    ("published", "trace of all views"),
    ("trace in bfloat16", "forward"),
    ("published", "trace in bfloat16"),
    ("published", "default trace"),
]


@dataclass(frozen=True)
class SpeedReport:
    """Seconds of everything that was timed, and what they were measured on.

    Attributes
    ----------
    network, weights
        Which network, and where its weights are from.
    image
        Which image, and its size.
    augmentations
        Views of the forward passes, the trace and the published steps.
    repeats
        How often each was to be timed, the published steps excepted.
    settings
        Of a trace with all its defaults.
    layers
        Number of layers pruned by ``trace`` and ``published``.
    machine
        As :func:`sparsight.benchmarks.machine.describe_machine` says.
    seconds
        By what was timed: ``forward`` (views as they come, in batches), ``fastest forward``
        (channels last, in the chunks of a trace), ``trace``, ``default trace`` (if that has
        another number of views), ``solver NAME`` for traces by other solvers, ``published``.
    stages
        Seconds of the stages of each trace, and of the published steps.
    memory
        GiB at most, as :func:`sparsight.benchmarks.peak_memory` says.
    notes
        What the reader must know.
    versions
        Of the libraries.
    """

    network: str
    weights: str
    image: str
    augmentations: int
    repeats: int
    settings: Mapping[str, Any]
    layers: Mapping[str, int]
    machine: Mapping[str, Any]
    seconds: Mapping[str, tuple[float, ...]]
    stages: Mapping[str, Mapping[str, tuple[float, ...]]]
    memory: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def medians(self) -> dict[str, float]:
        """Median seconds of what was timed so far."""
        return {name: median(values) for name, values in self.seconds.items() if values}

    @property
    def stage_medians(self) -> dict[str, dict[str, float]]:
        """Median seconds of the stages of each trace, and of the published steps."""
        return {
            name: {stage: median(values) for stage, values in parts.items()}
            for name, parts in self.stages.items()
        }

    @property
    def ratios(self) -> dict[str, float]:
        """Ratios of medians: a trace in forward passes, the published steps in traces.

        ``default trace`` is the trace itself if that has the default number of views.
        """
        found = self.medians
        if "default trace" not in self.seconds and "trace" in found:
            found["default trace"] = found["trace"]
        return {
            f"{above} over {below}": found[above] / found[below]
            for above, below in _RATIOS
            if above in found and below in found
        }

    @property
    def rounds(self) -> int:
        """Repeats that are complete; fewer than ``repeats`` after an interruption."""
        return min((len(v) for name, v in self.seconds.items() if name != "published"), default=0)

    def describe(self) -> dict[str, Any]:
        """Plain values for JSON, with medians and ratios for those who only read."""
        return asdict(self) | {
            "medians": self.medians,
            "stage_medians": self.stage_medians,
            "ratios": self.ratios,
        }

    def save(self, file: str | Path) -> Path:
        """Write the report as JSON, whole or not at all; what is there is replaced.

        Raises
        ------
        InputError
            If the file cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> report = SpeedReport(
        ...     "net", "random", "noise", 64, 1, {}, {}, {},
        ...     {"forward": (2.0,), "trace": (3.0,)}, {"trace": {"solve": (1.0,)}},
        ... )
        >>> with tempfile.TemporaryDirectory() as home:
        ...     again = SpeedReport.load(report.save(f"{home}/speed.json"))
        >>> again == report, again.ratios
        (True, {'trace over forward': 1.5})
        """
        return save_report(file, _KIND, _SCHEMA, self.describe())

    @classmethod
    def load(cls, file: str | Path) -> SpeedReport:
        """Read a saved report.

        Raises
        ------
        InputError
            If the file holds none, or a damaged one.
        """
        file = Path(file)
        content = read_manifest(file.parent, file.name, _KIND, _SCHEMA)
        try:
            found = {each.name: content[each.name] for each in fields(cls)}
            found["seconds"] = {k: tuple(v) for k, v in found["seconds"].items()}
            found["stages"] = {
                name: {k: tuple(v) for k, v in parts.items()}
                for name, parts in found["stages"].items()
            }
            found["notes"] = tuple(found["notes"])
            return cls(**found)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"the speed report {file} is damaged ({error}): measure again"
            ) from error

    def __repr__(self) -> str:
        parts = [f"{name} {spent:.3g} s" for name, spent in self.medians.items()]
        return f"SpeedReport({self.network!r}, {self.augmentations} views; {', '.join(parts)})"
