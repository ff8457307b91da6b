"""Tuning: the greedy search against one by hand, what wrong ratios cost, resuming, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from contracts import untouched
from sparsight.attribution import attribute
from sparsight.attribution.metrics import roc_auc
from sparsight.benchmarks.maps import (
    GRID,
    Case,
    Solutions,
    scene_cases,
    tune_and_compare,
    tune_ratios,
    wrong_ratios,
)
from sparsight.errors import InputError
from sparsight.networks import Network, load
from sparsight.traces import trace


@pytest.fixture(scope="module")
def network() -> Network:
    return load("embedded")


@pytest.fixture(scope="module")
def cases(network: Network) -> list[Case]:
    return list(scene_cases(network, 4))


@pytest.fixture(scope="module")
def solutions(
    network: Network, cases: list[Case], tmp_path_factory: pytest.TempPathFactory
) -> Solutions:
    found = Solutions(network, cases[:2], tmp_path_factory.mktemp("solved"), augmentations=4)
    found.solve()
    return found


def score(network: Network, case: Case, number: int, ratios: dict[str, float]) -> float:
    """Score a map on a trace that is made from nothing."""
    asked = {block: ratio for block, ratio in ratios.items() if ratio > 0}
    found = trace(
        network, case.image, sparsity=asked, solver="sparsegpt", augmentations=4, seed=number
    )
    with found.applied(network) as model:
        assert isinstance(model, torch.nn.Module)
        heat = attribute(network, case.x, case.target, "saliency").heat("sum_abs")
    assert case.mask is not None
    return float(roc_auc(heat[None], case.mask[None]))


def test_solutions_are_those_of_a_trace(network: Network, solutions: Solutions) -> None:
    ratios = {"stage2.1": 0.6, "fc": 0.95}
    kept = solutions.weights(1, ratios)
    made = trace(
        network, solutions.cases[1].image, sparsity=ratios, solver="sparsegpt", augmentations=4,
        seed=1,
    )  # fmt: skip
    assert set(kept) == set(made.tensors)
    assert all(torch.equal(kept[name], made.tensors[name]) for name in kept)


def test_the_search_is_greedy_from_the_output_on(
    network: Network, solutions: Solutions, tmp_path: Path
) -> None:
    with untouched(network.model):
        tuned = tune_ratios(
            solutions, "saliency", "roc_auc", tmp_path / "search.json", reduction="sum_abs"
        )
    assert list(tuned.ratios) == list(reversed(solutions.blocks))
    assert set(tuned.ratios.values()) <= set(GRID)
    decided: dict[str, float] = {}
    for block in list(tuned.ratios)[:2]:
        means = {
            ratio: sum(
                score(network, case, number, {**decided, block: ratio})
                for number, case in enumerate(solutions.cases)
            )
            / 2
            for ratio in GRID
        }
        assert tuned.steps[block] == pytest.approx({f"{r:g}": m for r, m in means.items()})
        decided[block] = max(GRID, key=lambda r: (means[r], r))
        assert tuned.ratios[block] == decided[block]


def test_what_is_there_is_not_searched_again(
    solutions: Solutions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "search.json"
    first = tune_ratios(solutions, "saliency", "roc_auc", file)
    content = json.loads(file.read_text())
    for name in list(content["ratios"])[3:]:
        del content["ratios"][name], content["steps"][name]
    file.write_text(json.dumps(content))
    assert tune_ratios(solutions, "saliency", "roc_auc", file) == first
    wrong = wrong_ratios(solutions, first, tmp_path / "wrong.json")
    monkeypatch.setattr(Solutions, "weights", lambda *_: pytest.fail("measured again"))
    assert tune_ratios(solutions, "saliency", "roc_auc", file) == first
    assert wrong_ratios(solutions, first, tmp_path / "wrong.json") == wrong
    for read in (tune_ratios, lambda *a: wrong_ratios(a[0], first, a[3])):
        (tmp_path / "other.json").write_text('{"facts": {}}')
        with pytest.raises(InputError, match="another folder"):
            read(solutions, "saliency", "roc_auc", tmp_path / "other.json")


def test_lower_may_be_better(network: Network, cases: list[Case], tmp_path: Path) -> None:
    one = Solutions(network, cases[:1], tmp_path, solver="wanda", augmentations=2)
    one.solve()
    tuned = tune_ratios(one, "grad_cam", "deletion", tmp_path / "search.json")
    first = tuned.steps["fc"]
    assert first[f"{tuned.ratios['fc']:g}"] == min(first.values())
    assert all(0 <= value <= 1 for value in first.values())


def test_a_map_without_a_value_is_the_worst(
    network: Network, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was NaN, in the search and in its file."""
    one = Solutions(network, cases[:1], tmp_path / "solved", solver="wanda", augmentations=2)
    one.solve()
    monkeypatch.setattr(
        "sparsight.benchmarks.maps.score._Scores.__call__", lambda *_: {"roc_auc": float("nan")}
    )
    tuned = tune_ratios(one, "saliency", "roc_auc", tmp_path / "search.json")
    assert {value for step in tuned.steps.values() for value in step.values()} == {0.0}


