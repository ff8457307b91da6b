"""The page in a real browser: no violations, controls that work by mouse, keys and touch."""

import re
import shutil

import numpy as np
import pytest

from reports.synthetic_case import make_case
from sparsight.reports import ClassRow, write_case, write_index
from sparsight.reports.readings import read_pair

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path"),
]
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def case():
    return make_case(size=32, methods=3, layers=30, title=EVIL, notes=EVIL)


@pytest.fixture(scope="module")
def address(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    page = write_case(case, folder / "evil")
    rows = (ClassRow(0, EVIL, 0.6, 0.1), ClassRow(1, "b", 0.3, 0.8))
    write_case(make_case(size=48, methods=1, classes=rows), folder / "changed #2")
    write_index(folder)
    return page


@pytest.fixture
def visit(browser):
    contexts = []

    def go(path, width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:")) or page.complaints.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()


def test_it_opens_without_a_complaint_and_runs_nothing_foreign(visit, address):
    page = visit(address)
    assert page.complaints == []
    assert page.evaluate("window.hacked") is None
    assert "onerror" in page.inner_text("h1")
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    page.evaluate(f"document.body.insertAdjacentHTML('beforeend', {EVIL!r})")
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    assert page.complaints != []


def test_the_slider_fades_the_maps_by_mouse_and_keyboard(visit, address):
    page = visit(address)
    faded = "getComputedStyle(document.querySelector('.map img')).opacity"
    assert page.evaluate(faded) == "0.85"
    page.fill("#opacity", "30")
    assert page.evaluate(faded) == "0.3"
    page.focus("#opacity")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(faded) == "0.31"
    assert page.inner_text("#opacity-shown") == "31\u202f%"


def test_backing_outline_and_smoothing(visit, address):
    page = visit(address)
    shown = "getComputedStyle(document.querySelector('.map .back')).{}"
    assert "grayscale" in page.evaluate(shown.format("filter"))
    page.focus("input[name=back]:checked")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(shown.format("filter")) == "none"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(shown.format("display")) == "none"
    outline = "getComputedStyle(document.querySelector('.map svg')).display"
    assert page.evaluate(outline) == "block"
    page.uncheck("#show-outline")
    assert page.evaluate(outline) == "none"
    rendering = "getComputedStyle(document.querySelector('.map img')).imageRendering"
    assert page.evaluate(rendering) == "pixelated"
    page.check("#smooth")
    assert page.evaluate(rendering) == "auto"


def test_the_probe_reads_true_values(visit, address, case):
    page = visit(address)
    for place, pair in enumerate(pair for pair in case.maps if not pair.refused):
        reading = read_pair(pair, np.asarray(case.truth_mask))
        strip = page.locator(".strip").nth(place)
        strip.scroll_into_view_if_needed()
        cell = strip.locator(".map").nth(1)
        box = cell.bounding_box()
        for row, column in ((9, 22), (20, 12), (31, 0)):
            cell.hover(
                position={
                    "x": (column + 0.5) / 32 * box["width"],
                    "y": (row + 0.5) / 32 * box["height"],
                }
            )
            for side in ("dense", "traced", "difference"):
                text = strip.locator(f".cell-{side} .value").inner_text().replace("\u2212", "-")
                value = re.fullmatch(r"(?:[≥≤]\s)?([-+.\d]+)×", text).group(1)
                true = float(getattr(reading, side)[row, column])
                clipped = max(-reading.bound, min(reading.bound, true))
                slack = reading.bound / 100 + 0.06 * abs(clipped)
                assert float(value) == pytest.approx(clipped, abs=slack), (side, text)


def test_the_probe_and_the_layers_work_by_keyboard(visit, address):
    page = visit(address)
    strip = page.locator(".strip").first
    strip.focus()
    page.keyboard.press("ArrowRight")
    assert "traced" in strip.locator(".probe").inner_text()
    assert page.evaluate("document.querySelector('#maps').style.getPropertyValue('--x')") == "52%"
    page.keyboard.press("Escape")
    assert strip.locator(".probe").inner_text() == ""
    assert strip.locator(".cell-dense .value").inner_text() == ""
    page.focus("#plot")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#readout").startswith("1. layer1.0.conv0")
    page.keyboard.press("End")
    assert page.inner_text("#readout").startswith("30. ")
    page.locator("#layers summary").focus()
    page.keyboard.press("Enter")
    assert page.locator(".table tbody tr").first.is_visible()
    assert page.complaints == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_scrolls_sideways(visit, address, width):
    for path in (address, address.parent.parent / "index.html"):
        page = visit(path, width)
        for box in page.query_selector_all("summary"):
            box.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_light_and_print_are_legible(visit, address):
    contrast = """() => {
      const parse = (c) => c.match(/[\\d.]+/g).map(Number);
      const light = (c) => parse(c).slice(0, 3)
        .map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((s, v, k) => s + v * [0.2126, 0.7152, 0.0722][k], 0);
      const ground = (e) => {
        for (; e; e = e.parentElement) {
          const c = getComputedStyle(e).backgroundColor;
          if (!/, 0\\)$/.test(c)) return c;
        }
        return "rgb(255, 255, 255)";
      };
      const texts = [...document.querySelectorAll(
        "h2, p, .badge, dt, dd, td, th, .tag, .warn, a, label, .scale span")];
      return Math.min(...texts.map((e) => {
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      }));
    }"""
    for scheme in ("light", "dark"):
        page = visit(address, color_scheme=scheme)
        assert page.evaluate(contrast) >= 4.5, scheme
    page.emulate_media(media="print")
    assert page.evaluate(contrast) >= 4.5
    assert not page.locator(".tools").is_visible()


def test_it_reads_without_script(visit, address):
    page = visit(address, java_script_enabled=False)
    assert not page.locator(".tools").is_visible()
    assert page.locator(".map img").first.is_visible()


def test_the_index_leads_to_the_case(visit, address):
    page = visit(address.parent.parent / "index.html")
    assert page.complaints == []
    page.locator(".card a").first.click()
    page.wait_for_url("**/changed%20%232/index.html")
    assert page.locator(".verdict").is_visible()
    assert page.complaints == []
