"""The wall in a real browser: fast with a thousand images, every control, nothing foreign run."""

import pytest

from reports.synthetic_case import make_case
from reports.test_report_browser import ARGUMENTS, CHROMIUM, EVIL
from reports.test_report_wall import item, many
from sparsight.reports import write_case, write_wall

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path"),
]
EVERY = [
    *many(1000),
    item(f"zebra {EVIL}.png", label=EVIL, predicted=EVIL + "2", traced=EVIL),
]


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    def filled(fresh):
        write_case(make_case(size=32, methods=1), fresh / "cases" / "one")
        yield from EVERY

    return write_wall(tmp_path_factory.mktemp("walls") / "wall", filled, title="Animals")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, wall):
    pages = []

    def go(state="", width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        page = context.new_page()
        pages.append(page)
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: (
            request.url.startswith(("file:", "data:")) or page.complaints.append(request.url)
        ))  # fmt: skip
        page.goto(wall.as_uri() + state)
        return page

    yield go
    assert [page.complaints for page in pages] == [[]] * len(pages)
    for page in pages:
        page.context.close()


CHANGE = """([name, value]) => {
  const control = document.getElementById("tools").elements[name];
  const start = performance.now();
  control.value = value;
  (control[0] && control[0].type === "radio" ? control[0] : control)
    .dispatchEvent(new Event("input", { bubbles: true }));
  document.body.getBoundingClientRect();
  return performance.now() - start;
}"""


def names(page, count=20):
    found = page.evaluate("[...document.querySelectorAll('.name')].map((e) => e.textContent)")
    return found[:count]


def soon(page, what):
    """Wait as Playwright does, but without the eval that the page's policy forbids."""
    for _ in range(150):
        if page.evaluate(what):
            return True
        page.wait_for_timeout(20)
    return False


def test_a_thousand_open_and_filter_in_time(visit):
    page = visit()
    seen = "[...document.querySelectorAll('.photo')].slice(0, 12)"
    assert soon(page, f"{seen}.every((i) => i.complete && i.naturalWidth > 0)")
    opened = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < opened < 2000
    assert page.inner_text("#count") == "1,001 images"
    for change in (("answer", "wrong"), ("sort", "kl"), ("kl-from", "1"), ("answer", "")):
        assert page.evaluate(CHANGE, change) < 2000
    assert page.evaluate("document.querySelectorAll('.tile').length") < 400


def test_names_run_nothing(visit):
    page = visit("#q=onerror&show=map")
    assert page.inner_text("#count") == "1 of 1,001 images"
    assert EVIL in names(page)[0]
    page.locator(".tile").hover()
    assert EVIL in page.inner_text("#tip")
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("order", ["up", "down"])
def test_orders_are_right_and_what_is_missing_comes_last(visit, order):
    given = sorted(EVERY, key=lambda one: (one.name.split("/")[0], EVERY.index(one)))
    page = visit(f"#order={order}")
    for field in ("label", "predicted", "confidence", "kl", "sparsity", "suspicion"):
        page.evaluate(CHANGE, ["sort", field.replace("label", "class")])
        known = [one for one in given if getattr(one, field) is not None]
        known.sort(key=lambda one: getattr(one, field), reverse=order == "down")
        expected = [one.name for one in known + [one for one in given if one not in known]]
        assert names(page) == expected[:20], field
        page.evaluate("scrollTo({ top: document.body.scrollHeight, behavior: 'instant' })")
        last = [one for one in given if getattr(one, field) is None][-1:] or known[-1:]
        texts = "[...document.querySelectorAll('.name')].map((e) => e.textContent)"
        assert soon(page, f"{texts}.at(-1) === {last[0].name!r}"), field


PASSES = [
    ("answer=wrong", lambda one: one.wrong),
    ("answer=right", lambda one: one.wrong is False),
    ("answer=unlabelled", lambda one: one.label is None and not one.problem),
    ("answer=unread", lambda one: one.problem),
    ("trace=changed", lambda one: one.changed),
    ("trace=kept", lambda one: one.changed is False),
    ("class=fish&predicted=dog", lambda one: (one.label, one.predicted) == ("fish", "dog")),
    ("q=DOG+1", lambda one: "dog" in one.name and "1" in one.name),
    ("sparsity-from=92&sparsity-to=93", lambda one: 0.92 <= (one.sparsity or 0) <= 0.93),
    ("kl-to=1", lambda one: one.kl is not None and one.kl <= 1),
    ("suspicion-from=0.5", lambda one: (one.suspicion or 0) >= 0.5),
    ("confidence-from=50", lambda one: (one.confidence or 0) >= 0.5),
    ("class=unicorn&sort=size&show=x&answer=wrong", lambda one: one.wrong),
    ("kl-from=9e9", lambda one: False),
]


