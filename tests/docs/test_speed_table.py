"""The table of speeds shows the committed reports, and says so where there are none."""

from __future__ import annotations

import tables
from sparsight.benchmarks import SpeedReport
from speed_table import PAGE, block, reports, table

REPORT = SpeedReport(
    "net", "untrained", "noise, 5 x 4 pixels", 64, 2, {}, {"trace": 3, "published": 2},
    {"device": "GPU", "processor": "CPU", "threads": 4},
    {"forward": (1.0, 3.0), "trace": (4.0, 8.0), "published": (60.0,)},
    {"trace": {"observe": (1.0, 2.0), "solve": (3.0, 5.0)}}, {"process": 1.5}, ("some note",),
)  # fmt: skip


def test_the_page_shows_the_committed_reports() -> None:
    shown = PAGE.read_text(encoding="utf-8").partition(tables.BEGIN)[2].partition(tables.END)[0]
    assert shown.strip() == table(reports()), "run: python benchmarks/speed_table.py"


def test_a_report_as_markdown() -> None:
    assert table({}).startswith("No report is committed yet")
    title, rows, note = block("speed-net.json", REPORT).split("\n\n")
    assert title == (
        "`speed-net.json`, **net**: weights untrained; 64 views of noise, 5 x 4 pixels; GPU and "
        "CPU with 4 threads; medians of 2; peak memory (process) 1.50 GiB. Pruned: 3 layers "
        "by trace, 2 layers by published."
    )
    assert rows.splitlines()[2:] == [
        "| forward | 2 | 1.00 | 0.33 |  |",
        "| trace | 6 | 3.00 | 1.00 | observe 1.5, solve 4 |",
        "| published | 60 | 30.00 | 10.00 |  |",
    ]
    assert note == "Some note."
