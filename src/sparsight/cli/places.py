"""Where cases go: one folder per image, told apart, and recognised when they are there already."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsight.errors import InputError

__all__ = [
    "case_names",
    "check_file",
    "check_output",
    "check_report_file",
    "check_trace_folder",
    "digest",
    "file_digest",
    "is_done",
]

_LONGEST = 180  # bytes, so that the name of a temporary sibling still fits a file system
_INDEX = "index.html"
_TRACE_FILES = frozenset({"trace.json", "trace.safetensors"})


def _stem(path: Path) -> str:
    stem = path.stem.lstrip(".") or "image"
    while len(os.fsencode(stem)) > _LONGEST:
        stem = stem[:-1]
    return stem


def case_names(images: Sequence[Path]) -> list[str]:
    """Name a folder for each image: its stem, numbered where several share it.

    Examples
    --------
    >>> case_names([Path("a/dog.png"), Path("b/Dog.jpg"), Path("dog-2.png")])
    ['dog', 'Dog-3', 'dog-2']
    """
    taken = {_INDEX, *(_stem(path).casefold() for path in images)}
    named: set[str] = {_INDEX}
    names = []
    for path in images:
        name = stem = _stem(path)
        number = 2
        while name.casefold() in (named if name == stem else taken | named):
            name = f"{stem}-{number}"
            number += 1
        named.add(name.casefold())
        names.append(name)
    return names


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or nothing if it is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(settings: Mapping[str, object]) -> str:
    """Shorten settings to what tells them apart.

    Examples
    --------
    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1})
    True
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def check_output(out: Path) -> None:
    """Refuse a place that cannot hold cases, before any work is done.

    Raises
    ------
    InputError
        If it is a file or a case itself, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: choose another folder with --out")
    if (out / "case.json").exists():
        raise InputError(f"{out} is itself a case: choose the folder around it with --out")
    _check_writable(out, out)


def _check_writable(folder: Path, out: Path) -> None:
    """Refuse a folder, made or to be made, that nothing can be written into."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"cannot write to {out}: choose another folder with --out")


def check_file(out: Path) -> None:
    """Refuse a folder where a file is to be written, before any work is done.

    Raises
    ------
    InputError
        If it is one.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder: name a file in it with --out")


def check_report_file(out: Path) -> None:
    """Refuse a place that cannot hold a report of a measurement, before any work is done.

    Raises
    ------
    InputError
        If it is anything but such a report, or cannot be written.
    """
    check_file(out)
    if out.exists():
        from sparsight.benchmarks import SpeedReport

        try:
            SpeedReport.load(out)
        except InputError as error:
            raise InputError(
                f"{out} is no report of a measurement and would be lost: choose another --out"
            ) from error
    _check_writable(out.parent, out)


def check_trace_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a place that cannot hold a trace, before any work is done.

    Raises
    ------
    InputError
        If it holds something, unless that is a trace and ``overwrite`` is true.
    """
    check_output(folder)
    present = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
    if not present:
        return
    strange = sorted(present - _TRACE_FILES)
    if strange:
        raise InputError(
            f"{folder} holds {strange[0]}, which is no part of a trace and would be lost: choose "
            "another --out"
        )
    if not overwrite:
        raise InputError(
            f"{folder} exists already: choose another --out, or pass --overwrite to replace it"
        )


def is_done(folder: Path, wanted: str, *, overwrite: bool) -> bool:
    """Whether a folder holds the case that would be made; refuse to lose anything else.

    Raises
    ------
    InputError
        If it holds something else than a case, or another case and ``overwrite`` is false.
    """
    from sparsight.reports import read_manifest

    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / "case.json").is_file():
        raise InputError(f"{folder} is no case and would be lost: choose another --out")
    try:
        found = read_manifest(folder)["case"]["settings"]["digest"]
    except (InputError, KeyError, TypeError) as error:
        if overwrite:
            return False
        raise InputError(
            f"{folder} holds a damaged or foreign case: choose another --out, or pass --overwrite "
            "to replace it"
        ) from error
    if found != wanted and not overwrite:
        raise InputError(
            f"{folder} holds a case made from another image or with other settings: choose "
            "another --out, or pass --overwrite to replace it"
        )
    return bool(found == wanted)
