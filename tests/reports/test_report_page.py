"""The page is one file, fetches nothing, and lets no text of the case become markup."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from reports.synthetic_case import make_case, make_layers
from sparsight.reports import ClassRow, LayerRow, MapPair, ViewPair, render_page
from sparsight.reports.layer_plot import layer_plot, ticks

EVIL = '</style></script><script>alert("x")</script><img src=x onerror=alert(1)>\'"{{7*7}}'


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def named(self, name):
        return [attributes for tag, attributes in self.seen if tag == name]


@pytest.fixture(scope="module")
def page():
    return render_page(make_case())


def evil_case():
    return make_case(
        title=EVIL,
        image_name=EVIL,
        network=EVIL,
        target_label=EVIL,
        classes=(ClassRow(207, EVIL, 0.6, 0.2), ClassRow(1, EVIL + "2", 0.3, 0.7)),
        maps=(
            MapPair(EVIL, EVIL, np.eye(4), gap_of=EVIL, dense_gap=0.1, notes=(EVIL,)),
            MapPair(EVIL + "2", EVIL, refused=EVIL),
        ),
        views=(ViewPair(EVIL, EVIL + "3", np.zeros((4, 4, 3)), np.ones((4, 4, 3)), 1.0, 2.0),),
        layers=(LayerRow(EVIL, EVIL, EVIL, 1, 1, 1, 0.5, 0.5, 0.1, 0.0, EVIL),),
        settings={EVIL: EVIL, "nested": {EVIL: [EVIL]}},
        versions={EVIL: EVIL},
        timings={EVIL: 1.0},
        warnings=(EVIL,),
        truth_name=EVIL,
        notes=EVIL,
        command=EVIL,
        created=EVIL,
    )


def test_no_text_becomes_markup():
    text = render_page(evil_case())
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "49" not in re.findall(r"\{\{7\*7\}\}|49(?=&)", text)
    tags = Tags(text)
    assert len(tags.named("script")) == 1
    assert all(a["src"].startswith("data:image/png;base64,") for a in tags.named("img"))
    events = [key for _, attrs in tags.seen for key in attrs if key.startswith("on")]
    assert events == []
    plain = Tags(render_page(make_case(maps=make_case(methods=1).maps, layers=())))
    kinds = {tag for tag, _ in plain.seen} | {"g", "title", "rect", "circle", "text", "line"}
    assert {tag for tag, _ in tags.seen} <= kinds | {"details", "summary", "pre"}


def test_text_that_deceives_is_made_visible():
    text = render_page(make_case(title="a\u202egpj.exe\udcff\x1b[31m", image_name="b\x00c"))
    assert "a\ufffdgpj.exe\ufffd\ufffd[31m" in text
    text.encode("utf-8")
    assert not re.search("[\x00\x1b\u202e]", text)


@pytest.mark.parametrize("case", [make_case(), evil_case()], ids=["plain", "evil"])
def test_nothing_is_fetched(case):
    tags = Tags(render_page(case))
    for tag, attributes in tags.seen:
        for key in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            value = attributes.get(key)
            allowed = r"data:image/(png|jpeg);base64,.*|#[a-z]+|maps\.safetensors|case\.json"
            assert value is None or re.fullmatch(allowed, value), (tag, key, value[:60])
    assert not tags.named("link")
    assert not tags.named("iframe")


def test_no_external_address_in_the_page(page):
    assert not re.search(r"https?:|//[a-z]+\.", re.sub(r"base64,[\w+/=]+", "", page))
    assert "@import" not in page
    assert set(re.findall(r"url\(([a-z]+:)", page)) == {"data:"}


def test_the_policy_names_the_one_script_by_its_hash(page):
    policy = next(
        attributes["content"]
        for attributes in Tags(page).named("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    script = re.search(r"<script>(.*?)</script>", page, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}';" in policy
    assert "unsafe-eval" not in policy
    assert policy.count("unsafe-inline") == policy.count("style-src 'unsafe-inline'") == 1


def test_the_page_says_what_it_ought_to(page):
    for words in (
        "What this page is not evidence of",
        "golden retriever",
        "0.3\N{NO-BREAK SPACE}% · adds up",
        "does not add up",
        "no check",
        "is used twice: not defined",
        "7 dead columns",
        "sparsight explain golden.jpg",
        "The trace moves 2 %",
        "2.15.0",
        "divided by the mean of its absolute values",
    ):
        assert words in page, words
    assert page.count('class="layer"') == 20


def test_a_changed_answer_is_said_where_it_matters():
    classes = (ClassRow(207, "golden retriever", 0.6, 0.2), ClassRow(852, "ball", 0.3, 0.7))
    text = render_page(make_case(classes=classes))
    assert "Here the trace gives another answer" in text
    assert ">changed<" in text
    assert "which is not what the network says" not in text
    assert "which is not what the network says" in render_page(make_case(target_index=3))


def test_bare_cases_are_pages_too():
    text = render_page(
        make_case(
            maps=(MapPair("m", "M", np.zeros((8, 8)), signed=False), MapPair("n", "N", np.eye(8))),
            layers=(),
            settings={},
            versions={},
            timings={"none": 0.0},
            seed=None,
            truth_mask=None,
            kl=float("inf"),
            warnings=(),
        )
    )
    assert "zero everywhere" in text
    assert "not computed" in text
    assert 'id="layers"' not in text
    assert "This case has no maps" in render_page(make_case(maps=()))


def test_eleven_methods_at_224_pixels_stay_below_five_megabytes():
    assert len(render_page(make_case(size=224, methods=11, layers=161))) < 5e6


@pytest.mark.parametrize("count", [1, 2, 54, 161, 600])
def test_every_layer_is_drawn_inside_the_plot(count):
    text = str(layer_plot(make_layers(np.random.default_rng(0), count)))
    width, height = (float(x) for x in re.search(r'viewBox="0 0 (\S+) (\S+)"', text).groups())
    assert text.count('class="layer"') == count
    for x, y, w, h in re.findall(
        r'rect class="\w+" x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)"', text
    ):
        assert float(x) >= 0
        assert float(x) + float(w) <= width
        assert float(y) + float(h) <= height


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.98, 1), (0, 0.003), (0, 17.0), (0, 0.1)])
def test_ticks_enclose_what_they_measure(low, high):
    values = ticks(low, high)
    assert values[0] <= low + 1e-9
    assert values[-1] >= high - 1e-9
    assert 2 <= len(values) <= 7


def test_neurons_are_shown_beside_the_image_or_not_at_all(page):
    tags = Tags(page)
    section = page[page.index('<section id="views"') :].partition("</section>")[0]
    assert section.count("<figure>") == 6
    assert "class 1" in section
    assert "21.2" in section
    assert any(link["href"] == "#views" for link in tags.named("a"))
    without = render_page(make_case(views=0))
    assert "#views" not in without
    assert 'id="views"' not in without
