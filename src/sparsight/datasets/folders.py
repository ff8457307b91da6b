"""Images in files and folders, and their labels in a table."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from sparsight.errors import InputError

__all__ = ["SUFFIXES", "label_images", "list_images", "read_label_table"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""File names that count as images when a folder is listed; case does not matter."""


def list_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """List image files: files as named, folders with all that is inside them.

    Parameters
    ----------
    paths
        A file, a folder, or several of either. Folders are searched through all their
        subfolders; hidden files and folders are passed over.

    Returns
    -------
    list of Path
        In the order given, each folder's files sorted by path; no file twice.

    Raises
    ------
    InputError
        If a path does not exist, a named file has no image's suffix, a folder holds no image,
        or no path is given.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("b.png", "a.JPG", "notes.txt"):
    ...     (folder / name).touch()
    >>> [path.name for path in list_images(folder)]
    ['a.JPG', 'b.png']
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise InputError("no image given: name at least one file or folder")
    found: dict[Path, None] = {}
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in SUFFIXES
                and file.is_file()
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
            if not inside:
                raise InputError(f"folder {path} holds no image ({', '.join(sorted(SUFFIXES))})")
            found.update(dict.fromkeys(inside))
        elif not path.exists():
            raise InputError(f"no such file or folder: {path}")
        elif path.suffix.lower() not in SUFFIXES:
            raise InputError(
                f"{path} does not look like an image: use one of {', '.join(sorted(SUFFIXES))}"
            )
        else:
            found[path] = None
    return list(found)


def read_label_table(path: str | Path) -> dict[Path, str]:
    r"""Read which label belongs to which image file.

    Parameters
    ----------
    path
        A CSV file with a header and the columns ``file`` and ``label``. Relative file names
        are taken from the table's own folder.

    Returns
    -------
    dict
        From file to label, both as written but for the folder; a label may be a class's name or
        number (see ``Network.class_index``).

    Raises
    ------
    InputError
        If the table is missing, malformed, empty, names a file twice, or names one that does
        not exist.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a.png").touch()
    >>> _ = (folder / "labels.csv").write_text("file,label\na.png,fish\n")
    >>> list(read_label_table(folder / "labels.csv").values())
    ['fish']
    """
    path = Path(path)
    labels: dict[Path, str] = {}
    for number, (name, label) in enumerate(_rows(path).items(), start=1):
        file = path.parent / name
        if file in labels:
            raise InputError(f"label table {path}, row {number}: {name} is listed twice")
        if not file.is_file():
            raise InputError(f"label table {path}, row {number}: no such image file: {file}")
        labels[file] = label
    return labels


def label_images(
    paths: str | Path | Iterable[str | Path], table: str | Path | None = None
) -> list[tuple[Path, str]]:
    """List image files with their labels.

    Parameters
    ----------
    paths
        As for :func:`list_images`.
    table
        A CSV file with a header and the columns ``file`` and ``label``; a file is given by its path
        from the table's own folder, or by its name alone. Without a table, the name of the folder
        that a file is in is its label.

    Returns
    -------
    list of (Path, str)
        Labels as written, names or numbers of classes.

    Raises
    ------
    InputError
        As :func:`list_images` and :func:`read_label_table`, or if a file has no label.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "cat"
    >>> folder.mkdir()
    >>> (folder / "a.png").touch()
    >>> [(path.name, label) for path, label in label_images(folder)]
    [('a.png', 'cat')]
    """
    files = list_images(paths)
    if table is None:
        return [(file, file.absolute().parent.name) for file in files]
    table = Path(table)
    rows = _rows(table)
    by_path = {(table.parent / name).resolve(): label for name, label in rows.items()}
    found = []
    for file in files:
        label = by_path.get(file.resolve(), rows.get(file.name))
        if label is None:
            raise InputError(f"label table {table} has no label for {file}: add a row for it")
        found.append((file, label))
    return found


def _rows(path: Path) -> dict[str, str]:
    """Read a label table: labels by file as written."""
    if not path.is_file():
        raise InputError(f"no such label table: {path}")
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"label table {path} is no CSV text ({error})") from error
    labels: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        name, label = (row.get(column) for column in ("file", "label"))
        if not name or not label:
            raise InputError(
                f"label table {path}, row {number}: needs the columns file and label, both filled"
            )
        if name.strip() in labels:
            raise InputError(f"label table {path}, row {number}: {name} is listed twice")
        labels[name.strip()] = label.strip()
    if not labels:
        raise InputError(f"label table {path} is empty: give a header file,label and rows")
    return labels
