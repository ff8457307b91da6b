"""What the terminal shows of a case: progress while it is made, a table when it is done."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console, Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from sparsight.reports.blame import BlameReport
from sparsight.reports.case import CaseFile
from sparsight.reports.readings import grade_gap, grade_kl
from sparsight.reports.text import clean, percent, plain_number, probability

__all__ = ["print_summary", "progress", "summary"]

_UNITS = 5
_PERIOD = 600.0  # seconds that a rate is of: a step may take a minute
_TONES = {"good": "green", "fair": "yellow", "bad": "red", "none": "dim"}


class _Rate(ProgressColumn):
    """How many are done in a second, or in a minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{60 * speed:.1f}/min", style="dim")


def progress(console: Console | None = None, *, quiet: bool = False) -> Progress:
    """Make a progress bar with the rate and the time left, on standard error.

    It shows nothing if ``quiet`` (as for ``--json``) or if the console is no terminal, and is
    wiped when it is done.

    Examples
    --------
    >>> with progress(quiet=True) as bar:
    ...     task = bar.add_task("tracing", total=3)
    ...     bar.advance(task, 3)
    """
    console = console if console is not None else Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left", style="dim"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        speed_estimate_period=_PERIOD,
        disable=quiet or not console.is_terminal,
    )


def _gap(value: float | None) -> Text:
    if value is None:
        return Text("–", style="dim")
    grade = grade_gap(value)
    return Text(f"{percent(abs(value))} {grade.word}", style=_TONES[grade.tone])


def _classes(case: CaseFile) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("class", overflow="fold")
    table.add_column("dense", justify="right")
    table.add_column("traced", justify="right")
    for row in sorted(case.classes, key=lambda row: -max(row.dense, row.traced)):
        mark = "  <- explained" if row.index == case.target_index else ""
        label = Text(clean(row.label)).append(mark, style="cyan")
        table.add_row(label, probability(row.dense), probability(row.traced))
    return table


def _methods(case: CaseFile) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("method", overflow="fold")
    table.add_column("gap, dense", no_wrap=True)
    table.add_column("gap, traced", no_wrap=True)
    for pair in case.maps:
        if not pair.refused:
            table.add_row(Text(clean(pair.title)), _gap(pair.dense_gap), _gap(pair.traced_gap))
    return table


def _neurons(case: CaseFile) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("neuron", overflow="fold")
    table.add_column("score, dense", justify="right")
    table.add_column("score, traced", justify="right")
    for view in case.views:
        scores = (plain_number(score) for score in (view.dense_score, view.traced_score))
        table.add_row(Text(clean(view.title)), *scores)
    return table


def _blamed(blame: BlameReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("most to blame", overflow="fold")
    table.add_column("z", justify="right")
    for unit in blame.units[:_UNITS]:
        table.add_row(Text(clean(f"{unit.layer}:{unit.number}")), plain_number(unit.z))
    return table


def summary(case: CaseFile) -> Group:
    """Lay the case out for a terminal: verdict, warnings, classes, gaps, neurons, blame, chain.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsight.reports.case import ClassRow
    >>> case = CaseFile("t", np.zeros((4, 4, 3)), "i.png", "net", 0, "cat",
    ...                 (ClassRow(0, "cat", 0.9, 0.8),), kl=0.02, sparsity=0.95)
    >>> Console(width=80, color_system=None).print(summary(case))
    t
    prediction kept · 95.0 % of the weights removed · KL 0.02 nats (close)
    <BLANKLINE>
    class               dense  traced
    cat  <- explained  90.0 %  80.0 %
    """
    grade = grade_kl(case.kl)
    verdict = Text()
    if case.agrees:
        verdict.append("prediction kept", style="green")
    else:
        verdict.append("prediction changed", style="red")
    verdict.append(f" · {percent(case.sparsity)} of the weights removed · KL ")
    verdict.append(f"{plain_number(case.kl)} nats ({grade.word})", style=_TONES[grade.tone])
    parts: list[Text | Table] = [Text(clean(case.title), style="bold"), verdict]
    parts += [Text(f"! {clean(warning)}", style="yellow") for warning in case.warnings]
    parts += [Text(), _classes(case)]
    if any(not pair.refused for pair in case.maps):
        parts += [Text(), _methods(case)]
    if case.views:
        parts += [Text(), _neurons(case)]
    if case.blame is not None:
        parts += [Text(), _blamed(case.blame)]
    if case.chain is not None:
        told = "the same answer" if case.chain.agrees else "another answer"
        names = ", ".join(case.chain.report.classes)
        kl = plain_number(case.chain.kl)
        parts += [Text(), Text(clean(f"chain of {names}: {told}, KL {kl} nats"))]
    for pair in case.maps:
        if pair.refused:
            parts.append(Text(f"{clean(pair.title)} refused: {clean(pair.refused)}", "yellow"))
    return Group(*parts)


def print_summary(case: CaseFile, page: Path, console: Console | None = None) -> None:
    """Print the summary and, on a line of its own that is never cut, where the page is."""
    console = console if console is not None else Console()
    console.print(summary(case))
    console.print()
    console.print(Text.assemble("page  ", (clean(page), "bold")), soft_wrap=True)
