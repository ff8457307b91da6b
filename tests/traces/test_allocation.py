"""Ratios by number, pattern, ramp and published set."""

import pytest
from torch import nn

from sparsight.errors import InputError
from sparsight.networks import weight_matrices
from sparsight.traces import PRESETS, allocate

BLOCK = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
LAYERS = weight_matrices(nn.ModuleDict({"a": BLOCK, "ab": nn.Linear(3, 3), "fc": nn.Linear(3, 3)}))


def test_constant() -> None:
    assert allocate(0.5, LAYERS) == dict.fromkeys(["a.0", "a.1", "ab", "fc"], 0.5)
    assert allocate("0.5", LAYERS) == allocate(0.5, LAYERS)


def test_the_longest_match_wins_and_paths_end_at_dots() -> None:
    found = allocate({"a": 0.9, "a.1": 0.2, "f*": 0.3}, LAYERS)
    assert found == {"a.0": 0.9, "a.1": 0.2, "ab": 0.0, "fc": 0.3}


def test_an_exact_name_beats_a_pattern_as_long() -> None:
    assert allocate({"?b": 0.5, "ab": 0.9, "*c": 0.1}, LAYERS)["ab"] == 0.9


def test_late_layers_alone() -> None:
    assert list(allocate("late:0.9", LAYERS).values()) == [0, 0, 0.9, 0.9]
    assert list(allocate("late:0.9", LAYERS[:1]).values()) == [0.9]


def test_ramp_rises_from_zero() -> None:
    assert list(allocate("ramp:0.9", LAYERS).values()) == pytest.approx([0, 0.3, 0.6, 0.9])


@pytest.mark.parametrize(
    "bad",
    [
        1.0,
        -0.1,
        float("nan"),
        "much",
        "ramp:2",
        "ramp:x",
        "late:1",
        "late:",
        {"zz": 0.5},
        {"a": 1.5},
        {"a": "x"},
    ],
)
def test_bad_ratios_name_the_remedy(bad: object) -> None:
    with pytest.raises(InputError) as caught:
        allocate(bad, LAYERS)
    assert "\n" not in str(caught.value)


def test_published_sets_fit_resnet50_only() -> None:
    from torchvision.models import resnet50

    layers = weight_matrices(resnet50())[1:]
    for name in PRESETS:
        ratios = allocate(name, layers)
        assert set(ratios.values()) <= {0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99}
    assert allocate("spade-lrp", layers)["layer4.0.downsample.0"] == 0.95
    assert allocate("fastspade-visualization", layers)["layer3.3.conv1"] == 0
    with pytest.raises(InputError, match=r"layer4\.2"):
        allocate("spade-lrp", LAYERS)
