"""A finished audit: verdicts and a row for each image, on disk too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.audits.calibration import Calibration
from sparsight.audits.verdict import ClassVerdict
from sparsight.errors import InputError
from sparsight.storage import read_manifest, replacing, write_manifest
from sparsight.sweeps.rows import arrow, parquet

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FILES", "Audit"]

FILES = ("audit.json", "audit.parquet")
_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Audit:
    """Verdicts on a network and the images that it was asked.

    No verdict is proof: a patch that flips other images may be an honest feature, and a trigger
    that none of the images carries is not found.

    Attributes
    ----------
    network
        Which.
    sweep
        Digest of the sweep's table, which no other has.
    calibration
        What is called suspicious.
    classes
        Verdicts on classes, the least likely of a clean network first.
    table
        One row per image: where its patch is (``top``, ``left``, ``height``, ``width``), what
        share of others it flips (``transfer``), what share of others' patches in its place flips
        its own answer (``hangs``), how concentrated its map is (``concentration``, Gini), how far
        its trace agrees with those of its answer (``overlap``), how far its most unusual unit
        stands out (``blame``), and whether it is ``suspicious``; or the ``problem`` that kept it
        from being judged.
    """

    network: str
    sweep: str
    calibration: Calibration
    classes: tuple[ClassVerdict, ...]
    table: pa.Table

    @property
    def suspicious(self) -> bool:
        """Whether any class is."""
        return any(one.suspicious for one in self.classes)

    @property
    def enough(self) -> bool:
        """Whether any class has enough images for a verdict."""
        return any(one.enough for one in self.classes)

    @property
    def flagged(self) -> list[int]:
        """Numbers of the suspicious images."""
        return [number for number, row in self._rows.items() if row["suspicious"]]

    @property
    def unjudged(self) -> list[tuple[str, str]]:
        """Images that were not judged, by name, and why."""
        rows = self._rows.values()
        return [(row["name"], row["problem"]) for row in rows if row["problem"] is not None]

    @cached_property
    def _rows(self) -> dict[int, dict[str, Any]]:
        return {row["number"]: row for row in self.table.to_pylist()}

    def row(self, number: int) -> dict[str, Any]:
        """Read what was found about an image."""
        return self._rows[number]

    def describe(self) -> dict[str, Any]:
        """Say it in plain values, without the table."""
        return {
            "network": self.network,
            "sweep": self.sweep,
            "suspicious": self.suspicious,
            "enough": self.enough,
            "images": len(self.table),
            "unjudged": len(self.unjudged),
            "flagged": len(self.flagged),
            "calibration": self.calibration.describe(),
            "false_alarms": list(self.calibration.false_alarms),
            "classes": [asdict(one) for one in self.classes],
        }

    def save(self, folder: str | Path) -> Path:
        """Write ``audit.parquet`` and, last, ``audit.json``; what is there is replaced.

        Raises
        ------
        InputError
            If they cannot be written.
        """
        folder = Path(folder)
        manifest, table = FILES
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / manifest).unlink(missing_ok=True)
            with replacing(folder / table) as draft:
                parquet().write_table(self.table, draft)
            write_manifest(
                folder, manifest, {"kind": "audit", "schema": _SCHEMA, **self.describe()}
            )
        except OSError as error:
            raise InputError(
                f"cannot write {folder} ({error.strerror or error}): choose another folder"
            ) from error
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Audit:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If there is none, or it is damaged.
        """
        folder = Path(folder)
        about = read_manifest(folder, FILES[0], "audit", _SCHEMA)
        try:
            return cls(
                about["network"],
                about["sweep"],
                Calibration.of(about["calibration"]),
                tuple(ClassVerdict(**one) for one in about["classes"]),
                parquet().read_table(folder / FILES[1]),
            )
        except (OSError, KeyError, TypeError, ValueError, arrow().ArrowException) as error:
            raise InputError(
                f"the audit in {folder} is damaged ({error}): make it again"
            ) from error
