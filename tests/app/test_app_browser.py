"""The page in a real browser: maps that change, a cancel that works, people who do not mix."""

from __future__ import annotations

import base64
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from app.app_kit import NETWORKS, Server
from reports.test_report_browser import ARGUMENTS, CHROMIUM
from sparsight.datasets.scenes import render_scene

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path"),
    pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is another thing there"),
]
EVIL = "<img src=x onerror=window.hacked=1>.png"
MODELS = ("embedded", "net.py:network", "net.py:slow", "net.py:corrupt", "net.py:broken")
SOON = 30_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("gradio", reason="gradio is not installed")
    folder = tmp_path_factory.mktemp("app")
    (folder / "net.py").write_text(NETWORKS)
    render_scene("mug", seed=1, sticker="heart").picture().save(folder / "mug.png")
    render_scene("house", seed=2).picture().save(folder / "house.png")
    shutil.copy(folder / "mug.png", folder / EVIL)
    (folder / "text.png").write_text("no image")
    Image.new("RGB", (1, 1)).save(folder / "small.png")
    started = Server(folder, *(word for model in MODELS for word in ("--model", model)))
    try:
        assert started.said == f"{started.address} (Ctrl-C ends it)\n"
        yield started
        code, err = started.interrupt()
        assert (code, err.splitlines()[-1]) == (130, "interrupted")
        assert err.count("Traceback") == err.count("KeyError: 'no such key'") == 1
    finally:
        started.process.kill()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


class Person:
    """Somebody with a browser of their own."""

    def __init__(self, browser, server: Server, width: int = 1280) -> None:
        self.server, self.foreign = server, []
        self.context = browser.new_context(viewport={"width": width, "height": 900})
        self.page = self.context.new_page()
        self.page.set_default_timeout(SOON)
        self.page.on("request", self._look)
        self.page.goto(server.address)
        self.page.wait_for_selector("#run")

    def _look(self, request) -> None:
        if not request.url.startswith((self.server.address, "data:", "blob:")):
            self.foreign.append(request.url)

    def give(self, name: str) -> None:
        with self.page.expect_response(re.compile("/upload")):
            self.page.set_input_files("#image input[type=file]", self.server.folder / name)
        self.page.wait_for_selector("#image img")

    def drop(self, name: str) -> None:
        content = base64.b64encode((self.server.folder / name).read_bytes()).decode()
        data = self.page.evaluate_handle(
            """([name, content]) => {
              const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
              const data = new DataTransfer();
              data.items.add(new File([bytes], name, {type: "image/png"}));
              return data;
            }""",
            [name, content],
        )
        place = "#image .image-container button, #image button"
        self.page.locator(place).first.dispatch_event("drop", {"dataTransfer": data})
        self.page.wait_for_selector("#image img")

    def choose(self, field: str, option: str) -> None:
        self.page.click(f"#{field} input")
        self.page.locator(f"#{field} [role=option]", has_text=option).first.click()

    def hurry(self) -> None:
        """Ask for one map and few views only."""
        for _ in range(2):
            self.page.locator("#methods .token-remove").nth(1).click()
        self.page.fill("#views input[type=number]", "8")

    def _forget(self) -> None:
        """Mark the answer that is there, if there is one."""
        self.page.evaluate("document.querySelector('#answer .answer')?.classList.add('old')")

    def run(self) -> None:
        self._forget()
        self.page.click("#run")

    def state(self, pattern: str) -> str:
        self.page.wait_for_function(
            "p => new RegExp(p).test(document.querySelector('#state').innerText)", arg=pattern
        )
        return self.page.inner_text("#state")

    def done(self) -> None:
        """Wait for an answer that was not there before."""
        self.page.wait_for_selector("#answer .answer:not(.old)")

    def maps(self) -> dict[str, str]:
        sides = ("dense", "traced")
        return {s: self.page.get_attribute(f"#answer .{s} img >> nth=0", "src") for s in sides}

    def slide(self, share: float) -> None:
        self._forget()
        box = self.page.locator("#sparsity input[type=range]").bounding_box()
        self.page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)


@pytest.fixture
def person(browser, server):
    made = []

    def come(**options) -> Person:
        made.append(Person(browser, server, **options))
        return made[-1]

    yield come
    for one in made:
        assert one.foreign == []
        assert one.page.is_closed() or one.page.evaluate("window.hacked") is None
        one.context.close()


