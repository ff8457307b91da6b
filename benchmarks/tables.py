"""What scripts keep: measured rows in a file, tables in the docs between two markers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparsight.storage import library_versions, write_text

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def write_table(page: Path, table: str) -> None:
    """Replace what stands between the markers of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


class Rows:
    """Measured rows, in a file that is written anew with each."""

    def __init__(self, file: Path, command: str) -> None:
        self._file = file
        self._content: dict[str, Any] = {"versions": library_versions(), "rows": []}
        if file.is_file():
            self._content |= json.loads(file.read_text(encoding="utf-8"))
        self._content["command"] = command

    @property
    def all(self) -> list[dict[str, Any]]:
        """Rows so far."""
        rows: list[dict[str, Any]] = self._content["rows"]
        return rows

    def keep(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self.all.append(row)
        write_text(self._file, json.dumps(self._content, indent=1) + "\n")
