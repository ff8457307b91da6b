"""Data that would make a page lie is refused where it enters."""

import numpy as np
import pytest
import torch

from reports.synthetic_case import make_case
from sparsight.errors import InputError, NumericalError
from sparsight.reports import ClassRow, LayerRow, MapPair, ViewPair


def test_tensors_and_arrays_are_the_same_to_a_pair():
    heat = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    ours = MapPair("m", "M", torch.tensor(heat, requires_grad=True), heat.astype(np.float64))
    assert ours.shape == (3, 4)
    assert np.array_equal(ours.heats["dense"], ours.heats["traced"])
    assert ours.heats["dense"].dtype == np.float32
    assert MapPair("m", "M", torch.ones(2, 2, dtype=torch.bfloat16)).heats["dense"].sum() == 4


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"dense": np.ones((3, 2, 2))}, InputError, "not \\(H, W\\)"),
        ({"dense": np.full((2, 2), np.nan)}, NumericalError, "NaN"),
        ({"dense": -np.ones((2, 2)), "signed": False}, InputError, "negative"),
        ({"dense": np.ones((2, 2)), "traced": np.ones((3, 2))}, InputError, "differ in shape"),
        ({"dense": np.ones((2, 2)), "refused": "no"}, InputError, "refusal"),
        ({}, InputError, "no map"),
    ],
)
def test_maps_that_cannot_be_shown_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        MapPair("m", "M", **arguments)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"image": np.zeros((3, 8, 8))}, InputError, "\\(H, W, 3\\)"),
        ({"image": np.full((8, 8, 3), 200.0)}, InputError, "0..1"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, InputError, "floats"),
        ({"truth_mask": np.zeros((5, 5), bool)}, InputError, "truth_mask"),
        ({"classes": ()}, InputError, "at least one class"),
        ({"kl": float("nan")}, NumericalError, "KL"),
        ({"sparsity": 95.0}, InputError, "sparsity"),
        ({"maps": (MapPair("m", "A", np.ones((2, 2))),) * 2}, InputError, "twice"),
    ],
)
def test_cases_that_would_lie_are_refused(changes, error, words):
    with pytest.raises(error, match=words):
        make_case(size=32, **changes)


def test_rows_check_their_numbers():
    with pytest.raises(InputError, match="softmax"):
        ClassRow(0, "cat", dense=7.2, traced=0.1)
    with pytest.raises(InputError, match="requested"):
        LayerRow("fc", "fc.weight", "Linear", 2, 2, 1, 95.0, 0.95)
    with pytest.raises(NumericalError, match="fc"):
        LayerRow("fc", "fc.weight", "Linear", 2, 2, 1, 0.95, 0.95, error=float("inf"))
    assert ClassRow(0, "cat", dense=1 + 5e-7, traced=-5e-7).dense == 1.0


def test_agreement_is_read_from_the_classes():
    assert make_case().agrees
    changed = make_case(classes=(ClassRow(0, "a", 0.6, 0.2), ClassRow(1, "b", 0.3, 0.7)))
    assert not changed.agrees
    assert (changed.dense_top.label, changed.traced_top.label) == ("a", "b")
    assert "3 layers" in repr(make_case(layers=3))


def test_a_score_is_a_number():
    with pytest.raises(NumericalError, match="traced score of a:1 is not finite"):
        ViewPair("a:1", "a", np.zeros((4, 4, 3)), np.zeros((4, 4, 3)), 1.0, float("nan"))


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((4, 4)), r"the traced visualization of a:1 has shape \(4, 4\)"),
        (np.full((4, 4, 3), np.nan), "must be finite"),
        (np.full((4, 4, 3), 2.0), "not in 0..1"),
    ],
)
def test_a_visualization_is_a_picture(picture, words):
    with pytest.raises(InputError, match=words):
        ViewPair("a:1", "a", np.zeros((4, 4, 3)), picture, 1.0, 1.0)
