"""Pieces of the page: what they show, and that nothing of a stranger's is ever markup."""

from __future__ import annotations

import base64
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from threading import Event

import pytest

from reports.synthetic_case import make_case
from sparsight.app import Job, view
from sparsight.errors import InputError
from sparsight.reports import ClassRow, MapPair

EVIL = "<img src=x onerror=alert(1)><script>alert(1)</script>\"'>${alert(1)}{{value}}"


class Tags(HTMLParser):
    """The tags and attributes that a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


@pytest.fixture
def case():
    rows = (ClassRow(0, EVIL, 0.6, 0.1), ClassRow(1, "b", 0.3, 0.8))
    made = make_case(size=32, methods=2, classes=rows, title=EVIL)
    refused = MapPair("m", EVIL, refused=EVIL)
    return replace(
        made, image_name=f"a/{EVIL}.png", network=EVIL, warnings=(EVIL,), maps=(*made.maps, refused)
    )


def test_an_answer_shows_both_sides_and_carries_the_page(case) -> None:
    shown = view.answer(case)
    tags = Tags(shown).seen
    pictures = [attrs["src"] for tag, attrs in tags if tag == "img" and "alt" in attrs]
    assert len([src for src in pictures if src]) >= 6
    assert all(src.startswith("data:image/png;base64,") for src in pictures)
    link = next(attrs for tag, attrs in tags if tag == "a")
    page = base64.b64decode(link["href"].removeprefix("data:text/html;base64,")).decode()
    assert page.startswith("<!doctype html>")
    assert "changed" in shown
    assert re.search(r'class="kl">[\d.e-]+ nats', shown)


def test_names_labels_and_reasons_are_text(case) -> None:
    for shown in (view.answer(case), view.complaint(EVIL), view.remark(EVIL)):
        tags = Tags(shown).seen
        assert "script" not in {tag for tag, _ in tags}
        assert not [name for _, attrs in tags for name in attrs if name.startswith("on")]
        assert "&lt;script&gt;" in shown
    assert "/" not in next(a for t, a in Tags(view.answer(case)).seen if t == "a")["download"]


def test_a_complaint_is_one_line() -> None:
    shown = view.complaint(InputError("two\n  lines\x1b[31m"))
    assert shown == '<p class="job bad" role="alert">two lines\ufffd[31m</p>'


def test_progress_names_the_stage() -> None:
    go, reported = Event(), Event()

    def work(job: Job) -> None:
        job.report("solving<b>", 3, 14)
        reported.set()
        go.wait(10)

    with ThreadPoolExecutor(1) as line:
        job, queued = Job(work, line), Job(work, line)
        reported.wait(10)
        assert '<progress max="14" value="3">' in view.progress(job)
        assert "solving&lt;b&gt;: 3 of 14" in view.progress(job)
        assert "waiting until other computations are done" in view.progress(queued)
        job.cancel()
        assert "cancelling" in view.progress(job)
        queued.cancel()
        go.set()
