"""Two traces compared: counts and overlaps from the definition, chance by enumeration."""

from __future__ import annotations

import copy
import math
from itertools import product
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch import nn

from sparsight.errors import InputError, NumericalError
from sparsight.networks import Network, Preprocessing
from sparsight.traces import LayerTrace, Overlap, Trace, compare, trace
from sparsight.traces.overlap import chance_overlap

IMAGE = Image.effect_noise((20, 20), 80).convert("RGB")


class Small(nn.Module):
    """A convolution in groups, fused projections, a head."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(torch.relu(self.stem(x)))).flatten(2).transpose(1, 2)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def network(model: nn.Module | None = None) -> Network:
    torch.manual_seed(0)
    model = model or Small()
    labels = tuple("abcdef"[: model.head.out_features])
    return Network(model.eval(), Preprocessing((16, 16), 16), labels)


def hand_made(weight: torch.Tensor, requested: float = 0.5, name: str = "fc") -> Trace:
    rows, columns = weight.shape
    layer = LayerTrace(
        name, f"{name}.weight", "linear", 1, rows, columns, requested, 0.5, 0.1, 0.01
    )
    logits = torch.tensor([0.0, 1.0])
    tensors = {f"{name}.weight": weight} if requested else {}
    return Trace(tensors, (layer,), logits, logits.flip(0), {})


masks = st.integers(0, 40).flatmap(
    lambda size: st.tuples(*[arrays(np.bool_, size) for _ in range(2)])
)


@given(masks)
def test_overlap_is_that_of_sets(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found = Overlap.of(*map(torch.from_numpy, pair))
    a, b = (set(np.flatnonzero(mask)) for mask in pair)
    assert (found.total, found.a, found.b, found.both) == (len(pair[0]), len(a), len(b), len(a & b))
    assert found.jaccard == (len(a & b) / len(a | b) if a | b else 1)
    swapped = Overlap.of(*map(torch.from_numpy, pair[::-1]))
    assert swapped.jaccard == found.jaccard
    assert swapped.chance == pytest.approx(found.chance, abs=1e-12)
    if a == b and 0 < len(a) < len(pair[0]):
        assert found.corrected == pytest.approx(1)


def ways(things: int, first: int, second: int) -> dict[int, float]:
    """Probability of each size of the intersection, by counting."""
    least = max(0, first + second - things)
    return {
        both: comb(first, both) * comb(things - first, second - both) / comb(things, second)
        for both in range(least, min(first, second) + 1)
    }


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int]:
    things = draw(st.integers(0, 60))
    return things, draw(st.integers(0, things)), draw(st.integers(0, things))


@given(st.lists(sizes(), min_size=1, max_size=3))
def test_chance_is_the_expected_overlap(places: list[tuple[int, int, int]]) -> None:
    total = sum(first + second for _, first, second in places)
    expected = 0.0
    for outcome in product(*(ways(*place).items() for place in places)):
        both = sum(size for size, _ in outcome)
        probability = math.prod(chance for _, chance in outcome)
        expected += probability * (both / (total - both) if total else 1.0)
    assert chance_overlap(places) == pytest.approx(expected, abs=1e-12)


def test_chance_of_layers_as_large_as_real_ones() -> None:
    """Where the spread is small against the mean, the overlap at the mean is the answer."""
    places = [(2_359_296, 235_930, 1_179_648), (2_000_000, 200_000, 100_000)]
    both = sum(a * b / n for n, a, b in places)
    either = sum(a + b for _, a, b in places) - both
    assert chance_overlap(places) == pytest.approx(both / either, rel=1e-5)
    assert chance_overlap([(10**7, 3, 2)]) == pytest.approx(6 / 10**7 / 4, rel=1e-4)


def test_sets_kept_whole_have_no_corrected_overlap() -> None:
    whole = Overlap.of(torch.ones(7, dtype=torch.bool), torch.ones(7, dtype=torch.bool))
    assert (whole.jaccard, whole.chance, whole.corrected) == (1, 1, None)
    together = Overlap.together([whole, whole])
    assert (together.total, together.both, together.corrected) == (14, 14, None)
    assert Overlap.together([]).corrected is None


def test_chance_together_keeps_to_layers() -> None:
    """Ten weights in one layer and none in the other: random masks of those sizes agree fully."""
    full, empty = torch.ones(10, dtype=torch.bool), torch.zeros(10, dtype=torch.bool)
    parts = [Overlap.of(full, full), Overlap.of(empty, empty)]
    assert Overlap.together(parts).chance == 1


def test_counts_values_and_predictions() -> None:
    a = hand_made(torch.tensor([[1.0, 2, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]))
    b = hand_made(torch.tensor([[1.0, 0, 5, 0], [6, 0, 0, 0], [4, 0, 0, 0]]))
    found = compare(a, b)
    (layer,) = found.layers
    assert (layer.name, layer.parameter) == ("fc", "fc.weight")
    assert found.weights == layer.weights
    assert (layer.weights.total, layer.weights.a, layer.weights.b, layer.weights.both) == (
        12,
        4,
        4,
        2,
    )
    assert layer.weights.jaccard == 2 / 6
    assert (layer.units.total, layer.units.a, layer.units.b, layer.units.both) == (3, 2, 3, 2)
    difference = 1 / ((math.sqrt(1 + 9) + math.sqrt(1 + 16)) / 2)
    assert layer.difference == pytest.approx(difference)
    assert found.difference == pytest.approx(difference)
    assert found.predictions == ((1, 0), (1, 0))
    assert "33.3%" in repr(found)


def test_values_without_common_support() -> None:
    a, b = hand_made(torch.tensor([[1.0, 0.0]])), hand_made(torch.tensor([[0.0, 1.0]]))
    found = compare(a, b)
    assert found.difference is None
    assert found.weights.jaccard == 0
    assert found.weights.corrected < 0
    assert "no common values" in repr(found)


def test_a_layer_that_one_trace_left_dense_is_kept_whole_there() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    found = compare(hand_made(weight), hand_made(weight, requested=0))
    assert (found.weights.a, found.weights.b, found.weights.both) == (1, 4, 1)
    assert found.weights.jaccard == found.weights.chance == 0.25
    assert found.weights.corrected == 0
    assert found.difference is None
    nothing = compare(hand_made(weight, requested=0), hand_made(weight, requested=0))
    assert nothing.layers == ()
    assert nothing.weights.corrected is None
    assert "0 layers" in repr(nothing)


def test_values_that_are_not_finite_are_refused() -> None:
    broken = hand_made(torch.tensor([[1.0, float("inf")]]))
    with pytest.raises(NumericalError, match="NaN or infinite"):
        compare(broken, hand_made(torch.ones(1, 2)))


def test_real_traces_layer_by_layer() -> None:
    net = network()
    a = trace(net, IMAGE, augmentations=4, sparsity=0.5)
    b = trace(net, IMAGE, augmentations=4, sparsity={"attention[key]": 0.7, "conv": 0.4})
    before = copy.deepcopy((dict(a.tensors), dict(b.tensors)))
    found = compare(a, b)
    for trace_, saved in zip((a, b), before, strict=True):
        assert all(torch.equal(trace_.tensors[name], value) for name, value in saved.items())
    rows = {layer.name: layer for layer in found.layers}
    assert list(rows) == [layer.name for layer in a.layers if layer.name != "stem"]
    fused = [(t.tensors["attention.in_proj_weight"] != 0).chunk(3) for t in (a, b)]
    for part, name in enumerate(("query", "key", "value")):
        one, two = (masks[part] for masks in fused)
        weights = rows[f"attention[{name}]"].weights
        assert (weights.a, weights.b, weights.both) == (one.sum(), two.sum(), (one & two).sum())
        units = rows[f"attention[{name}]"].units
        assert (units.total, units.a) == (8, one.any(1).sum())
    assert rows["attention[query]"].weights.b == 64  # dense there, but stored with the keys
    assert rows["attention[query]"].difference is not None
    assert rows["head"].difference is None
    one, two = (t.tensors["conv.weight"].double() for t in (a, b))
    both = (one != 0) & (two != 0)
    mean = (one[both].norm() + two[both].norm()) / 2
    assert rows["conv"].difference == pytest.approx(float((one - two)[both].norm() / mean))
    assert rows["conv"].units.total == 8
    assert found.weights.both == sum(row.weights.both for row in found.layers)
    assert found.units.total == sum(row.units.total for row in found.layers)


def test_a_trace_equals_itself() -> None:
    found = trace(network(), IMAGE, augmentations=4, sparsity=0.5)
    same = compare(found, found)
    assert same.weights.jaccard == same.weights.corrected == same.units.jaccard == 1
    assert same.difference == 0


def test_description_is_plain() -> None:
    net = network()
    found = compare(*(trace(net, IMAGE, augmentations=2, seed=seed) for seed in (0, 1)))
    described = found.describe()
    assert described["weights"]["jaccard"] == found.weights.jaccard
    assert [layer["name"] for layer in described["layers"]] == [row.name for row in found.layers]
    assert described["predictions"]["a"] == list(found.predictions[0])


def other_groups() -> nn.Module:
    model = Small()
    model.conv = nn.Conv2d(8, 8, 3, padding=1, groups=4)
    return model


def other_kernel() -> nn.Module:
    model = Small()
    model.conv = nn.Conv2d(8, 8, (9, 1), padding=(4, 0), groups=2)
    return model


def no_attention() -> nn.Module:
    model = Small()
    model.attention = nn.MultiheadAttention(8, 2, kdim=8, vdim=4, batch_first=True)
    model.forward = lambda x: model.head(torch.relu(model.conv(model.stem(x))).mean((2, 3)))
    return model


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (Small(6), r"'head.weight' is linear 1 x 5 x 8 in the first and linear 1 x 6 x 8 in"),
        (other_groups(), "'conv.weight' is conv 2 x 4 x 36 in the first and conv 4 x 2 x 18"),
        (other_kernel(), r"'conv.weight' is \(8, 4, 3, 3\) in the first and \(8, 4, 9, 1\)"),
        (no_attention(), "'attention.in_proj_weight' is"),
    ],
    ids=["classes", "groups", "kernel", "layers"],
)
def test_other_networks_are_refused_by_their_first_difference(model: nn.Module, named: str) -> None:
    ours = trace(network(), IMAGE, augmentations=2)
    theirs = trace(network(model), IMAGE, augmentations=2)
    with pytest.raises(InputError, match=named):
        compare(ours, theirs)


def test_an_absent_layer_is_named_from_both_sides() -> None:
    a, b = hand_made(torch.ones(2, 2)), hand_made(torch.ones(2, 2), name="other")
    with pytest.raises(
        InputError, match=r"'fc.weight' is linear 1 x 2 x 2 in the first and absent"
    ):
        compare(a, b)
    more = Trace(b.tensors | a.tensors, b.layers + a.layers, a.dense_logits, a.traced_logits, {})
    with pytest.raises(InputError, match=r"'other.weight' is absent in the first"):
        compare(a, more)
