"""The terminal gets plain facts, and no text of a case can drive it."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from reports.synthetic_case import make_case
from sparsight.reports import ClassRow, ViewPair, print_summary, progress


def shown(case, width=100, **options):
    console = Console(width=width, file=io.StringIO(), **options)
    print_summary(case, Path("out/dog/index.html"), console)
    return console.file.getvalue()


def test_the_summary_has_the_facts():
    text = shown(make_case())
    for words in (
        "prediction kept · 95.1 % of the weights removed · KL 0.0231 nats (close)",
        "golden retriever  <- explained",
        "91.2 %",
        "0.3 % adds up",
        "refused",
        "page  out/dog/index.html",
        "! The trace moves 2 %",
    ):
        assert words in text, words


def test_neurons_are_listed_with_both_scores():
    grey = np.full((8, 8, 3), 0.5)
    text = shown(make_case(views=(ViewPair("class:1", "[b]wolf", grey, grey, 9.5, 8.25),)))
    assert re.search(r"neuron +score, dense +score, traced", text)
    assert re.search(r"\[b\]wolf +9\.5 +8\.25", text)
    assert "score, dense" not in shown(make_case(views=()))


def test_labels_cannot_style_or_drive_the_terminal():
    rows = (ClassRow(0, "[red]a[/red]\x1b[2J\u202e", 0.5, 0.1), ClassRow(1, "[/nope]", 0.4, 0.8))
    text = shown(make_case(classes=rows, title="[bold]t[/]"), force_terminal=False)
    assert "[red]a[/red]\ufffd[2J\ufffd" in text
    assert "[/nope]" in text
    assert "\x1b" not in text
    assert "prediction changed" in text


def test_the_path_stays_on_one_line_to_be_copied():
    console = Console(width=40, file=io.StringIO())
    long = Path("a" * 30) / ("b" * 30) / "index.html"
    print_summary(make_case(maps=()), long, console)
    assert str(long) in console.file.getvalue()


def test_progress_is_silent_without_a_terminal_and_when_quiet():
    for quiet, terminal in ((False, False), (True, True)):
        console = Console(file=io.StringIO(), force_terminal=terminal)
        with progress(console, quiet=quiet) as bar:
            bar.advance(bar.add_task("[b]tracing", total=2), 2)
        assert console.file.getvalue() == ""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with progress(console) as bar:
        bar.advance(bar.add_task("[b]tracing", total=2), 1)
    assert "[b]tracing" in console.file.getvalue()


@pytest.mark.parametrize(("seconds", "told"), [(0.1, "10.0/s"), (30.0, "2.0/min")])
def test_progress_tells_its_rate(seconds, told):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    bar = progress(console)
    now = 0.0
    bar.get_time = lambda: now
    with bar:
        task = bar.add_task("images", total=10)
        bar.speed_estimate_period = 1000
        for done in (1, 2, 3):
            now += seconds
            bar.update(task, completed=done)
        assert told in "".join(str(c.render(bar.tasks[0])) for c in bar.columns[4:5])
