"""A finished sweep: its table, and what was kept of each image."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from sparsight.blame import Statistics
from sparsight.errors import InputError
from sparsight.storage import read_manifest
from sparsight.sweeps.rows import arrow, parquet
from sparsight.sweeps.shards import Shards
from sparsight.traces import Trace

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MANIFEST", "SCHEMA", "TABLE", "Sweep"]

MANIFEST, TABLE = "sweep.json", "table.parquet"
SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Sweep:
    """What was found about the images of a data set.

    The table alone is ``pandas.read_parquet(f"{folder}/table.parquet")``.

    Attributes
    ----------
    folder
        Where it is.
    about
        Network, settings, versions.
    table
        One row per image, see :func:`sparsight.sweeps.rows.columns`: ``problem`` says why one
        could not be used.
    """

    folder: Path
    about: Mapping[str, Any]
    table: pa.Table

    @classmethod
    def load(cls, folder: str | Path) -> Sweep:
        """Read a finished sweep.

        Raises
        ------
        InputError
            If the folder holds none, or one that is not finished.
        """
        folder = Path(folder)
        about = read_manifest(folder, MANIFEST, "sweep", SCHEMA)
        if not (folder / TABLE).is_file():
            raise InputError(f"the sweep in {folder} is not finished: run the same command again")
        try:
            found = parquet().read_table(folder / TABLE)
        except (OSError, arrow().ArrowException) as error:
            raise InputError(
                f"{folder / TABLE} cannot be read ({error}): delete it, and run the sweep again"
            ) from error
        return cls(folder, about, found)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"Sweep({self.about['network']!r}, {len(self)} images, {len(self.bad)} unusable)"

    @property
    def bad(self) -> list[tuple[str, str]]:
        """Images that could not be used, by name, and why."""
        names, why = (self.table.column(c).to_pylist() for c in ("name", "problem"))
        return [(name, text) for name, text in zip(names, why, strict=True) if text is not None]

    def label(self, index: int) -> str:
        """Name a class; ``class N`` where the network has no name for it."""
        names = self.about["labels"]
        return str(names[index]) if index < len(names) else f"class {index}"

    @cached_property
    def digest(self) -> str:
        """What tells this sweep's table from any other, even of the same images."""
        with (self.folder / TABLE).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    @cached_property
    def _shards(self) -> Shards:
        return Shards(self.folder, self.about["token"])

    def _shard(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise InputError(f"no image {number} in this sweep: there are {len(self)}")
        return number // int(self.about["settings"]["shard"])

    def maps(self, number: int) -> dict[tuple[str, str], Tensor]:
        """Read the maps of an image, ``(H, W)`` float32, by method and side; empty if not kept.

        They were kept in half precision, relative to their largest value.

        Raises
        ------
        InputError
            If there is no such image, or the file is damaged.
        """
        return self._shards.maps(self._shard(number), number)

    def picture(self, number: int) -> Image.Image:
        """Read what the network saw of an image.

        Raises
        ------
        InputError
            If it was not kept, or is damaged.
        """
        found = self._shards.picture(self._shard(number), number)
        if found is None:
            raise _unkept("picture", number)
        try:
            with Image.open(io.BytesIO(found)) as image:
                return image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(
                f"the picture of image {number} is damaged ({error}): sweep again"
            ) from error

    def row(self, number: int) -> dict[str, Any]:
        """Read the row of an image.

        Raises
        ------
        InputError
            If there is no such image.
        """
        self._shard(number)
        found: dict[str, Any] = self._rows[number]
        return found

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.table.to_pylist()
        return rows

    def trace(self, number: int, *, weights: bool = True) -> Trace:
        """Read the trace of an image, to the last bit.

        Parameters
        ----------
        number
            Of the image.
        weights
            Whether to unpack the weights too; answers and layers alone are read much faster.

        Raises
        ------
        InputError
            If it was not kept, or is damaged.
        """
        found = self._shards.trace(self._shard(number), number)
        if found is None:
            raise _unkept("trace", number)
        parts, facts = found
        return Trace.unpack(parts, facts, weights=weights)

    def statistics(self, *, profiles: bool = False) -> Statistics:
        """Put together what is usual for each unit over all images.

        Parameters
        ----------
        profiles
            Keep those of all images, for those that fail alike; 4 bytes for each image and unit.

        Raises
        ------
        InputError
            If blame was not looked at.
        """
        found = self._shards.usual(profiles=profiles)
        if found is None:
            raise InputError("this sweep did not look at blame: sweep again with do='blame'")
        return found


def _unkept(what: str, number: int) -> InputError:
    return InputError(
        f"the {what} of image {number} was not kept: sweep again with keep='{what}s' "
        "(--keep maps,pictures,traces)"
    )
