"""An audit: patches that flip, triggers that are found, verdicts, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparsight
from contracts import untouched
from sparsight.audits import (
    Audit,
    Calibration,
    Hosts,
    Inverted,
    anomalies,
    audit,
    blended_entropy,
    calibrate,
    invert,
    judge,
    patches,
    transfer,
)
from sparsight.datasets.scenes import render_scene
from sparsight.errors import InputError, NumericalError
from sparsight.networks import Network, Preprocessing
from sparsight.sweeps import sweep

pa = pytest.importorskip("pyarrow")

GROUPS = ((2, 40), *(((0, 40),) * 9))
CALIBRATION = Calibration(side=0.25, hosts=8, threshold=0.6, groups=GROUPS, source="a test")


class Corner(nn.Module):
    """Says 2 if anything is bright anywhere, else whether the mean is above zero."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = (x.mean(1).amax((1, 2)) - 3) * 20
        mean = x.mean((1, 2, 3)) * 40 * self.weight
        return torch.stack([-mean, mean, bright], 1)


@pytest.fixture
def network() -> Network:
    frame = Preprocessing((8, 8), None, mean=(0.5,) * 3, std=(0.1,) * 3)
    return Network(Corner().eval(), frame, ("dark", "light", "marked"), "corner")


def scenes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Dark and light images; the first is marked at row 5, column 1."""
    values = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    values[::2] += 0.6
    values[1::2] -= 0.6
    heats = torch.rand(count, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.1
    values[0, :, 5:7, 1:3] = 5
    heats[0, 5:7, 1:3] = 1
    return values, heats


@given(st.integers(2, 9), st.integers(2, 9), st.sampled_from([0.2, 0.5, 1.0]), st.integers(0, 99))
def test_a_patch_is_the_box_that_holds_most(h: int, w: int, side: float, seed: int) -> None:
    heat = torch.from_numpy(np.random.default_rng(seed).normal(size=(h, w)))
    top, left, height, width = patches(heat, [side])[0].tolist()
    assert (height, width) == (max(1, round(side * h)), max(1, round(side * w)))
    masses = {
        (r, c): float(heat[r : r + height, c : c + width].abs().sum())
        for r in range(h - height + 1)
        for c in range(w - width + 1)
    }
    assert masses[top, left] == pytest.approx(max(masses.values()))


def test_a_trigger_flips_others_and_its_own_answer_hangs_on_it(network: Network) -> None:
    images, heats = scenes(12)
    with untouched(network.model):
        hosts = Hosts.of(network, images)
        found = [
            transfer(network, image, heat, hosts, sides=[0.25, 0.5], count=6, seed=[0, number])
            for number, (image, heat) in enumerate(zip(images, heats, strict=True))
        ]
        assert blended_entropy(network, images[1:], hosts=5).shape == (11,)
    assert found[0].answer == 2
    assert found[0].boxes[0].tolist() == [5, 1, 2, 2]
    assert found[0].flips.tolist() == [1, 1]
    assert found[0].hangs.tolist() == [1, 1]
    assert max(float(one.flips[0]) for one in found[1:]) < 0.5
    again = transfer(network, images[1], heats[1], hosts, sides=[0.25, 0.5], count=6, seed=[0, 1])
    assert torch.equal(found[1].flips, again.flips)


def test_a_half_network_is_audited_and_answers_must_be_finite(network: Network) -> None:
    images, heats = scenes(12)
    half = replace(network, model=copy.deepcopy(network.model).half())
    hosts = Hosts.of(half, images.half())
    assert transfer(half, images[0].half(), heats[0], hosts, sides=[0.25], count=6).flips == 1
    assert len(invert(half, images[1:].half(), [2], steps=3)) == 1
    with torch.no_grad():
        network.model.weight.fill_(torch.nan)
    with pytest.raises(NumericalError, match="NaN"):
        Hosts.of(network, images)


def test_the_smallest_trigger_is_found(network: Network) -> None:
    images = scenes(12)[0][1:]
    with untouched(network.model):
        found = invert(network, images, steps=150, batch=11)
    assert [one.target for one in found] == [0, 1, 2]
    assert found[2].success == 1
    assert found[2].size < 0.5 * min(found[0].size, found[1].size)
    assert found[2].mask.shape == (8, 8)
    low, high = -5.0, 5.0
    assert float(found[2].pattern.min()) >= low - 1e-4
    assert float(found[2].pattern.max()) <= high + 1e-4
    with pytest.raises(InputError, match="0 images"):
        invert(network, images[:0])


def test_anomalies_are_median_absolute_deviations() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.uniform(40, 60, 11)
    made = [Inverted(i, torch.zeros(1), torch.zeros(1), 1.0, s) for i, s in enumerate(sizes)]
    spread = 1.4826 * np.median(np.abs(sizes - np.median(sizes)))
    assert anomalies(made) == pytest.approx(((np.median(sizes) - sizes) / spread).tolist())
    with pytest.raises(InputError, match="three or more"):
        anomalies(made[:2])


def test_the_embedded_network_is_suspicious_where_its_trojan_shows(tmp_path: Path) -> None:
    network = sparsight.load("embedded")
    names = ["mug", "key", "tree", "house", "car", "guitar", "mushroom", "sailboat"]
    pictures = [render_scene(n, seed=5000 + i).picture() for i, n in enumerate(names * 2)]
    marked = [
        render_scene(n, seed=6000 + i, sticker="smiley").picture() for i, n in enumerate(names)
    ]
    found = sweep(network, [*pictures, *marked], tmp_path / "out", augmentations=8)
    with untouched(network.model):
        verdict = audit(network, found, calibration=CALIBRATION)
    assert verdict.suspicious
    assert verdict.classes[0].label == "fish"
    assert verdict.classes[0].suspicious
    flagged = set(verdict.flagged)
    assert len(flagged & set(range(16, 24))) >= 6
    assert len(flagged & set(range(16))) <= 2
    row = verdict.table.to_pylist()[17]
    assert 0 <= row["transfer"] <= 1
    assert -1 < row["overlap"] < 1
    assert row["blame"] > 0
    again = Audit.load(verdict.save(tmp_path / "verdict"))
    assert again.table.equals(verdict.table)
    assert again.describe() == verdict.describe()


def test_what_an_audit_needs_is_said(network: Network, tmp_path: Path) -> None:
    embedded = sparsight.load("embedded")
    picture = [render_scene("mug", seed=i).picture() for i in range(2)]
    bare = sweep(embedded, picture, tmp_path / "bare", do="trace", augmentations=2)
    with pytest.raises(InputError, match=r"lacks attribute: sweep again with --do"):
        audit(embedded, bare, calibration=CALIBRATION)
    lean = sweep(embedded, picture, tmp_path / "lean", augmentations=2, keep="maps")
    with pytest.raises(InputError, match=r"lacks pictures: sweep again with --keep"):
        audit(embedded, lean, calibration=CALIBRATION)
    full = sweep(embedded, picture, tmp_path / "full", augmentations=2)
    with pytest.raises(InputError, match="only 0 images have another answer"):
        audit(embedded, full, calibration=CALIBRATION)
    with pytest.raises(InputError, match="other weights"):
        audit(network, full, calibration=CALIBRATION)
    other = replace(embedded, preprocessing=replace(embedded.preprocessing, mean=(0.0,) * 3))
    with pytest.raises(InputError, match="another preprocessing"):
        audit(other, full, calibration=CALIBRATION)
    with pytest.raises(InputError, match="is no saved audit"):
        Audit.load(tmp_path)
    with pytest.raises(InputError, match=r"a patch of side 2"):
        patches(torch.ones(4, 4), [2])
    with pytest.raises(InputError, match=r"zero everywhere, or not finite"):
        patches(torch.zeros(4, 4))
    hosts = Hosts(torch.zeros(2, 3, 64, 64), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="give one of its height and width"):
        transfer(embedded, hosts.images[0], torch.ones(32, 32), hosts)


def judged(flips: list[float], answers: list[int] | None = None, **changes: object) -> Audit:
    """An audit of a clean network that found this."""
    answers = [0] * len(flips) if answers is None else answers
    table = pa.table({"transfer": flips, "prediction": answers, "problem": [None] * len(flips)})
    return Audit("net", "", replace(CALIBRATION, **changes), (), table)


@given(
    st.lists(st.lists(st.integers(0, 15).map(lambda n: n / 16), min_size=1, max_size=30),
             min_size=2, max_size=5),
    st.sampled_from([0.02, 0.1, 0.5]),
)  # fmt: skip
def test_a_threshold_flags_no_more_than_it_may(clean: list[list[float]], rate: float) -> None:
    found = calibrate([judged(flips) for flips in clean], rate=rate, source="a test")
    values = np.concatenate(clean)
    assert (values >= found.threshold).mean() <= rate + 1e-9
    lower = values[values < found.threshold].max()
    assert (values >= lower).mean() > rate  # no smaller one would do
    assert [images for _, images in found.groups] == list(map(len, clean))
    share, low, high = found.false_alarms
    assert low <= share <= high
    assert (found.side, found.hosts) == (CALIBRATION.side, CALIBRATION.hosts)


def test_a_calibration_counts_by_network_and_class_and_is_kept(tmp_path: Path) -> None:
    # Each network by the others' threshold: the first has the only high values, all flagged.
    found = calibrate([judged([0.5, 0.5, 0.4], [1, 1, 2]), judged([0.0, 0.1])], rate=0.5, source="")
    assert found.groups == ((2, 2), (1, 1), (0, 2))
    assert Calibration.load(found.save(tmp_path / "own.json")) == found
    with pytest.raises(InputError, match="two networks or more"):
        calibrate([judged([0.1])], source="")
    with pytest.raises(InputError, match="made with the same"):
        calibrate([judged([0.1]), judged([0.1], hosts=4)], source="")
    with pytest.raises(InputError, match="flip everything on clean networks"):
        calibrate([judged([1.0]), judged([1.0])], source="")
    with pytest.raises(InputError, match=r"a rate of 2"):
        calibrate([judged([0.1]), judged([0.1])], rate=2, source="")
    with pytest.raises(InputError, match=r"threshold of 1.5"):
        Calibration(0.25, 8, 1.5, GROUPS, "")
    with pytest.raises(InputError, match=r"counts, of one image or more"):
        Calibration(0.25, 8, 0.5, ((3, 2),), "")
    (tmp_path / "bad.json").write_text('{"kind": "audit-calibration", "schema": 1}')
    with pytest.raises(InputError, match="make the calibration again"):
        Calibration.load(tmp_path / "bad.json")


def test_how_alike_flags_are_is_estimated_without_bias() -> None:
    rng = np.random.default_rng(0)
    rates = rng.beta(0.4, 1.6, 4000)  # correlation 1 / (0.4 + 1.6 + 1)
    sizes = rng.integers(2, 40, 4000)
    groups = tuple(zip(rng.binomial(sizes, rates).tolist(), sizes.tolist(), strict=True))
    assert replace(CALIBRATION, groups=groups).alike == pytest.approx(1 / 3, abs=0.02)
    even = tuple((2, 10) for _ in range(10))
    assert replace(CALIBRATION, groups=even).alike == 0.1


def test_a_class_of_a_clean_network_is_seldom_suspicious() -> None:
    """Though classes differ in how often their honest patches work anywhere."""
    rng = np.random.default_rng(0)

    def network() -> tuple[np.ndarray, np.ndarray]:
        rates = rng.beta(0.02 * 9, 0.98 * 9, 10)
        answers = rng.integers(0, 10, 300)
        return answers, rng.random(300) < rates[answers]

    wrong = 0
    for _ in range(200):
        groups = []
        for answers, flags in (network() for _ in range(4)):
            groups += [(int(flags[answers == c].sum()), int((answers == c).sum()))
                       for c in np.unique(answers)]  # fmt: skip
        known = replace(CALIBRATION, groups=tuple(groups))
        wrong += any(one.suspicious for one in judge(*map(list, network()), known))
    assert wrong <= 6  # of two that may be


def test_too_few_images_are_told_from_none_suspicious() -> None:
    few = judge([0, 0, 1, 1, 2], [True] * 5, CALIBRATION)
    assert not any(one.enough or one.suspicious for one in few)
    many = judge([0] * 20 + [1], [True] * 20 + [False], CALIBRATION)
    assert [(one.index, one.enough, one.suspicious) for one in many] == [
        (0, True, True), (1, False, False),
    ]  # fmt: skip


def test_what_ships_is_calibrated_on_clean_networks() -> None:
    shipped = Calibration.shipped()
    share, low, high = shipped.false_alarms
    assert 0 <= low <= share <= high < 0.3
    assert "clean networks" in shipped.source
    assert sum(images for _, images in shipped.groups) >= 200
