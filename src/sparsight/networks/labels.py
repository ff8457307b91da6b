"""Class names from a text, CSV or JSON file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from sparsight.errors import InputError

__all__ = ["read_labels"]


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Read class names in class order.

    ``.txt``: one name a line. ``.csv``: a header with ``index`` and ``name`` (or ``label``).
    ``.json``: a list, or an object from index to name.

    Raises
    ------
    InputError
        If the file is missing, malformed, or its indices have gaps.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such labels file: {path}")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            content = json.loads(text)
            table = dict(enumerate(content)) if isinstance(content, list) else content
            named = {int(index): str(name) for index, name in table.items()}
        elif path.suffix == ".csv":
            rows = list(csv.DictReader(text.splitlines()))
            named = {int(row["index"]): row.get("name") or row["label"] for row in rows}
        else:
            named = dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"labels file {path} is malformed: give one name a line, a CSV with columns index "
            "and name, or a JSON list"
        ) from error
    if not named or sorted(named) != list(range(len(named))):
        raise InputError(f"labels file {path} must name classes 0, 1, 2, ... without gaps")
    return tuple(named[index] for index in range(len(named)))
