"""What scripts keep and show: rows, tables in the docs, reports of maps, how far they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import Progress

from sparsight.storage import library_versions, write_text

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def write_table(page: Path, table: str, name: str = "table") -> None:
    """Replace what stands between the markers of a page, of which there can be several names."""
    begin, end = (marker.replace("table", name) for marker in (BEGIN, END))
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table of a page."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval(found: Mapping[str, float], digits: int = 3) -> str:
    """Write a number with the interval that it has."""
    value, low, high = (f"{found[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


@contextmanager
def stages(title: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """Show how far the stage under way is."""
    with Progress(transient=True) as bar:
        task = bar.add_task(title, total=None)

        def progress(stage: str, done: int, total: int) -> None:
            bar.update(task, description=f"{title} {stage}", completed=done, total=total)

        yield progress


def keep_report(measured: Path, results: Path) -> None:
    """Copy what a benchmark of maps found, but neither its rows nor its cases."""
    results.mkdir(parents=True, exist_ok=True)
    for name in ("summary.json", "tables.md", "arms.png", "seconds.png"):
        shutil.copyfile(measured / name, results / name)


def kept(file: Path, command: str) -> tuple[dict[str, Any], Callable[[], None]]:
    """Read what a study kept so far, and give what writes it anew when something is added."""
    content: dict[str, Any] = {"versions": library_versions(), "command": command}
    if file.is_file():
        content |= json.loads(file.read_text(encoding="utf-8"))

    def keep() -> None:
        write_text(file, json.dumps(content, indent=1) + "\n")

    return content, keep


class Rows:
    """Measured rows, in a file that is written anew with each."""

    def __init__(self, file: Path, command: str) -> None:
        self._content, self._write = kept(file, command)
        self._content |= {"command": command, "rows": self._content.get("rows", [])}

    @property
    def all(self) -> list[dict[str, Any]]:
        """Rows so far."""
        rows: list[dict[str, Any]] = self._content["rows"]
        return rows

    def keep(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self.all.append(row)
        self._write()