def test_filters_from_the_address(visit):
    page = visit()
    for state, passes in PASSES:
        page.goto(page.url.split("#")[0] + "#" + state)
        count = sum(bool(passes(one)) for one in EVERY)
        assert soon(page, f"count.textContent === '{count} of 1,001 images'"), state
        assert page.locator("#none").is_visible() == (count == 0)
    page.click("#clear")
    assert page.inner_text("#count") == "1,001 images"


def test_the_address_keeps_the_state(visit):
    page = visit()
    page.select_option("select[name=answer]", "wrong")
    assert soon(page, "location.hash === '#answer=wrong'")
    page.fill("input[name=q]", "train 9")
    page.select_option("select[name=sort]", "kl")
    assert soon(page, "location.hash === '#q=train+9&answer=wrong&sort=kl'")
    found, count = names(page), page.inner_text("#count")
    page.reload()
    assert (names(page), page.inner_text("#count")) == (found, count)
    page.go_back()
    assert soon(page, "document.getElementById('tools').elements.q.value === ''")
    assert page.input_value("select[name=answer]") == "wrong"
    page.go_back()
    assert soon(page, "document.getElementById('count').textContent === '1,001 images'")
    page.click("text=What this page is not evidence of >> nth=0")
    assert page.inner_text("#count") == "1,001 images"


def test_a_link_opens_its_case_and_the_way_back_leads_here(visit):
    page = visit("#q=fish/2.png")
    page.locator(".tile").click()
    page.wait_for_url("**/cases/one/index.html")
    assert page.locator(".verdict").is_visible()
    page.go_back()
    assert page.inner_text("#count") == "1 of 1,001 images"
    page.fill("input[name=q]", "fish/6.png")
    page.locator(".tile").click()
    assert "/wall/index.html#" in page.url


def test_maps_instead_of_images(visit):
    page = visit("#q=cat/1")
    assert not page.locator(".map").first.is_visible()
    page.locator(".choice label", has_text="map").click()
    assert page.locator(".map").first.is_visible()
    assert soon(page, "document.querySelector('.map').naturalWidth === 24")
    assert page.locator(".gone", has_text="no map").first.is_visible()
    assert page.get_attribute(".map", "alt").endswith(", traced map")
    assert page.url.endswith("show=map")


def test_keys_lead_through_the_images(visit):
    page = visit()
    page.locator("input[value=map]").focus()
    page.keyboard.press("Tab")
    assert page.locator("#tip").is_visible()
    columns = page.evaluate("+getComputedStyle(grid).getPropertyValue('--columns')")
    start = [one.split("/")[1] for one in names(page, 40)]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert start[columns + 1] in page.inner_text("#tip")
    focused = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(focused).startswith("File cat/" + start[columns + 1])
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()


@pytest.mark.parametrize("width", [320, 400, 768, 1600])
def test_no_width_scrolls_sideways(visit, width):
    page = visit(width=width, color_scheme="dark")
    page.evaluate("document.getElementById('filters').open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 700, "height": 800})
    fits = "(grid.lastChild.getBoundingClientRect().right <= innerWidth)"
    assert soon(page, fits)
    heights = "[...new Set([...document.querySelectorAll('.tile')].map((t) => t.offsetHeight))]"
    assert len(page.evaluate(heights)) == 1


def test_without_script_it_says_what_it_needs(visit):
    page = visit(java_script_enabled=False)
    assert "needs JavaScript" in page.inner_text("body")
    assert page.locator("#limits").is_visible()
    assert not page.locator("#tools").is_visible()


def test_what_all_names_begin_with_is_left_out(browser, tmp_path):
    items = [item(f"val/ILSVRC2012_val_000{number:05d}.JPEG") for number in (7, 12, 40000)]
    page = browser.new_page()
    page.goto(write_wall(tmp_path / "wall", items, title="Photographs").as_uri())
    texts = "[...document.querySelectorAll('.name')].map((e) => e.textContent)"
    assert page.evaluate(texts) == [f"val\u202600{n:06d}.JPEG" for n in (7, 12, 40000)]
    page.close()
