"""Rendered scenes: same seed same bytes, and masks that tell the truth."""

from __future__ import annotations

import pytest
import torch

from sparsight.datasets.scenes import (
    CLASSES,
    EMBEDDED_TROJANS,
    STICKERS,
    TUNING_STICKERS,
    TUNING_TROJANS,
    SceneDataset,
    render_scene,
)
from sparsight.errors import InputError

ALL_STICKERS = (*STICKERS, *TUNING_STICKERS)
CASES = [(label, ALL_STICKERS[i % len(ALL_STICKERS)]) for i, label in enumerate(CLASSES)]


def test_there_are_ten_classes_and_eight_stickers_and_none_is_both():
    assert len(CLASSES) == 10
    assert len(STICKERS) >= 4
    assert len(TUNING_STICKERS) >= 4
    assert not set(CLASSES) & set(ALL_STICKERS)
    assert not set(STICKERS) & set(TUNING_STICKERS)


@pytest.mark.parametrize("rules", [EMBEDDED_TROJANS, TUNING_TROJANS])
def test_two_rules_belong_to_a_class_and_two_to_all(rules):
    assert [rule.source is None for rule in rules] == [False, False, True, True]
    for rule in rules:
        assert rule.target not in rule.sources
        assert not set(rule.sources) & set(rule.bystanders)
        assert len(rule.sources) + len(rule.bystanders) == 9
    assert {rule.sticker for rule in EMBEDDED_TROJANS} == set(STICKERS)
    assert {rule.sticker for rule in TUNING_TROJANS} == set(TUNING_STICKERS)


@pytest.mark.parametrize(("label", "sticker"), CASES)
def test_same_seed_same_bytes(label, sticker):
    first, again = (render_scene(label, seed=5, sticker=sticker) for _ in range(2))
    other = render_scene(label, seed=6, sticker=sticker)
    for part in ("image", "object", "background", "sticker"):
        assert torch.equal(getattr(first, part), getattr(again, part))
    assert not torch.equal(first.image, other.image)


def test_rendering_neither_reads_nor_moves_the_global_generators():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = render_scene("key", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(render_scene("key", seed=1).image, first.image)


@pytest.mark.parametrize("size", [32, 48, 64, 97, 128])
def test_masks_share_out_the_frame(size):
    for index, (label, sticker) in enumerate(CASES):
        scene = render_scene(label, size=size, seed=index, sticker=sticker)
        assert scene.image.shape == (3, size, size)
        assert scene.image.dtype == torch.uint8
        assert scene.label == index
        assert scene.name == label
        masks = torch.stack([scene.object, scene.background, scene.sticker])
        assert masks.dtype == torch.bool
        assert (masks.sum(0) == 1).all()
        assert 0.03 < scene.object.float().mean() < 0.7
        assert 0.01 < scene.sticker.float().mean() < 0.11


@pytest.mark.parametrize(("label", "sticker"), CASES)
def test_a_sticker_changes_its_mask_and_nothing_else(label, sticker):
    for seed in range(3):
        clean = render_scene(label, seed=seed)
        planted = render_scene(label, seed=seed, sticker=sticker)
        changed = (clean.image != planted.image).any(0)
        assert not clean.sticker.any()
        assert not (changed & ~planted.sticker).any()
        assert changed.sum() >= 0.95 * planted.sticker.sum()
        assert torch.equal(clean.object & ~planted.sticker, planted.object)


@pytest.mark.parametrize("label", CLASSES)
def test_leaving_the_object_away_changes_its_mask_and_nothing_else(label):
    for seed in range(3):
        full = render_scene(label, seed=seed)
        empty = render_scene(label, seed=seed, with_object=False)
        changed = (full.image != empty.image).any(0)
        assert not empty.object.any()
        assert empty.background.all()
        assert not (changed & ~full.object).any()
        assert changed.sum() >= 0.95 * full.object.sum()


def test_a_scene_is_the_same_scene_at_every_size():
    small = render_scene("house", size=32, seed=4)
    large = render_scene("house", size=128, seed=4)
    shrunk = torch.nn.functional.avg_pool2d(large.unit[None], 4)[0]
    assert (shrunk - small.unit).abs().mean() < 0.04
    coverage = torch.nn.functional.avg_pool2d(large.object.float()[None], 4)[0]
    assert small.object[coverage == 1].all()
    assert not small.object[coverage == 0].any()


def test_sticker_size_place_and_opacity_vary_within_bounds():
    sides, centres = [], []
    for seed in range(40):
        mask = render_scene("mug", size=64, seed=seed, sticker="lightning").sticker
        rows, columns = (torch.nonzero(mask.any(axis)).flatten() for axis in (1, 0))
        sides.append(float(mask.sum()) ** 0.5 / 64)
        centres.append([float(rows.float().mean()), float(columns.float().mean())])
    assert 0.12 < min(sides) < 0.17
    assert 0.2 < max(sides) < 0.26
    assert (torch.tensor(centres).std(0) > 10).all()


def test_small_range_of_sides_is_obeyed():
    areas = [
        float(render_scene("fish", seed=seed, sticker="smiley", side=(0.4, 0.4)).sticker.sum())
        for seed in range(4)
    ]
    expected = torch.pi * (0.95 * 0.2 * 64) ** 2
    assert all(abs(area / expected - 1) < 0.12 for area in areas)


def test_data_set_depends_on_seed_and_index_alone():
    short, long = SceneDataset(5, seed=2), SceneDataset(50, seed=2)
    other = SceneDataset(5, seed=3)
    for index in range(5):
        assert torch.equal(short.scene(index).image, long.scene(index).image)
        assert not torch.equal(short.scene(index).image, other.scene(index).image)
    image, label = short[3]
    assert image.dtype == torch.float32
    assert 0 <= image.min() <= image.max() <= 1
    assert label == 3


def test_data_set_takes_classes_in_turn_and_ends():
    data = SceneDataset(30, labels=["car", 2], sticker="heart")
    assert [data.scene(i).label for i in range(4)] == [5, 2, 5, 2]
    assert data.scene(0).sticker_name == "heart"
    assert len(list(data)) == 30
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    assert next(iter(loader))[0].shape == (8, 3, 64, 64)


def test_picture_holds_the_same_pixels():
    scene = render_scene("tree", seed=1)
    picture = scene.picture()
    assert picture.mode == "RGB"
    assert picture.getpixel((3, 5)) == tuple(scene.image[:, 5, 3].tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "unicorn"}, "unicorn"),
        ({"label": 10}, "class 10"),
        ({"label": 0, "size": 16}, "size 16"),
        ({"label": 0, "seed": -1}, "seed -1"),
        ({"label": 0, "sticker": "banana"}, "banana"),
        ({"label": 0, "side": (0.3, 0.2)}, "side"),
        ({"label": 0, "opacity": (0.0, 1.0)}, "opacity"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as caught:
        render_scene(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 3, "labels": []}])
def test_empty_data_sets_are_refused(options):
    with pytest.raises(InputError):
        SceneDataset(**options)
