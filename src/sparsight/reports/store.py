"""Cases on disk: written whole or not at all, checked when read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sparsight.errors import InputError
from sparsight.reports.blame import BlameReport
from sparsight.reports.case import CaseFile, ClassRow, LayerRow, MapPair, ViewPair
from sparsight.reports.chain import ChainAnswer
from sparsight.reports.page import render_page
from sparsight.storage import atomic_folder

__all__ = ["SCHEMA", "SCHEMA_VERSION", "read_case", "read_manifest", "write_case"]

#: Name and version of the manifest's form.
SCHEMA, SCHEMA_VERSION = "sparsight.case", 1

_PAGE, _MAPS, _MANIFEST = "index.html", "maps.safetensors", "case.json"
_APART = frozenset({"image", "truth_mask", "maps", "layers", "views", "classes", "blame", "chain"})
_OURS = frozenset({_PAGE, _MAPS, _MANIFEST})


def _versions(case: CaseFile) -> dict[str, str]:
    found = {str(key): str(value) for key, value in case.versions.items()}
    for package in ("sparsight", "numpy", "pillow", "jinja2"):
        if package not in found:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = "not installed as a package"
    return found


def _plain(value: Any) -> Any:
    """Turn a value into what JSON knows; infinities and NaN as text, the unknown by its string."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int):
        return value
    return str(value).encode("utf-8", "replace").decode()


def _fields(thing: Any, skip: frozenset[str]) -> dict[str, Any]:
    return {
        item.name: _plain(getattr(thing, item.name))
        for item in dataclasses.fields(thing)
        if item.name not in skip
    }


def _arrays(case: CaseFile) -> dict[str, Any]:
    arrays: dict[str, Any] = {"image": case.image}
    if case.truth_mask is not None:
        arrays["truth_mask"] = np.asarray(case.truth_mask).astype(np.uint8)
    for pair in case.maps:
        for side, heat in pair.heats.items():
            arrays[f"maps/{pair.method}/{side}"] = heat
    for number, view in enumerate(case.views):
        arrays |= {f"views/{number}/dense": view.dense, f"views/{number}/traced": view.traced}
    if case.blame is not None:
        arrays |= {f"blame/{name}": array for name, array in case.blame.arrays().items()}
    if case.chain is not None:
        arrays |= {f"chain/{name}": array for name, array in case.chain.arrays().items()}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _described(case: CaseFile) -> dict[str, Any]:
    body = _fields(case, _APART)
    body["classes"] = [_fields(row, frozenset()) for row in case.classes]
    body["layers"] = [_fields(row, frozenset()) for row in case.layers]
    pictures = frozenset({"dense", "traced"})
    body["maps"] = [_fields(pair, pictures) for pair in case.maps]
    body["views"] = [_fields(view, pictures) for view in case.views]
    body["blame"] = None if case.blame is None else _plain(case.blame.describe())
    body["chain"] = None if case.chain is None else _plain(case.chain.describe())
    return body


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _fill(folder: Path, case: CaseFile) -> None:
    (folder / _PAGE).write_text(render_page(case), encoding="utf-8")
    save_file(_arrays(case), folder / _MAPS)
    written = {name: folder / name for name in (_PAGE, _MAPS)}
    manifest = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "created": case.created,
        "seed": case.seed,
        "versions": _versions(case),
        "files": {
            name: {"sha256": _digest(path), "bytes": path.stat().st_size}
            for name, path in written.items()
        },
        "case": _described(case),
    }
    for path in written.values():
        _flush(path)
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / _MANIFEST).write_text(text + "\n", encoding="utf-8")
    _flush(folder / _MANIFEST)


def write_case(case: CaseFile, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write ``index.html``, ``maps.safetensors`` and, last, ``case.json`` into a folder.

    The folder is built under another name beside its place and renamed when it is complete: after
    an error or Ctrl-C there is either the former state or the new one, never half a case.

    Parameters
    ----------
    case
        What to write.
    folder
        Where; parents are made.
    overwrite
        Replace a case that is already there. Other files in the folder are never deleted.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If the folder holds something already, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> case = CaseFile("dog", np.zeros((8, 8, 3)), "dog.png", "torchvision:resnet18", 0, "dog",
    ...                 (ClassRow(0, "dog", 0.8, 0.9),), kl=0.03, sparsity=0.95)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     page = write_case(case, Path(place) / "dog")
    ...     page.name, read_manifest(page.parent)["schema_version"]
    ('index.html', 1)
    """
    with atomic_folder(folder, _OURS, overwrite=overwrite) as fresh:
        _fill(fresh, case)
    return Path(folder) / _PAGE


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read ``case.json`` and check every file it names against its SHA-256.

    Raises
    ------
    InputError
        If it is missing, of another schema, or a file is missing or was changed.
    """
    folder = Path(folder)
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder} is no case: {_MANIFEST} cannot be read") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: write the case again") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise InputError(f"{path} is not a {SCHEMA} manifest")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema version {manifest.get('schema_version')}, this Sparsight reads "
            f"{SCHEMA_VERSION}: use the version that wrote it"
        )
    listed = manifest.get("files")
    if not isinstance(listed, dict) or set(listed) != {_PAGE, _MAPS}:
        raise InputError(f"{path} does not list {_PAGE} and {_MAPS}: write the case again")
    for name, facts in listed.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file} is missing: write the case again")
        if not isinstance(facts, dict) or _digest(file) != facts.get("sha256"):
            raise InputError(f"{file} was changed after the case was written: write it again")
    return manifest


def read_case(folder: str | Path) -> CaseFile:
    """Read a case back from its folder, e.g. to render it anew or to compute on its maps.

    Raises
    ------
    InputError
        As :func:`read_manifest`, or if the contents do not make a case.
    """
    folder = Path(folder)
    body = dict(read_manifest(folder)["case"])
    try:
        arrays = load_file(folder / _MAPS)
        body["classes"] = tuple(ClassRow(**row) for row in body["classes"])
        body["layers"] = tuple(LayerRow(**row) for row in body["layers"])
        body["maps"] = tuple(
            MapPair(
                **{**row, "notes": tuple(row["notes"])},
                dense=arrays.get(f"maps/{row['method']}/dense"),
                traced=arrays.get(f"maps/{row['method']}/traced"),
            )
            for row in body["maps"]
        )
        body["views"] = tuple(
            ViewPair(
                **row,
                dense=arrays[f"views/{number}/dense"],
                traced=arrays[f"views/{number}/traced"],
            )
            for number, row in enumerate(body.get("views", ()))
        )
        for name, kind in (("blame", BlameReport), ("chain", ChainAnswer)):
            section = body.pop(name, None)
            if section is not None:
                start = f"{name}/"
                own = {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
                body[name] = kind.read(section, own)
        body |= {"kl": float(body["kl"]), "warnings": tuple(body["warnings"])}
        return CaseFile(**body, image=arrays["image"], truth_mask=arrays.get("truth_mask"))
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise InputError(f"{folder / _MANIFEST} does not describe a case ({error})") from error
