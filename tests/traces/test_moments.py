"""Second moments equal X X^T of the written-out columns, whatever the geometry."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings
from torch import nn

from sparsight.networks import LayerCall, Recording, weight_matrices
from sparsight.traces.moments import (
    DenseMoment,
    Moment,
    SampleMoment,
    ShiftMoment,
    gram,
    moment_for,
)


def moment_and_reference(
    layer: nn.Module, batches: list[torch.Tensor]
) -> tuple[Moment, torch.Tensor]:
    moments: list[Moment] = []
    reference: list[torch.Tensor] = []

    def add(call: LayerCall) -> None:
        if not moments:
            moments.append(moment_for(call, 10**6))
        moments[0].add(call)
        columns = call.columns().double()
        reference.append(columns @ columns.transpose(1, 2))
        assert call.columns().shape[-1] * len(batches[0]) > 0

    with torch.no_grad(), Recording(layer, weight_matrices(layer), add):
        for batch in batches:
            layer(batch)
    return moments[0], torch.stack(reference).sum(0)


@settings(max_examples=80, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.sampled_from([(1, 1), (1, 1), (1, 1), (2, 2), (1, 2)]),
    padding=st.one_of(st.tuples(st.integers(0, 4), st.integers(0, 4)), st.sampled_from(["same"])),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    groups=st.sampled_from([1, 1, 1, 2, 4]),
    seed=st.integers(0, 2**16),
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_convolutions(kernel, stride, padding, dilation, size, groups, seed) -> None:
    assume(padding != "same" or stride == (1, 1))
    pads = (0, 0) if padding == "same" else padding
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    assume(
        padding == "same" or all(s + 2 * p > r for s, p, r in zip(size, pads, reach, strict=True))
    )
    torch.manual_seed(seed)
    layer = nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups).double()
    batches = [torch.randn(n, 4, *size, dtype=torch.float64) for n in (2, 1)]
    moment, reference = moment_and_reference(layer, batches)
    torch.testing.assert_close(moment.result(), reference)
    with torch.no_grad():
        positions = sum(layer(b)[:, 0].numel() for b in batches)
    assert moment.positions == positions


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dilation=st.integers(1, 3),
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
)
def test_shifts_are_exact_even_where_they_are_not_cheaper(kernel, padding, dilation, size) -> None:
    assume(
        all(s + 2 * p > (k - 1) * dilation for s, p, k in zip(size, padding, kernel, strict=True))
    )
    layer = nn.Conv2d(3, 2, kernel, 1, padding, dilation).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    calls: list[LayerCall] = []
    with Recording(layer, weight_matrices(layer), calls.append):
        layer(x)
    shifts = ShiftMoment(calls[0].geometry, size)
    dense = DenseMoment()
    for moment in (shifts, dense):
        moment.add(calls[0])
    torch.testing.assert_close(shifts.result(), dense.result())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 4, 3, padding=1), (4, 9)),
        (nn.Conv1d(4, 4, 3, groups=2, stride=2), (4, 9)),
        (nn.Linear(6, 4), (6,)),
        (nn.Linear(6, 4), (3, 5, 6)),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), (4, 6, 6)),
        (nn.Conv2d(8, 8, 7, padding=3, groups=8), (8, 9, 9)),
    ],
)
def test_other_layers(layer: nn.Module, shape: tuple[int, ...]) -> None:
    moment, reference = moment_and_reference(
        layer, [torch.randn(3, *shape), torch.randn(2, *shape)]
    )
    assert moment.result().dtype == torch.float32
    torch.testing.assert_close(moment.result().double(), reference, rtol=1e-5, atol=1e-4)


def test_channels_last_and_half_precision_inputs() -> None:
    layer = nn.Conv2d(8, 4, 3, padding=1).bfloat16()
    x = torch.randn(2, 8, 6, 6).bfloat16()
    plain, _ = moment_and_reference(layer, [x])
    last, reference = moment_and_reference(layer, [x.contiguous(memory_format=torch.channels_last)])
    torch.testing.assert_close(plain.result(), last.result())
    torch.testing.assert_close(last.result().double(), reference, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("columns", [3, 511, 512, 777])
def test_gram(columns: int) -> None:
    x = torch.randn(50, columns, dtype=torch.float64)
    torch.testing.assert_close(gram(x), x.T @ x)


def test_resnet_geometry_uses_shifts() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1)
    calls: list[LayerCall] = []
    with Recording(layer, weight_matrices(layer), calls.append):
        layer(torch.randn(1, 4, 14, 14))
    assert isinstance(moment_for(calls[0], 64), ShiftMoment)


def test_few_samples_are_kept_as_they_are() -> None:
    for layer, shape in ((nn.Linear(64, 3), (64,)), (nn.Conv2d(64, 3, 1), (64, 1, 2))):
        calls: list[LayerCall] = []
        x = torch.randn(4, *shape)
        with Recording(layer, weight_matrices(layer), calls.append):
            layer(x[:3])
            layer(x[3:])
        moment = moment_for(calls[0], 4)
        assert isinstance(moment, SampleMoment)
        for call in calls:
            moment.add(call)
        columns = torch.cat([call.columns() for call in calls], 2)
        torch.testing.assert_close(moment.result().dense(), columns @ columns.mT)
        assert not isinstance(moment_for(calls[0], 17), SampleMoment)