def test_solutions_of_something_else_are_not_used(
    network: Network, cases: list[Case], tmp_path: Path
) -> None:
    Solutions(network, cases[:1], tmp_path, solver="wanda", augmentations=2).solve()
    for changed in ({"solver": "magnitude"}, {"augmentations": 3}, {"seed": 1}):
        other = Solutions(
            network, cases[:1], tmp_path, **{"solver": "wanda", "augmentations": 2} | changed
        )
        with pytest.raises(InputError, match="other settings"):
            other.solve()
    with pytest.raises(InputError, match="other settings"):
        Solutions(network, cases[1:2], tmp_path, solver="wanda", augmentations=2).solve()


def test_what_a_wrong_ratio_costs(solutions: Solutions, tmp_path: Path) -> None:
    tuned = tune_ratios(solutions, "saliency", "roc_auc", tmp_path / "search.json")
    found = wrong_ratios(solutions, tuned, tmp_path / "wrong.json")
    # on the images that were tuned on, the block decided last cannot be improved
    last = next(reversed(found.changed))
    assert all(change.value <= 1e-12 for change in found.changed[last].values())
    assert f"{tuned.ratios[last]:g}" not in found.changed[last]
    assert set(found.everywhere) == {f"{ratio:g}" for ratio in GRID}
    table = found.markdown(tuned.ratios).splitlines()
    assert len(table) == 2 + len(solutions.blocks) + 1


def test_other_cases_are_compared_on(
    network: Network, cases: list[Case], solutions: Solutions, tmp_path: Path
) -> None:
    unseen = Solutions(network, cases[2:], tmp_path / "solved", augmentations=4)
    found = tune_and_compare(solutions, unseen, ["saliency"], "roc_auc", tmp_path / "out")
    means = found.judged.summaries["roc_auc"].means
    assert list(means) == ["blind", "dense", "trace", "ramp", "for saliency"]
    assert found.wrong["saliency"].tuned.value == pytest.approx(
        means["for saliency"]["saliency"].value, abs=0.01
    )
    ratios = json.loads((tmp_path / "out" / "ratios-saliency.json").read_text())
    assert ratios == found.tuned["saliency"].ratios
    assert "| for saliency |" in (tmp_path / "out" / "tables.md").read_text()


def test_refusals(network: Network, cases: list[Case], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="works front to back"):
        Solutions(network, cases, tmp_path, solver="compensated")
    with pytest.raises(InputError, match="no case to tune on"):
        tune_ratios(Solutions(network, [], tmp_path), "saliency", "roc_auc", tmp_path / "a.json")
    nowhere = [Case("a", cases[0].x, cases[0].x, 1, None)]
    blind = Solutions(network, nowhere, tmp_path, augmentations=2)
    blind.solve()
    with pytest.raises(InputError, match="needs a place"):
        tune_ratios(blind, "saliency", "roc_auc", tmp_path / "a.json")
