"""What a command shows: progress and errors on standard error, results on standard output."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

__all__ = ["Display", "complain", "emit_json"]


def _say(message: str) -> None:
    from sparsight.reports.text import clean

    line = " ".join(part.strip() for part in message.splitlines() if part.strip())
    typer.echo(clean(line), err=True)


def complain(message: str) -> None:
    """Print an error on standard error, as one line whatever it holds."""
    _say(f"error: {message}")


def emit_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output."""
    typer.echo(json.dumps(content, indent=2, allow_nan=False))


class Display:
    """Progress bars that step aside while something is printed.

    Parameters
    ----------
    quiet
        Show no progress, as for ``--json``.

    Examples
    --------
    >>> with Display(quiet=True) as display:
    ...     display.step("solving", 1, 3)
    """

    def __init__(self, *, quiet: bool = False) -> None:
        from sparsight.reports import progress

        self._bar = progress(quiet=quiet)
        self._stages: dict[str, TaskID] = {}
        self._whole: TaskID | None = None

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if not self._bar.disable:  # a disabled one would print an empty line
            self._bar.stop()

    def count(self, what: str, done: int, total: int) -> None:
        """Show how many of several things are done, and forget the stages of the last one."""
        for task in self._stages.values():
            self._bar.remove_task(task)
        self._stages.clear()
        if total > 1:
            if self._whole is None:
                self._whole = self._bar.add_task(what, total=total)
            self._bar.update(self._whole, completed=done)

    def step(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is; earlier stages are over by then."""
        if stage not in self._stages:
            for task in self._stages.values():
                self._bar.update(task, visible=False)
            self._stages[stage] = self._bar.add_task(stage, total=total)
        self._bar.update(self._stages[stage], completed=done, total=total)

    @contextmanager
    def aside(self) -> Iterator[Console]:
        """Take the bars away and give a console on standard output."""
        from rich.console import Console

        self._stop()
        try:
            yield Console(emoji=False)
        finally:
            self._bar.start()

    def say(self, message: str) -> None:
        """Print one line on standard error."""
        with self.aside():
            _say(message)

    def complain(self, message: str) -> None:
        """Print an error on standard error, as one line."""
        with self.aside():
            complain(message)
