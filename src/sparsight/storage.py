"""Results on disk: a folder appears whole or not at all, its manifest written last."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sparsight.errors import InputError

__all__ = [
    "atomic_folder",
    "library_versions",
    "read_manifest",
    "replacing",
    "require_free",
    "save_report",
    "write_manifest",
    "write_text",
]

_LIBRARIES = ("sparsight", "torch", "torchvision", "timm", "captum", "zennit", "transformers")


def require_free(folder: Path, replaces: Collection[str], *, overwrite: bool) -> None:
    """Refuse everything but an empty folder, or our own result when asked to overwrite it.

    Raises
    ------
    InputError
        If :func:`atomic_folder` could not put a result there.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder} is a file or a link: choose another folder")
    present = {entry.name for entry in folder.iterdir()}
    if not present:
        return
    if not overwrite:
        raise InputError(
            f"{folder} is not empty: choose another folder, or replace what is there with "
            "overwrite=True (--overwrite)"
        )
    strange = sorted(present - set(replaces))
    if strange:
        raise InputError(
            f"{folder} holds {strange[0]}, which is no part of this result and would be lost: "
            "move it away"
        )


@contextmanager
def atomic_folder(
    folder: str | Path, replaces: Collection[str], *, overwrite: bool = False
) -> Iterator[Path]:
    """Build a folder beside its final place and swap it in when it is complete.

    After an error or Ctrl-C there is either the former state or the new one, never half of it.

    Parameters
    ----------
    folder
        Where; parents are made.
    replaces
        Names of the files that make up such a result. With ``overwrite`` they may be replaced;
        other files are never deleted.
    overwrite
        Replace a result that is there already.

    Yields
    ------
    Path
        The folder to fill.

    Raises
    ------
    InputError
        If the folder holds something already, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     with atomic_folder(Path(home) / "result", {"a.txt"}) as fresh:
    ...         _ = (fresh / "a.txt").write_text("whole")
    ...     print((Path(home) / "result" / "a.txt").read_text())
    whole
    """
    folder = Path(os.path.abspath(folder))
    require_free(folder, replaces, overwrite=overwrite)
    token = secrets.token_hex(4)
    fresh = folder.with_name(f".{folder.name}.{token}.partial")
    former = folder.with_name(f".{folder.name}.{token}.former")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        readable = fresh.stat().st_mode & 0o666  # some writers make files private
        for file in fresh.iterdir():
            if file.is_file():
                file.chmod(readable)
        if folder.exists():
            folder.rename(former)
        fresh.rename(folder)
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error.strerror or error})") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if former.exists() and not folder.exists():
            former.rename(folder)
        shutil.rmtree(former, ignore_errors=True)


def library_versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that shape a result."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Build a file beside its final place and put it there when it is complete.

    After an error or Ctrl-C there is the former file or the new one, never half of it.

    Yields
    ------
    Path
        What to write.
    """
    draft = file.with_name(f".{file.name}.partial")
    try:
        yield draft
        os.replace(draft, file)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def write_text(file: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(file) as draft:
        draft.write_text(text, encoding="utf-8")


def write_manifest(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write a JSON manifest whole or not at all; call it last."""
    write_text(folder / name, json.dumps(content, indent=2, allow_nan=False) + "\n")


def save_report(file: str | Path, kind: str, schema: int, content: Mapping[str, Any]) -> Path:
    """Write a report that is one JSON file, for :func:`read_manifest`; what is there is replaced.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    file = Path(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(file.parent, file.name, {"kind": kind, "schema": schema, **content})
    except OSError as error:
        raise InputError(f"cannot write {file} ({error.strerror or error})") from error
    return file


def read_manifest(folder: str | Path, name: str, kind: str, schema: int) -> dict[str, Any]:
    """Read a manifest and check what it is.

    Raises
    ------
    InputError
        If it is missing, malformed, of another kind, or of a newer schema.
    """
    path = Path(folder) / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder} is no saved {kind}: it has no {name}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise InputError(f"{path} does not describe a {kind}")
    if content.get("schema") != schema:
        raise InputError(
            f"{path} has schema {content.get('schema')}, this version reads {schema}: "
            "update sparsight or make the result again"
        )
    return content
