"""Metrics as data, and the maps that know no network."""

from __future__ import annotations

import pytest
import torch
from skimage.filters import sobel_h, sobel_v

from attribution.small import Plain, picture, seeded
from sparsight.attribution import attribute
from sparsight.attribution.metrics import BLIND, METRICS, centre_map, edge_map, random_map, roc_auc
from sparsight.errors import InputError

CHEAP = {"insertion": {"steps": 4}, "deletion": {"steps": 4}, "infidelity": {"samples": 4}}


@pytest.fixture(scope="module")
def everything():
    model = seeded(Plain())
    images = torch.stack([picture(seed=seed) for seed in range(2)])
    maps = [attribute(model, x, 1) for x in images]
    heat = torch.stack([one.heat() for one in maps])
    return {
        "network": model, "image": images, "target": 1, "method": "saliency", "heat": heat,
        "relevance": torch.stack([one.map for one in maps]), "mask": heat > heat.median(),
    }  # fmt: skip


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_takes_what_it_needs_and_keeps_its_range(name, everything):
    metric = METRICS[name]
    assert metric.name == name
    assert metric.title
    assert metric.reference
    assert metric.needs in metric.arguments
    assert set(metric.arguments) <= set(everything)
    value = metric(everything, **CHEAP.get(name, {}))
    assert value.shape == (2,)
    assert value.dtype == torch.float64
    low, high = metric.range
    assert ((value >= low) & (value <= high)).all()
    assert metric.best == (high if metric.direction == "higher" else low)
    assert abs(metric.best) != float("inf")
    assert metric.better(0.7, 0.3) == (metric.direction == "higher")
    assert not metric.better(float("nan"), 0.3)
    assert metric.direction in repr(metric)
    for missing in metric.arguments:
        rest = {key: given for key, given in everything.items() if key != missing}
        with pytest.raises(InputError, match=f"'{name}' needs {missing}"):
            metric(rest)
    with pytest.raises(InputError, match=f"metric '{name}' has no setting 'sugar'"):
        metric(everything, sugar=1)


def test_unknown_names_say_which_there_are():
    with pytest.raises(InputError, match="unknown metric 'accuracy': choose one of roc_auc"):
        METRICS["accuracy"]
    assert METRICS["pointing_game"].settings == {"tolerance": 0.0}
    assert METRICS["randomisation"].settings["after"] == "all"


@pytest.mark.parametrize("name", BLIND)
def test_blind_maps_are_called_alike_and_judge_like_any(name):
    images = torch.rand(3, 3, 12, 9)
    maps = BLIND[name](images, 4)
    assert maps.shape == (3, 12, 9)
    assert maps.dtype == torch.float32
    assert (maps >= 0).all()
    assert torch.equal(maps, BLIND[name](images, 4))
    for row in range(3):
        assert torch.equal(maps[row], BLIND[name](images[row, None], 4 + row)[0])
    roc_auc(maps, images[:, 0] > 0.5)
    with pytest.raises(InputError, match="holds NaN"):
        BLIND[name](images / 0, 0)


def test_random_maps_differ_and_leave_the_random_state_alone():
    state = torch.get_rng_state()
    maps = random_map(torch.zeros(2, 1, 8, 8))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(maps[0], maps[1])


def test_the_centre_is_hottest_in_the_centre():
    heat = centre_map(torch.zeros(1, 3, 5, 7))[0]
    assert heat.argmax() == 17
    assert heat[0, 0] == heat[-1, -1] == 0
    y, x = torch.meshgrid(torch.arange(5) - 2, torch.arange(7) - 3, indexing="ij")
    torch.testing.assert_close(heat, 1 - (x**2 + y**2) / 13)
    assert centre_map(torch.zeros(1, 3, 1, 1)).item() == 1


def test_edges_are_sobels():
    image = torch.rand(1, 3, 10, 12, dtype=torch.float64)
    grey = image[0].mean(0).numpy()
    expected = 4 * (sobel_h(grey) ** 2 + sobel_v(grey) ** 2) ** 0.5  # theirs is a mean
    found = edge_map(image)[0].numpy()
    assert found[1:-1, 1:-1] == pytest.approx(expected[1:-1, 1:-1], rel=1e-5)
    assert (edge_map(torch.full((1, 3, 5, 5), 0.7)) == 0).all()
