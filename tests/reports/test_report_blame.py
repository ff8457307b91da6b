"""Blame on a page of its own and in a case: facts, charts, nothing that runs or escapes."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from reports.synthetic_case import make_blame, make_case
from sparsight.errors import InputError
from sparsight.reports import read_case, write_case
from sparsight.reports.blame import BlameReport
from sparsight.reports.blame_charts import blame_context, line_chart
from sparsight.reports.blame_page import render_blame
from sparsight.reports.page import render_page

EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
GREY = np.full((32, 32, 3), 0.5)


def test_the_page_says_what_was_found():
    page = render_blame(make_blame(), GREY, "who made this dog?", "a network")
    text = re.sub(r"<[^>]+>", "", page)
    for words in ("dog, not cat", "loss 2.5", "layer2", "9.5", "Images that fail", "gone.png",
                  "kept some weights of 50.0", "What if they were off"):  # fmt: skip
        assert words in text, words
    assert page.count("<svg") == 7  # two profiles, two depths, three curves
    assert "<script" not in page


def test_texts_cannot_leave_their_place():
    page = render_blame(make_blame(EVIL, EVIL), GREY, EVIL, EVIL)

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: set[str] = set()

        def handle_starttag(self, tag, attrs):
            self.found.add(tag)
            assert not [name for name, _ in attrs if name.startswith("on")]

    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.found


def test_charts_are_well_formed_and_say_themselves_in_words():
    context = blame_context(make_blame(EVIL, EVIL))
    charts = [chart for _, chart in context["profiles"] + context["depths"]] + context["charts"]
    for chart in charts:
        root = ElementTree.fromstring(str(chart))
        assert root.attrib["aria-label"]
        for element in root.iter():
            for number in re.findall(r"-?[\d.]+", element.attrib.get("points", "")):
                assert -1 <= float(number) <= 1100


def test_a_right_answer_has_one_curve_of_probability():
    context = blame_context(make_blame("dog", "dog"))
    assert len(context["charts"]) == 2  # and the damage


def test_constant_scores_and_maps_are_drawn():
    report = make_blame()
    flat = [
        replace(p, layers=[("a", np.zeros(1))], depth=[("a", 0.0, 0.0)], map=np.zeros((4, 4)))
        for p in report.profiles
    ]
    page = render_blame(replace(report, profiles=flat, curves=None, neighbours=()), GREY, "t", "n")
    assert "nan" not in page.partition("</style>")[2]
    assert "<svg" in str(line_chart("p", [0], {"salient": [1.0]}))


def test_blame_without_a_profile_is_refused():
    with pytest.raises(InputError, match="profile"):
        replace(make_blame(), profiles=[])


def test_a_case_shows_blame_and_brings_it_back(tmp_path):
    case = make_case(blame=make_blame())
    page = render_page(case)
    assert 'id="blame"' in page
    assert 'href="#blame"' in page
    assert 'id="blame"' not in render_page(make_case())
    write_case(case, tmp_path / "case")
    back = read_case(tmp_path / "case").blame
    assert isinstance(back, BlameReport)
    assert back.describe() == make_blame().describe()
    for name, array in make_blame().arrays().items():
        assert np.array_equal(back.arrays()[name], array), name
    assert render_page(replace(case, blame=back)) == page
