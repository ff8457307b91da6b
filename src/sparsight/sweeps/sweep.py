"""Look at a whole data set, on one machine or many, and go on where it was interrupted."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from sparsight.blame.scores import score
from sparsight.blame.usual import fingerprint
from sparsight.errors import InputError
from sparsight.networks import Network, Units, weight_matrices
from sparsight.storage import library_versions, read_manifest, replacing, write_manifest
from sparsight.sweeps.items import Item, Sample
from sparsight.sweeps.pool import Progress, Setup, here, on_workers
from sparsight.sweeps.result import MANIFEST, SCHEMA, TABLE, Sweep
from sparsight.sweeps.rows import arrow, blame_columns, noted_in, parquet
from sparsight.sweeps.settings import SweepSettings
from sparsight.sweeps.shards import Shards
from sparsight.traces import COMPENSATED, allocate

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["sweep"]

_LOCK = ".lock"
_BLAMED = 10  # units named in a row


def sweep(
    network: Network,
    samples: Iterable[Sample | tuple[Sample, int | str | None]],
    out: str | Path,
    settings: SweepSettings | None = None,
    *,
    workers: int = 0,
    address: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Sweep:
    """Look at every image of a data set: answers, traces, maps, blame; one row each.

    Rows do not depend on how many workers there are. The same call goes on where it was
    interrupted. An image that cannot be used gets a row that says why, and the others go on.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    samples
        Files, PIL images, normalised tensors, or arrays ``(C, H, W)`` of uint8, each with its
        class or without: all of them with one, or none.
    out
        Folder of the result. Workers on other machines must see it under this name.
    settings
        What is done to each; or ``options`` of :meth:`SweepSettings.of`.
    workers
        Processes of Ray, each with the network; none to look at one image after the other here.
    address
        Of a Ray cluster; by default one is begun on this machine, on loopback.
    overwrite
        Replace a sweep that is finished, or of something else.
    progress
        Called as ``progress("images", done, total)``.

    Raises
    ------
    InputError
        No samples, unusable settings, a folder that holds something else, no room on the disk,
        Ray missing; or if no image at all could be used.
    NetworkError, UnsupportedError
        A network that cannot be looked at so.

    Examples
    --------
    >>> import tempfile, torch, sparsight
    >>> network = sparsight.load("embedded")
    >>> images = [(torch.randn(3, 64, 64), 1), (torch.randn(3, 64, 64), 2)]
    >>> found = sweep(network, images, tempfile.mkdtemp(), do="trace", augmentations=4)
    >>> found.table.column("label").to_pylist(), "sparsity" in found.table.column_names
    ([1, 2], True)
    """
    parquet()
    if settings is not None and options:
        raise InputError(f"settings and {next(iter(options))} are given: put all into settings")
    settings = settings or SweepSettings.of(**options)
    network.require_eval()
    if settings.solver != COMPENSATED and "trace" in settings.do:
        allocate(settings.sparsity, weight_matrices(network.model))
    if workers < 0:
        raise InputError(f"{workers} workers: give 0 or more")
    if address is not None and not workers:
        raise InputError(f"address {address} without workers: give workers=1 or more")
    items = _items(network, samples)
    folder = Path(os.path.abspath(out))
    about = {
        "network": network.spec, "images": len(items), "settings": settings.describe(),
        "fingerprint": fingerprint(network.model), "labels": list(network.labels),
        "preprocessing": repr(network.preprocessing), "device": network.device.type,
        "versions": library_versions(),
    }  # fmt: skip
    token = about["token"] = _digest(network, about, items)
    about["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    with _claimed(folder):
        shards = _prepared(folder, about, overwrite=overwrite)
        setup = Setup(network, "cpu", settings, items, folder, token)
        former = shards.done()
        there = {shard for shard, noted in former.items() if setup.unchanged(shard, noted)}
        todo = [shard for shard in range(setup.count) if shard not in there]
        if todo or not (folder / TABLE).exists():
            (folder / TABLE).unlink(missing_ok=True)
            for shard in former.keys() - there:  # some of its files have changed
                shards.remove(shard)
            done = sum(len(setup.images(shard)) for shard in there)
            tell = progress or (lambda stage, done, total: None)
            if todo and workers:
                if network.device.type != "cpu":
                    apart = copy.deepcopy(network.model).to("cpu")
                    setup = replace(
                        setup, network=replace(network, model=apart), device=network.device.type
                    )
                on_workers(setup, todo, tell, done, workers=workers, address=address)
            else:
                here(setup, todo, tell, done)
            tell("images", len(items), len(items))
            _finish(folder, shards, setup, tell)
        shards.tidy()
    return Sweep.load(folder)


def _items(
    network: Network, samples: Iterable[Sample | tuple[Sample, int | str | None]]
) -> list[Item]:
    items = []
    for number, given in enumerate(samples):
        sample, label = given if isinstance(given, tuple) else (given, None)
        index = None if label is None else network.class_index(label)
        items.append(Item.of(number, sample, index))
    if not items:
        raise InputError("no images: give files, a folder, or a data set")
    bare = next((item.name for item in items if item.label is None), None)
    if bare is not None and any(item.label is not None for item in items):
        raise InputError(f"{bare} has no class, others have one: give all of them one, or none")
    return items


def _digest(network: Network, about: Mapping[str, Any], items: Sequence[Item]) -> str:
    """Tell this sweep from another: by all that shapes it, files by name alone: they may change."""
    facts = [about, repr(network.model)]
    found = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for item in items:
        stamp = "" if isinstance(item.sample, Path) else item.stamp
        found.update(f"{item.name}\0{item.label}\0{stamp}\0".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Keep two sweeps from writing into the same folder at once."""
    if folder.is_file():
        raise InputError(f"{folder} is a file: choose another folder")
    strange = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if strange and not {MANIFEST, _LOCK} & set(strange):
        raise InputError(
            f"{folder} holds {strange[0]}, which is no part of a sweep: choose another folder"
        )
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"another sweep is at work in {folder}: wait for it, or choose another folder"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot write {folder} ({error.strerror or error}): choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _prepared(folder: Path, about: dict[str, Any], *, overwrite: bool) -> Shards:
    """Go on with what is there if it is of the same sweep; else begin, or refuse."""
    shards = Shards(folder, about["token"])
    if (folder / MANIFEST).exists():
        former: str | None
        try:
            former = read_manifest(folder, MANIFEST, "sweep", SCHEMA).get("token")
        except InputError:
            former = None
        if former == about["token"] and not (overwrite and (folder / TABLE).exists()):
            shards.tidy()
            return shards
        if not overwrite:
            raise InputError(
                f"{folder} holds a sweep of other images, weights, settings or versions: choose "
                "another folder, or replace it with overwrite=True (--overwrite)"
            )
        for name in (TABLE, MANIFEST):
            (folder / name).unlink(missing_ok=True)
        shards.clear()
    try:
        write_manifest(folder, MANIFEST, {"kind": "sweep", "schema": SCHEMA, **about})
    except OSError as error:
        raise InputError(
            f"cannot write {folder} ({error.strerror or error}): make room, and run it again"
        ) from error
    return shards


