"""The page of a federation: what it says, what it leaves out, what it escapes."""

from __future__ import annotations

from typing import Any

import pytest

from sparsight.errors import InputError
from sparsight.reports.federate import FederateReport
from sparsight.reports.federate_page import (
    accuracy_chart,
    client_chart,
    render_federate,
    sent_chart,
)

SETTINGS = {"algorithm": "spatl", "selector": "update", "budget": 0.25, "head": "local"}


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A round."""
    return {
        "round": number, "answered": [0, 1], "failed": {}, "up": 2**19, "down": 2**20,
        "seconds": 1.0, "loss": 2.0 / number, "sent": {"conv.weight": 0.5, "fc.weight": 0.1},
        **changes,
    }  # fmt: skip


def make(log: list[dict[str, Any]] | None = None, **changes: Any) -> FederateReport:
    """A report of three rounds, two of them measured."""
    rows = [
        row(1, local=0.4, least=0.1, **{"global": 0.2}), row(2, failed={"1": "<b>gone</b>"}),
        row(3, local=0.6, least=0.3, **{"global": 0.25}),
    ]  # fmt: skip
    clients = {"images": [3, 7], "counts": [[1, 2, 0], [0, 3, 4]], "distance": 0.4}
    fields = {
        "network": "<net>", "settings": SETTINGS, "classes": ["a", "<i>b</i>", "c"],
        "clients": clients, "log": rows if log is None else log, **changes,
    }  # fmt: skip
    return FederateReport(**fields)


def test_the_page_says_what_it_cost_and_what_was_sent() -> None:
    page = " ".join(render_federate(make()).replace("\u00a0", " ").replace("\u202f", " ").split())
    assert "Clients answer 60.0 % of their own images rightly, the worst of them 30.0 %" in page
    assert "1.5 MiB went up, 3 MiB down" in page
    assert "Accuracy against rounds" in page
    assert "Accuracy against mebibytes" in page
    assert "conv.weight, round 2: 50.0 %" in page
    assert "client 1: 4 of c" in page
    assert "&lt;net&gt;" in page
    assert "&lt;b&gt;gone&lt;/b&gt;" in page
    assert "<script" not in page
    assert "<b>gone" not in page
    assert "no protection of privacy" in page


def test_what_is_not_there_is_left_out() -> None:
    page = render_federate(make([row(1, sent={})]))
    assert "Accuracy against" not in page
    assert "What was sent" not in page
    assert "not taken" not in page
    shared = render_federate(make(settings={**SETTINGS, "head": "shared"}))
    assert "Heads stayed" not in shared
    with pytest.raises(InputError, match="run some"):
        make([])


def test_points_stand_where_their_values_are() -> None:
    chart = str(accuracy_chart(make(), by_bytes=True))
    assert chart.count('class="dot0"') == 2
    assert "local, round 3: 60.0 %" in chart
    assert ">4.5<" in chart, "mebibytes of three rounds"
    single = str(accuracy_chart(make([row(1, local=0.5, least=0.5)])))
    assert single.count("<circle") == 1
    assert str(sent_chart(make())).count('class="cell"') == 6
    assert str(client_chart(make())).count('class="cell"') == 6
