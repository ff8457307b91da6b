"""The page of a hardened network: what it says, what it escapes."""

from __future__ import annotations

import pytest

from sparsight.errors import InputError
from sparsight.reports.harden import HardenReport
from sparsight.reports.harden_page import epoch_chart, rate_chart, render_harden

EVIL = '<img src=x onerror="alert(1)">'

LOG = [
    {"stage": "pretrain", "epoch": 1, "loss": 2.0, "clean": 0.5, "robust": 0.2},
    {"stage": "prune", "epoch": 1, "loss": 3.0, "clean": 0.4, "robust": 0.1, "share": 0.3},
    {"stage": "finetune", "epoch": 1, "loss": 1.0, "clean": 0.6, "robust": 0.3},
]


def make(**changes: object) -> HardenReport:
    size = {"parameters": 100, "nonzero": 10, "products": 1e6, "file": 400, "seconds": 0.01}
    row = {"accuracy": 0.5, "interval": [0.4, 0.6], "balanced": 0.45}
    given: dict[str, object] = {
        "network": EVIL,
        "settings": {"mode": "weights", "method": "harp", "objective": EVIL, "seed": 0},
        "reached": True,
        "kept": [(EVIL, 5, 50), ("fc", 1, 1000)],
        "log": LOG,
        "sizes": {"before": size, "masked": size},
        "robustness": {"images": 100, "epsilon": 0.03, "clean": row, "pgd10": row},
    }
    return HardenReport(**(given | changes))


def test_the_page_escapes_everything() -> None:
    page = render_harden(make())
    assert "<img src=x" not in page
    assert "<script" not in page
    plain = page.replace("\u00a0", " ").replace("\u202f", " ")
    assert "50.0 % under pgd10" in plain
    assert "40.0 % to 60.0 %" in plain
    assert "not faster" in plain
    assert "never met the budget" not in plain


def test_it_says_what_was_not_reached_and_not_measured() -> None:
    page = render_harden(make(reached=False, robustness=None, log=[], sizes={}))
    assert "never met the budget" in page
    for absent in ("What holds", "How it came to be", "Size and speed"):
        assert absent not in page
    channels = {"mode": "channels", "method": "harp", "objective": "pgd"}
    assert "not faster" not in render_harden(make(settings=channels))


def test_charts_have_numbers() -> None:
    for chart in (
        epoch_chart("a", LOG, ["clean", "robust"]),
        epoch_chart("b", LOG[:1], ["loss"], shares=False),
        rate_chart([("a", 10, 10)], 1.0),
        rate_chart([("a", 1, 10**6), ("b", 3, 3)], 0.001),
    ):
        assert "nan" not in str(chart).lower()
        assert str(chart).startswith("<svg")
    assert str(epoch_chart("a", LOG, ["clean"])).count("line stage") == 2


def test_every_layer_has_a_bar() -> None:
    for kept in ([("a", 10, 10)], [("a", 1, 10), ("b", 1, 100)], [("a", 1, 1000)]):
        assert 'height="0.0"' not in str(rate_chart(kept, 0.5))


def test_a_page_without_layers_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to show"):
        make(kept=[])
