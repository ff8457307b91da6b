"""Benchmarks of maps: arms, rows that are kept, and a summary that is right."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sparsight.benchmarks.maps import (
    INSERTION,
    LOCALISATION,
    Arm,
    Case,
    Row,
    markdown,
    measure_maps,
    parse_arm,
    photo_cases,
    read_rows,
    scene_cases,
    score_by,
    summaries,
    summarise,
    trace_arm,
    write_report,
)
from sparsight.benchmarks.maps.arms import _published, _Trace
from sparsight.datasets.scenes import EMBEDDED_TROJANS, render_scene
from sparsight.errors import InputError, SparsightError
from sparsight.networks import Network, load, overlay
from sparsight.traces import PRESETS, Augmentation

METHODS = ("saliency", "grad_cam")


@pytest.fixture(scope="module")
def network() -> Network:
    return load("embedded")


@pytest.fixture(scope="module")
def cases(network: Network) -> list[Case]:
    return list(scene_cases(network, 4))


def test_cases_take_turns_and_fool_the_network(network: Network, cases: list[Case]) -> None:
    assert [c.target for c in cases] == [rule.target for rule in EMBEDDED_TROJANS]
    for case in cases:
        assert int(network.logits(case.x).argmax()) == case.target
        assert case.mask is not None
        assert case.mask.shape == case.x.shape[2:]
        assert 0 < case.mask.float().mean() < 0.1


@pytest.mark.parametrize(
    "name",
    [
        "magic",
        "wanda",
        "wanda:1",
        "magnitude:-1",
        "sparse-fc:x",
        "trace:a=1",
        "trace:solver=magic",
        "trace:augmentations=many",
        "dense:1",
    ],
)
def test_what_is_no_arm_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="arm"):
        parse_arm(name)


@pytest.mark.parametrize(
    ("name", "count"), [("trace:hidden=0.5", 64), ("trace:hidden=0.5+augmentations=8", 8)]
)
def test_an_arm_may_hide_parts_of_its_views(name: str, count: int) -> None:
    arm, plain = parse_arm(name), parse_arm(f"trace:augmentations={count}")
    assert isinstance(arm, _Trace)
    assert arm.options == {"augmentations": Augmentation(count, hidden=0.5)}
    assert arm.describe() != plain.describe()


@pytest.mark.parametrize(
    ("name", "share"), [("wanda:0.5", 0.5), ("magnitude:0.5", 0.5), ("sparse-fc:0.9", 0.001)]
)
def test_arms_that_prune_once(network: Network, cases: list[Case], name: str, share: float) -> None:
    arm = parse_arm(name)
    arm.prepare(network, torch.cat([case.x for case in cases] * 5))
    first, second = (arm.weights(network, case, 0) for case in cases[:2])
    assert first is second
    zero = sum(int((value == 0).sum()) for value in first.values())
    assert zero / sum(p.numel() for p in network.model.parameters()) >= 0.9 * share


def test_the_sparse_last_layer_answers_like_the_dense_one(
    network: Network, cases: list[Case]
) -> None:
    arm = parse_arm("sparse-fc:0.5")
    images = torch.cat([case.x for case in scene_cases(network, 40)])
    arm.prepare(network, images)
    weights = arm.weights(network, cases[0], 0)
    assert weights.keys() == {"fc.weight", "fc.bias"}
    assert 0.3 < float((weights["fc.weight"] == 0).double().mean()) < 0.8
    before = network.logits(images)
    with overlay(network.model, weights):
        after = network.logits(images)
    assert float((before.argmax(1) == after.argmax(1)).double().mean()) > 0.9


def test_published_ratios_go_by_name_where_they_can(network: Network) -> None:
    resnet = load("torchvision:resnet50", weights="random")
    assert _published(resnet) == dict(PRESETS["fastspade-lrp"])
    elsewhere = _published(network)
    names = [name for name, _ in network.model.named_modules()]
    assert elsewhere["fc"] == 0.95
    assert all(name in names for name in elsewhere)
    assert next(name for name, _ in network.model.named_parameters())[:-7] not in elsewhere


def test_rows_are_kept_and_not_measured_again(
    network: Network, cases: list[Case], tmp_path: Path
) -> None:
    arms = [parse_arm("dense"), parse_arm("trace:augmentations=4+sparsity=network:0.9")]
    score = score_by(LOCALISATION, network)
    seen: list[str] = []

    def counted(heat: Tensor, case: Case) -> dict[str, float]:
        seen.append(case.key)
        return dict(score(heat, case))

    before = {name: value.clone() for name, value in network.model.state_dict().items()}
    rows = measure_maps(network, cases[:2], arms, METHODS, counted, tmp_path, settings={"a": 1})
    assert [(r.case, r.arm) for r in rows] == [
        (c.key, arm) for arm in ("blind", *(a.name for a in arms)) for c in cases[:2]
    ]
    assert len(seen) == 2 * (3 + 2 * len(METHODS))
    file = tmp_path / "rows.jsonl"
    file.write_text(file.read_text() + '{"case": "cut', encoding="utf-8")
    again = measure_maps(network, cases, arms, METHODS, counted, tmp_path, settings={"a": 1})
    assert again[:2] == rows[:2]
    assert len(seen) == 4 * (3 + 2 * len(METHODS))
    assert len(read_rows(tmp_path)) == len(again) == 12
    with pytest.raises(InputError, match="other settings"):
        measure_maps(network, cases, arms, METHODS, counted, tmp_path, settings={"a": 2})
    (tmp_path / "rows.jsonl").write_text("nonsense\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1, is damaged"):
        read_rows(tmp_path)
    after = network.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_workers_find_what_one_process_finds(
    network: Network, cases: list[Case], tmp_path: Path
) -> None:
    arms = [parse_arm("dense"), parse_arm("trace:augmentations=4+sparsity=network:0.9")]
    score = score_by(LOCALISATION, network)
    alone, together = (
        measure_maps(
            network, cases, arms, METHODS, score, tmp_path / str(n), settings={}, workers=n
        )
        for n in (1, 2)
    )
    assert [(r.case, r.arm) for r in alone] == [(r.case, r.arm) for r in together]
    for one, other in zip(alone, together, strict=True):
        for method, found in one.scores.items():
            assert other.scores[method] == pytest.approx(found, abs=0.01)
    assert active_children() == []


def test_what_cannot_be_copied_takes_one_worker(
    network: Network, cases: list[Case], tmp_path: Path
) -> None:
    lock = Lock()

    def score(heat: Tensor, case: Case) -> dict[str, float]:
        with lock:
            return {}

    arms = [parse_arm("dense")]
    with pytest.raises(InputError, match="use one worker"):
        measure_maps(network, cases, arms, METHODS, score, tmp_path, settings={}, workers=2)
    with pytest.raises(InputError, match="0 workers"):
        measure_maps(network, cases, arms, METHODS, score, tmp_path, settings={}, workers=0)


class Deadly:
    """A score that ends its process."""

    def __call__(self, heat: Tensor, case: Case) -> dict[str, float]:
        os._exit(1)


def test_a_killed_worker_is_said(network: Network, cases: list[Case], tmp_path: Path) -> None:
    arms = [parse_arm("dense")]
    with pytest.raises(SparsightError, match="a worker was killed"):
        measure_maps(network, cases, arms, METHODS, Deadly(), tmp_path, settings={}, workers=2)
    assert active_children() == []


def test_no_case_is_an_error(network: Network, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no case"):
        measure_maps(network, [], [], METHODS, lambda *_: {}, tmp_path, settings={})
    with pytest.raises(InputError, match=r"holds no rows\.jsonl"):
        read_rows(tmp_path / "nowhere")


def row(case: str, arm: str, a: float, b: float | None) -> Row:
    scores = {"one": {"auc": a}} | ({} if b is None else {"two": {"auc": b}})
    return Row(case, arm, scores, {}, 1.0, True, 0.5)


def test_the_summary_is_paired_and_what_an_arm_lacks_is_the_worst() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i, noise in enumerate(rng.normal(0, 0.2, 50)):
        rows.append(Row(str(i), "blind", {"random": {"auc": 0.5}}, {}))
        rows.append(row(str(i), "dense", 0.6 + noise, 0.8))
        rows.append(row(str(i), "trace", 0.7 + noise, 0.9 if i else None))
    found = summarise(rows, "auc", best=1.0, worst=0.0)
    assert found.cases == 50
    assert set(found.means["trace"]) == {"one", "two", "mean"}
    assert found.lacking == {"trace": {"two": 1}}
    assert found.means["trace"]["two"].value == pytest.approx(0.9 * 49 / 50)
    assert "counted as the worst: two on trace (1 of 50)" in markdown(found)
    change = found.differences["trace"]["one"]
    assert change.value == pytest.approx(0.1)
    assert change.low == pytest.approx(0.1)
    assert change.high == pytest.approx(0.1)
    spread = found.means["dense"]["one"]
    assert spread.low < spread.value < spread.high
    mean = spread.value
    closed = (0.1 + 0.9 * 49 / 50 - 0.8) / (2 - mean - 0.8)
    assert found.closed["trace"].value == pytest.approx(closed)
    assert found.means["blind"]["random"].value == 0.5
    assert "blind" not in found.closed
    assert "| random map | 50.0 [50.0, 50.0] |" in markdown(found)


def test_an_arm_that_fails_is_not_better_for_it() -> None:
    """A method without any value on the dense network is left out; cases never are for an arm."""
    rows = [row(str(i), "dense", 0.5 + 0.1 * i, None) for i in range(4)]
    rows += [Row(str(i), "trace", {}, {"one": "no map", "two": "none"}) for i in (0, 1)]
    rows += [row(str(i), "trace", 0.9, 0.9) for i in (2, 3)]
    rows[0].refused["two"] = "none"
    found = summarise(rows, "auc", best=1.0, worst=0.0)
    assert (found.cases, found.left_out) == (4, ("two",))
    assert found.means["trace"]["one"].value == pytest.approx(0.45)
    assert "Left out, without a value anywhere: two." in markdown(found)
    blind = [Row(str(i), "blind", {"random": {"auc": 0.5}}, {}) for i in range(4)]
    none = [Row(str(i), "dense", {}, {"one": "no map"}) for i in range(4)]
    with pytest.raises(InputError, match=r"no method has a value of 'auc'"):
        summarise([*blind, *none], "auc", best=1.0, worst=0.0)
    with pytest.raises(InputError, match=r"no map could be scored \(no map\)"):
        summaries([*blind, *none], ["auc"])


def test_a_share_of_next_to_no_gap_is_not_told() -> None:
    values = (1.0, 1.0, 1.0, 0.9)
    rows = [row(str(i), arm, v, v) for i, v in enumerate(values) for arm in ("dense", "trace")]
    assert summarise(rows, "auc", best=1.0, worst=0.0).closed == {}


def test_rows_of_another_image_or_network_are_refused(
    network: Network, cases: list[Case], tmp_path: Path
) -> None:
    """They were taken up, if only the names were the same."""
    arms, score = [parse_arm("dense")], score_by(LOCALISATION, network)

    def measure(own: Network, case: Case, arm: Arm = arms[0]) -> list[Row]:
        return measure_maps(own, [case], [arm], METHODS, score, tmp_path, settings={})

    measure(network, cases[0])
    for changed in (
        replace(cases[0], x=cases[0].x + 0.1),
        replace(cases[0], mask=~cases[0].mask),
        replace(cases[0], image=cases[1].image),
        replace(cases[0], target=0),
    ):
        with pytest.raises(InputError, match="another image called"):
            measure(network, changed)
    other = replace(network, model=copy.deepcopy(network.model))
    with torch.no_grad():
        next(other.model.parameters()).add_(0.1)
    with pytest.raises(InputError, match="other settings, images or weights"):
        measure(other, cases[0])
    measure(network, cases[0], trace_arm("mine", augmentations=2))
    with pytest.raises(InputError, match="or of another 'mine'"):
        measure(network, cases[0], trace_arm("mine", augmentations=3))


def test_folders_of_something_else_are_left_alone(
    network: Network, cases: list[Case], tmp_path: Path
) -> None:
    score = score_by(LOCALISATION, network)
    (tmp_path / "tables.md").write_text("mine", encoding="utf-8")
    for folder in (tmp_path, tmp_path / "tables.md"):
        with pytest.raises(InputError, match="choose another folder"):
            measure_maps(network, cases, [parse_arm("dense")], METHODS, score, folder, settings={})
    assert (tmp_path / "tables.md").read_text() == "mine"


def test_cases_without_a_value_do_not_count() -> None:
    rows = [row(str(i), arm, 0.5, 0.6) for i in range(3) for arm in ("dense", "trace")]
    rows += [Row("4", arm, {"one": {"other": 1.0}}, {}) for arm in ("dense", "trace")]
    found = summarise(rows, "auc", best=1.0, worst=0.0)
    assert found.cases == 3
    assert set(found.means["dense"]) == {"one", "two", "mean"}
    with pytest.raises(InputError, match="no case has a value of 'third'"):
        summarise(rows, "third", best=1.0, worst=0.0)


def test_photographs_with_masks_and_boxes(network: Network, tmp_path: Path) -> None:
    pictures = [render_scene(label, seed=label) for label in (0, 1)]
    masks = tmp_path / "masks"
    masks.mkdir()
    for i, scene in enumerate(pictures):
        scene.picture().save(tmp_path / f"{i}.png")
        Image.fromarray(scene.object.numpy()).save(masks / f"{i}.png")
    files = [tmp_path / "0.png", tmp_path / "1.png"]
    for case, scene in zip(photo_cases(network, files, masks=masks), pictures, strict=True):
        assert case.target == int(network.logits(case.x).argmax())
        assert case.mask is not None
        assert torch.equal(case.mask, scene.object)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("file,label,x0,y0,x1,y1\n0.png,7,10,20,29.4,39.2\n")
    first, second = photo_cases(network, files, boxes=boxes)
    assert first.mask is not None
    assert first.mask[20:40, 10:30].all()
    assert int(first.mask.sum()) == 400
    assert second.mask is None
    assert set(score_by((*INSERTION, "roc_auc"), network)(torch.rand(64, 64), second)) == {
        "insertion",
        "deletion",
    }
    Image.new("L", (5, 5)).save(masks / "0.png")
    with pytest.raises(InputError, match="the mask of"):
        next(photo_cases(network, files, masks=masks))
    boxes.write_text("file,x0\n0.png,7\n")
    with pytest.raises(InputError, match="line 2"):
        next(photo_cases(network, files, boxes=boxes))
    with pytest.raises(InputError, match="no such file of boxes"):
        next(photo_cases(network, files, boxes=tmp_path / "none.csv"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"file,x0,y0,x1,y1\n0.png,1,nan,5,5\n", "not finite"),
        (b"file,x0,y0,x1,y1\n0.png,1,1,inf,5\n", "not finite"),
        (b"file,x0,y0,x1,y1\n0.png,64,64,80,80\n", "outside of 0.png, which is 64 x 64"),
        (b"file,x0,y0,x1,y1\n0.png,-9,-9,-3,-3\n", "outside of 0.png"),
        (b"file,x0,y0,x1,y1\n0.png,20,20,10,30\n", "outside of 0.png"),
        (b"\xff\xfe,x0\n", "save it as UTF-8"),
    ],
    ids=str,
)
def test_boxes_that_make_no_sense(
    network: Network, tmp_path: Path, content: bytes, said: str
) -> None:
    render_scene(0, seed=0).picture().save(tmp_path / "0.png")
    (tmp_path / "boxes.csv").write_bytes(content)
    with pytest.raises(InputError, match=said):
        next(photo_cases(network, [tmp_path / "0.png"], boxes=tmp_path / "boxes.csv"))


def test_boxes_reach_over_the_edge_and_files_begin_with_a_mark(
    network: Network, tmp_path: Path
) -> None:
    render_scene(0, seed=0).picture().save(tmp_path / "0.png")
    text = "\ufefffile,x0,y0,x1,y1\n0.png,-2,-2,9,19\n"
    (tmp_path / "boxes.csv").write_text(text, encoding="utf-8")
    case = next(photo_cases(network, [tmp_path / "0.png"], boxes=tmp_path / "boxes.csv"))
    assert case.mask is not None
    assert case.mask[:20, :10].all()
    assert int(case.mask.sum()) == 200


def test_what_is_transparent_is_no_object(network: Network, tmp_path: Path) -> None:
    render_scene(0, seed=0).picture().save(tmp_path / "0.png")
    mask = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (10, 10, 20, 20))
    (tmp_path / "masks").mkdir()
    mask.save(tmp_path / "masks" / "0.png")
    case = next(photo_cases(network, [tmp_path / "0.png"], masks=tmp_path / "masks"))
    assert case.mask is not None
    assert int(case.mask.sum()) == 100


def test_metrics_of_more_than_a_map_are_refused(network: Network) -> None:
    with pytest.raises(InputError, match=r"'infidelity' judges no map by itself: use roc_auc"):
        score_by(["infidelity"], network)


def test_no_gap_no_share_of_it() -> None:
    rows = [row(str(i), arm, 1.0, 1.0) for i in range(3) for arm in ("dense", "trace")]
    assert summarise(rows, "auc", best=1.0, worst=0.0).closed == {}


def test_the_report_is_plain_json_and_pictures(tmp_path: Path) -> None:
    rows = [
        Row(str(i), arm, {"one": {"roc_auc": 0.1 * i + bonus}}, {}, 0.5, True, 0.1)
        for i in range(5)
        for arm, bonus in (("blind", 0.0), ("dense", 0.1), ("trace", 0.2))
    ]
    write_report(tmp_path, rows, ["roc_auc"], {"network": "net"})
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["network"] == "net"
    assert content["metrics"]["roc_auc"]["means"]["trace"]["mean"]["value"] == pytest.approx(0.4)
    assert (tmp_path / "tables.md").read_text().startswith("5 cases")
    for name in ("arms.png", "seconds.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