def test_dropping_an_image_and_moving_the_sparsity_changes_the_trace(person):
    one = person()
    one.run()
    assert one.state("no image") == "no image: drop one, paste one, or click to choose a file"
    one.hurry()
    one.drop("mug.png")
    one.run()
    one.done()
    first = one.maps()
    assert one.text("#answer h2") == "mug.png: why guitar?"
    assert one.text(".dense-says") == "guitar"
    assert one.page.locator("#answer .classes tbody tr").count() >= 5
    assert first["dense"] != first["traced"]
    assert one.page.is_checked("#auto input")
    one.slide(0.5)
    one.done()
    second = one.maps()
    assert not one.page.is_checked("#auto input")
    assert one.text(".removed").startswith(("49.", "50.", "51."))
    assert second["traced"] != first["traced"]
    one.slide(0.98)
    one.done()
    assert one.text(".removed").startswith(("96.", "97.", "98."))
    assert one.maps()["traced"] not in (first["traced"], second["traced"])
    with one.page.expect_download() as saved:
        one.page.click("#answer .download")
    assert saved.value.suggested_filename == "mug.html"
    page = Path(saved.value.path()).read_text(encoding="utf-8")
    assert "mug.png: why guitar?" in page


def test_another_network_another_class_other_maps(person):
    one = person()
    one.give(EVIL)
    one.choose("network", "net.py:network")
    one.choose("target", "[bold]<script>")
    one.run()
    one.done()
    assert one.text("#answer h2") == f"{EVIL}: why [bold]<script>alert(1)</script>[/bold]?"
    assert "which is not the prediction" in one.text("#answer .warn")
    assert one.page.locator("#answer script").count() == 0
    assert one.page.locator("#answer section").count() == 3


def test_mistakes_are_one_line_each(person):
    one = person()
    for image, network, told in (
        ("text.png", "embedded", "text.png is not an image that Pillow can read"),
        ("small.png", "embedded", "the image is 1x1 pixels: nothing to explain; give one of"),
        ("mug.png", "net.py:corrupt", "network 'net.py:corrupt' answers NaN or infinity"),
        ("mug.png", "net.py:broken", "failed with KeyError: the terminal says more"),
    ):
        one.choose("network", network)
        one.give(image)
        one.run()
        line = one.state(re.escape(told[:20]))
        assert line.startswith(told)
        assert "\n" not in line
        assert one.page.get_attribute("#state .bad", "role") == "alert"
        assert not one.page.is_enabled("#cancel")
        one.page.reload()
        one.page.wait_for_selector("#run")


def test_a_number_that_cannot_be_is_one_line_too(person):
    one = person()
    one.give("mug.png")
    one.page.fill("#sparsity input[type=number]", "7")
    one.page.press("#sparsity input[type=number]", "Tab")
    assert "it must lie in [0, 1)" in one.state("sparsity 7")


def test_cancel_stops_the_computation_and_so_does_leaving(person, server):
    one = person()
    one.choose("network", "net.py:slow")
    one.give("mug.png")
    one.run()
    one.state("(solving|observing|mapping): ")
    assert server.passes > 0
    one.page.click("#cancel")
    one.state("^cancelled")
    stopped = server.passes
    time.sleep(0.8)
    assert server.passes == stopped
    assert not one.page.is_enabled("#cancel")
    one.run()
    one.state("(solving|observing|mapping): ")
    assert server.passes > stopped
    one.page.close()
    assert server.rest()
    assert server.process.poll() is None


def test_a_new_question_takes_the_place_of_the_last(person):
    one = person()
    one.choose("network", "net.py:slow")
    one.give("mug.png")
    one.run()
    one.state("(solving|observing|mapping): ")
    one.choose("network", "net.py:network")
    one.run()
    one.done()
    assert one.text("#state").startswith("done in ")
    assert "net.py:network" in one.page.get_attribute("#answer .photo", "aria-label")


def test_two_people_at_once_see_their_own(person):
    names, people = ("mug.png", "house.png"), [person(), person()]
    for one, name in zip(people, names, strict=True):
        one.hurry()
        one.give(name)
    for one in people:
        one.run()
    for one in people:
        one.done()
    together = [(one.text("#answer h2"), one.maps()) for one in people]
    assert [title.split(":")[0] for title, _ in together] == list(names)
    alone = []
    for one in people:
        one.run()
        one.done()
        alone.append((one.text("#answer h2"), one.maps()))
    assert together == alone
    assert len({src for _, maps in alone for src in maps.values()}) == 4


def test_no_width_scrolls_sideways(person):
    one = person(width=320)
    one.choose("network", "net.py:network")
    one.give("house.png")
    one.run()
    one.done()
    for width in (320, 400, 768, 1280):
        one.page.set_viewport_size({"width": width, "height": 900})
        assert one.page.evaluate("document.documentElement.scrollWidth") <= width


def test_nobody_is_called(server):
    calls = server.folder / "calls"
    told = calls.read_text().splitlines() if calls.exists() else []
    assert [line for line in told if "127.0.0.1" not in line and "localhost" not in line] == []