def _finish(
    folder: Path, shards: Shards, setup: Setup, progress: Callable[[str, int, int], None]
) -> None:
    """Put the rows of all shards together, with what is unusual about each image's blame."""
    pa = arrow()
    numbers = range(setup.count)
    tables = [shards.rows(shard) for shard in numbers]
    changed = [n for n in numbers if not setup.unchanged(n, noted_in(tables[n].schema))]
    if changed:
        raise InputError(f"images of shard {changed[0]} changed meanwhile: run it again")
    whole = pa.concat_tables(tables).replace_schema_metadata(None)
    problems = [p for p in whole.column("problem").to_pylist() if p is not None]
    if len(problems) == len(whole):
        raise InputError(f"none of {len(whole)} images can be used, the first: {problems[0]}")
    if "blame" in setup.settings.do:
        whole = _with_blame(whole, shards, setup, progress)
    try:
        with replacing(folder / TABLE) as draft:
            parquet().write_table(whole, draft)
    except OSError as error:
        raise InputError(
            f"cannot write {folder / TABLE} ({error}): make room, and run it again"
        ) from error


def _with_blame(
    whole: pa.Table, shards: Shards, setup: Setup, progress: Callable[[str, int, int], None]
) -> pa.Table:
    """Add the units whose saliency stands out most, against all images of the sweep."""
    pa = arrow()
    usual = shards.usual(told=lambda shard: progress("blame", shard, 2 * setup.count))
    places = {number: place for place, number in enumerate(whole.column("number").to_pylist())}
    names: list[list[str] | None] = [None] * len(whole)
    scores: list[list[float] | None] = [None] * len(whole)
    if usual is not None:
        units = Units.of(setup.network.model, usual.kinds)
        for shard in range(setup.count):
            progress("blame", setup.count + shard, 2 * setup.count)
            part = shards.blame(shard)
            if part is None or part.profiles is None:
                continue
            own = [item.number for item in setup.images(shard)]
            fit = [n for n in own if whole.column("problem")[places[n]].as_py() is None]
            top = score("share", part.profiles, usual).topk(min(_BLAMED, len(units)), dim=-1)
            for number, values, indices in zip(fit, top.values, top.indices, strict=True):
                named = (units.locate(int(i)) for i in indices)
                names[places[number]] = [f"{title}:{place}" for title, place in named]
                scores[places[number]] = values.tolist()
    for (name, kind), values in zip(blame_columns().items(), (names, scores), strict=True):
        whole = whole.append_column(name, pa.array(values, kind))
    return whole
