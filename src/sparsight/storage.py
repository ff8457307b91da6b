"""Results on disk: a folder appears whole or not at all, its manifest written last."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sparsight.errors import InputError

__all__ = ["atomic_folder", "library_versions", "read_manifest", "write_manifest"]

_LIBRARIES = ("sparsight", "torch", "torchvision", "timm", "captum", "zennit", "transformers")


@contextmanager
def atomic_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Fill a temporary sibling folder, then rename it into place.

    Raises
    ------
    InputError
        If the folder exists and ``overwrite`` is false, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     with atomic_folder(Path(home) / "result") as folder:
    ...         _ = (folder / "a.txt").write_text("whole")
    ...     print((Path(home) / "result" / "a.txt").read_text())
    whole
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already: choose another folder, or ask to overwrite it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(f"cannot write to {path.parent} ({error.strerror})") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.rename(retired / "old")
            temporary.rename(path)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def library_versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that shape a result."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_manifest(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write a JSON manifest through a temporary file; call it last."""
    temporary = folder / f".{name}.part"
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, folder / name)


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
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise InputError(f"{path} does not describe a {kind}")
    if content.get("schema") != schema:
        raise InputError(
            f"{path} has schema {content.get('schema')}, this version reads {schema}: "
            "update sparsight or make the result again"
        )
    return content
