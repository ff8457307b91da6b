"""The page of a chain: what it says, what it escapes, and how it moves in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from reports.synthetic_case import make_case
from reports.test_report_browser import CHROMIUM
from sparsight.errors import InputError
from sparsight.reports import read_case, render_page, summary, write_case
from sparsight.reports.chain import ChainAnswer, ChainReport, Drawn, Line, Score
from sparsight.reports.chain_page import render_chain
from sparsight.reports.chain_picture import chain_picture

EVIL = '<img src=x onerror="alert(1)">'


def make(**changes: object) -> ChainReport:
    crop = np.full((8, 8, 3), 0.5)
    nodes = [
        Drawn(0, "stem", 3, [0.5, 0.1], [crop, crop], [0.1, 0.0]),
        Drawn(1, f"deep {EVIL}", 7, [-0.5, 0.2], [crop]),
        Drawn(1, "deep", 8, [0.25, 0.3]),
        Drawn(2, "last", 0, [1.0, -2.0], direct=[1.0, -2.0]),
    ]
    edges = [Line(0, 1, [0.5, 0.0]), Line(0, 2, [-0.1, 0.4]), Line(1, 3, [1.0, 1.0])]
    given: dict[str, object] = {
        "classes": ["cat", EVIL], "network": EVIL, "kept": 4, "units": 80, "closed": 1,
        "branches": 3, "layers": [("stem", 1, 16), ("deep", 2, 32), (EVIL, 1, 32)],
        "groups": ["cat", EVIL], "columns": ["stem", "deep", "last"], "nodes": nodes,
        "edges": edges, "images": [(EVIL, crop)], "facts": [("seed", "0")],
        "scores": [Score("chain", "the images", 0.5, 0.9, 0.95, None, 1.0)],
        "notes": ["Five are left out."],
    }  # fmt: skip
    return ChainReport(**(given | changes))


def test_the_page_escapes_everything() -> None:
    page = render_chain(make(), EVIL)
    assert "<img src=x" not in page
    style = page.split("<style>")[1].split("</style>")[0]
    assert '"Segoe UI"' in style, "style sheets are put in as they are"
    assert "4 of 80 units (5.0 %)" in page.replace("\u00a0", " ").replace("\u202f", " ")
    assert "Five are left out." in page


def test_the_picture_has_a_line_for_each_group() -> None:
    picture = str(chain_picture(make()))
    groups = re.findall(r'<g class="edges" data-group="(\d)"([^>]*)>', picture)
    assert groups == [("0", ""), ("1", ' hidden="hidden" display="none"')]
    assert picture.count('data-to="4"') == 2, "a unit of the first layer reaches the answer too"
    assert picture.count('class="node"') == 4
    assert picture.count('class="node answer"') == 2
    assert picture.count("edge minus") == 2, "against the answer, one kernel and one unit"
    assert "NaN" not in picture


def answer(**changes: object) -> ChainAnswer:
    given: dict[str, object] = {
        "report": make(scores=(), images=()),
        "classes": [("cat", 0.7, 0.6), (EVIL, 0.2, 0.4)],
        "kl": 0.25, "agrees": True, "traced": (0.5, 0.1), "blamed": (3, 10, 0.05),
    }  # fmt: skip
    return ChainAnswer(**(given | changes))


def test_a_case_shows_a_chain_and_brings_it_back(tmp_path: Path) -> None:
    case = make_case(chain=answer())
    page = render_page(case)
    assert "<img src=x" not in page
    assert 'href="#sub-network"' in page
    assert "as the network does" in page
    assert "The chain has 3 of the 10 units most to blame, and" in page
    assert page.count("<script>") == 2
    assert len(re.findall(r"'sha256-", page)) == 2
    assert 'id="sub-network"' not in render_page(make_case())
    write_case(case, tmp_path / "case")
    back = read_case(tmp_path / "case").chain
    assert isinstance(back, ChainAnswer)
    assert (back.traced, back.blamed) == ((0.5, 0.1), (3, 10, 0.05))
    assert render_page(replace(case, chain=back)) == page


def test_a_chain_that_answers_otherwise_says_so() -> None:
    case = make_case(chain=answer(agrees=False, blamed=None))
    assert "<b>otherwise</b>" in render_page(case)
    console = Console(width=100, color_system=None)
    with console.capture() as seen:
        console.print(summary(case))
    assert "another answer, KL 0.25 nats" in seen.get()


def test_a_chain_without_units_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to draw, keep more"):
        make(nodes=[])


@pytest.fixture(scope="module", params=["page", "case"])
def page(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[object]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the path")
    playwright = pytest.importorskip("playwright.sync_api")
    file: Path = tmp_path_factory.mktemp("chain") / "index.html"
    own = request.param == "page"
    text = render_chain(make(), "cat or dog") if own else render_page(make_case(chain=answer()))
    file.write_text(text, encoding="utf-8")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page()
        complaints: list[str] = []
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.goto(file.as_uri())
        yield opened
        assert complaints == []
        browser.close()


@pytest.mark.browser
def test_pointing_tells_and_a_click_shows_paths(page) -> None:
    page.locator(".node").nth(0).hover()
    assert "stem, unit 3" in page.locator("#told").inner_text()
    assert page.locator("#told img").count() == 2
    page.locator(".node").nth(0).click()
    on = page.locator(".node.on").evaluate_all("all => all.map((one) => one.dataset.node)")
    assert on == ["0", "1", "2", "3", "4"], "what it feeds, in the first group"
    page.locator(".pick").nth(1).click()
    on = page.locator(".node.on").evaluate_all("all => all.map((one) => one.dataset.node)")
    assert on == ["0", "2"], "in the second group the line to unit 7 has no weight"
    page.keyboard.press("Escape")


@pytest.mark.browser
def test_lines_of_one_group_are_seen_at_a_time(page) -> None:
    page.locator(".pick").nth(0).click()
    assert page.locator(".edges").nth(0).is_visible()
    assert not page.locator(".edges").nth(1).is_visible()


@pytest.mark.browser
def test_the_wheel_zooms_and_dragging_moves(page) -> None:
    page.locator("[data-zoom=all]").click()
    box = page.locator("#chain").bounding_box()
    view = page.locator("#chain").get_attribute("viewBox")
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.wheel(0, -200)
    page.wait_for_function(
        "(was) => document.getElementById('chain').getAttribute('viewBox') !== was", arg=view
    )
    zoomed = page.locator("#chain").get_attribute("viewBox")
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 60, steps=4)
    page.mouse.up()
    assert page.locator("#chain").get_attribute("viewBox") != zoomed
    page.locator("[data-zoom=all]").click()
    assert page.locator("#chain").get_attribute("viewBox") == view
