"""The measurement of overlaps: the right pairs, honest intervals, a row for each kind."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import overlap
from overlap import Pair, Picture, choose, kind, measure, pairs, summary
from sparsight.datasets.scenes import render_scene
from sparsight.networks import load

BLANK = Image.new("RGB", (4, 4))


def test_kinds_of_pairs() -> None:
    right, same, taken, told_apart, other = (
        Picture(BLANK, *pair) for pair in ((1, 1), (1, 1), (2, 1), (1, 3), (4, 4))
    )
    assert kind(right, same) == "same class"
    assert kind(right, taken) == kind(taken, right) == "same answer"
    assert kind(right, told_apart) is None
    assert kind(right, other) == kind(taken, told_apart) == "other class"


def test_pairs_are_of_every_kind_and_not_too_many() -> None:
    pictures = [Picture(BLANK, *pair) for pair in ((1, 1), (1, 1), (2, 1), (3, 3), (3, 3), (4, 3))]
    found = pairs(pictures, 3)
    assert found == pairs(pictures, 3)
    counts = {name: sum(pair.kind == name for pair in found) for name in overlap.KINDS}
    assert counts == {"other views": 3, "same class": 2, "same answer": 3, "other class": 3}
    assert all((pair.first == pair.second) == (pair.kind == "other views") for pair in found)


def test_intervals_know_that_pairs_share_images() -> None:
    """One odd image in all pairs but one: pairs are many, images few, and the interval is wide."""
    ends = [(0, other) for other in range(1, 8)] + [(1, 2)]
    of_kind = [Pair(*end, "other class") for end in ends]
    rows = [{"value": float(first == 0), "unknown": np.nan, "one": 1.0} for first, _ in ends]
    rows[0]["one"] = np.nan
    found = summary(of_kind, rows)
    assert set(found) == {"value", "one"}
    assert found["value"]["mean"] == 7 / 8
    low, high = found["value"]["interval"]
    assert low < 0.6
    assert high == 1
    assert found["one"] == {"mean": 1.0, "interval": [1.0, 1.0]}


def test_a_measurement_from_pictures_to_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    original = overlap.trace
    seeds = []

    def quick(*arguments: object, seed: int) -> object:
        seeds.append(seed)
        return original(*arguments, seed=seed, augmentations=2)

    monkeypatch.setattr(overlap, "trace", quick)
    monkeypatch.setattr(overlap, "RESAMPLES", 20)
    network = load("embedded")
    names = [network.labels.index(name) for name in ("mug", "mug", "guitar")]
    scenes = [render_scene(network.labels[n], seed=i).picture() for i, n in enumerate(names)]
    pictures = choose(network, list(zip(scenes, names, strict=True)), 2, 2)
    assert [picture.label for picture in pictures] == sorted(names)
    rows = measure(network, pictures, 9)
    assert len(set(seeds)) == 2 * len(pictures)
    assert [row["pairs"] for row in rows] == ["other views", "same class", "other class"]
    for row in rows:
        found = row["measured"]
        low, high = found["corrected"]["interval"]
        assert 0 < low <= found["corrected"]["mean"] <= high <= 1
        assert set(overlap.THIRDS) < set(found)
        assert "layer fc" in found
        assert overlap.row(row).count("|") == 10
