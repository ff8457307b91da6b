"""Shards of a sweep on disk: each there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsight.blame import Statistics
from sparsight.errors import InputError
from sparsight.networks.state import write_tensors
from sparsight.storage import atomic_folder, write_text
from sparsight.sweeps.look import Looked
from sparsight.sweeps.rows import Noted, arrow, noted_in, parquet, table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Shards"]

_ROWS, _MAPS, _PICTURES, _TRACES, _BLAME = (
    "rows.parquet", "maps.safetensors", "pictures.safetensors", "traces.safetensors",
    "blame.safetensors",
)  # fmt: skip
_NONE: dict[str, Any] = {"done": 0, "open": []}


class Shards:
    """The shards of a sweep in a folder.

    Parameters
    ----------
    folder
        The sweep's.
    token
        What tells this sweep from others: whoever still works on another one, because the process
        that asked for it was killed, writes elsewhere.
    """

    def __init__(self, folder: Path, token: str) -> None:
        self._home, self._at = folder / f"shards-{token[:12]}", folder / f"at-{token[:12]}"

    def folder(self, shard: int) -> Path:
        """Say where a shard is."""
        return self._home / f"{shard:06d}"

    def done(self) -> dict[int, Noted | None]:
        """List the shards that are there and what images they are of; remove damaged ones."""
        if not self._home.is_dir():
            return {}
        found = {}
        for place in self._home.iterdir():
            if not place.name.isdigit():
                continue
            try:
                schema = parquet().read_schema(place / _ROWS)
            except (OSError, arrow().ArrowException):
                shutil.rmtree(place)
            else:
                found[int(place.name)] = noted_in(schema)
        return found

    def remove(self, shard: int) -> None:
        """Remove a shard, to be done again."""
        shutil.rmtree(self.folder(shard))

    def tidy(self) -> None:
        """Remove what killed workers left behind."""
        for partial in self._home.glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(self._at, ignore_errors=True)

    def clear(self) -> None:
        """Remove all shards, of other sweeps in this folder too."""
        for name in ("shards", "at"):
            for place in self._home.parent.glob(f"{name}-*"):
                shutil.rmtree(place, ignore_errors=True)

    def write(self, shard: int, found: Looked, schema: pa.Schema) -> None:
        """Write a shard, unless another worker did so meanwhile.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        if self.folder(shard).exists():
            return
        try:
            with atomic_folder(self.folder(shard), ()) as fresh:
                parquet().write_table(table(found.rows, schema), fresh / _ROWS)
                with (fresh / _ROWS).open("rb+") as stream:
                    os.fsync(stream.fileno())
                for name, tensors in ((_MAPS, found.maps), (_PICTURES, found.pictures)):
                    if tensors:
                        write_tensors(fresh / name, tensors, {})
                if found.traces:
                    about = json.dumps(found.facts).encode()
                    facts = {"about": torch.frombuffer(bytearray(about), dtype=torch.uint8)}
                    write_tensors(fresh / _TRACES, found.traces | facts, {})
                if found.blame is not None:
                    found.blame.save(fresh / _BLAME)
        except InputError as error:
            raise InputError(f"{error}: make room if there is none, and run it again") from error

    def watch(self, shard: int, numbers: Collection[int], done: int) -> None:
        """Note which images of a shard are being looked at, for whoever asks, or comes after."""
        with suppress(OSError):  # progress is not worth an error; shards say what is done
            self._at.mkdir(parents=True, exist_ok=True)
            write_text(self._at / f"{shard}.json", json.dumps({"done": done, "open": [*numbers]}))

    def watched(self, shard: int) -> dict[str, Any]:
        """Read what was noted of a shard last."""
        try:
            found = json.loads((self._at / f"{shard}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return _NONE
        return found if isinstance(found, dict) else _NONE

    def forget(self, shard: int) -> None:
        """Remove what was noted of a shard."""
        (self._at / f"{shard}.json").unlink(missing_ok=True)

    def rows(self, shard: int) -> pa.Table:
        """Read the rows of a shard."""
        return parquet().read_table(self.folder(shard) / _ROWS)

    def blame(self, shard: int) -> Statistics | None:
        """Read the saliency of units of a shard's images, if there is any."""
        file = self.folder(shard) / _BLAME
        return Statistics.load(file) if file.exists() else None

    def usual(
        self, *, profiles: bool = False, told: Callable[[int], None] = lambda shard: None
    ) -> Statistics | None:
        """Put together what is usual for each unit over all shards, if there is anything."""
        found: Statistics | None = None
        for shard in sorted(self.done()):
            told(shard)
            part = self.blame(shard)
            if part is not None:
                part = part if profiles else replace(part, profiles=None)
                found = part if found is None else found.merge(part)
        return found

    def maps(self, shard: int, number: int) -> dict[tuple[str, str], Tensor]:
        """Read the maps of an image, float32, by method and side."""
        values = dict(self._tensors(shard, _MAPS, f"{number}/"))
        found = {}
        for name, heat in values.items():
            if not name.endswith("/scale"):
                method, side = name.split("/")
                found[method, side] = heat.float() * values[f"{name}/scale"]
        return found

    def picture(self, shard: int, number: int) -> bytes | None:
        """Read the picture of an image, an encoded file, if it was kept."""
        found = dict(self._tensors(shard, _PICTURES, str(number)))
        return found[""].numpy().tobytes() if found else None

    def trace(self, shard: int, number: int) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Read the parts of an image's trace, and the facts that go with them."""
        parts = dict(self._tensors(shard, _TRACES, f"{number}/"))
        if not parts:
            return None
        with safe_open(self.folder(shard) / _TRACES, "pt") as stored:
            about = json.loads(stored.get_tensor("about").numpy().tobytes())
        return parts, json.loads(about[str(number)])

    def _tensors(self, shard: int, name: str, start: str) -> Iterator[tuple[str, Tensor]]:
        file = self.folder(shard) / name
        if not file.exists():
            return
        try:
            with safe_open(file, "pt") as stored:
                for key in stored.keys():  # noqa: SIM118
                    if key == start or (start.endswith("/") and key.startswith(start)):
                        yield key.removeprefix(start), stored.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{file} cannot be read ({error}): delete its folder, and run the sweep again"
            ) from error
