"""The forward solver against its definition, and where its parts matter."""

from importlib import import_module
from math import ceil

import hypothesis.strategies as st
import pytest
import slow_reference
import torch
from hypothesis import given, settings

from sparsight.errors import NumericalError
from sparsight.traces.solvers import SOLVERS, LowRank, forward
from sparsight.traces.solvers.factor import absolute_damping

module = import_module(forward.__module__)


def problem(rows, columns, samples, seed, tail=1.0):
    """Correlated inputs of unlike scale: weights and samples."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scale = (tail * draw(columns, 1)).exp()
    return draw(1, rows, columns), (draw(columns, columns) @ draw(columns, samples) * scale)[None]


def loss(w, damped, support) -> float:
    """Damped loss of one row's best weights on a support."""
    error = w - slow_reference.least_squares(w, damped, support)
    return float(error @ damped @ error)


def cheapest(w, damped, support, inputs, value) -> int:
    """The input that, set to ``value`` in the support, leaves the smallest loss."""
    losses = []
    for j in inputs:
        changed = support.clone()
        changed[j] = value
        losses.append(loss(w, damped, changed))
    return inputs[min(range(len(losses)), key=losses.__getitem__)]


def by_definition(weight, moment, kept):
    """Mask of ``kept`` weights of ``(rows, columns)``, every loss solved for anew."""
    rows, columns = weight.shape
    inputs = moment.diagonal()
    ridge = absolute_damping(inputs, 0.01)[1]
    damped = moment + torch.diag(torch.minimum(ridge, inputs))
    size = min(columns, ceil(1.5 * kept / rows) + 4)
    orders, costs = [], []
    for w in weight:
        support = torch.zeros(columns, dtype=torch.bool)
        for _ in range(size):
            left = [j for j in range(columns) if not support[j]]
            support[cheapest(w, damped, support, left, True)] = True
        orders.append([])
        costs.append([])
        while support.any():
            before = loss(w, damped, support)
            j = cheapest(w, damped, support, support.nonzero().flatten().tolist(), False)
            support[j] = False
            orders[-1].append(j)
            costs[-1].append(loss(w, damped, support) - before)
    rising = torch.tensor(costs).cummax(1).values.flatten()
    steps = (rising.argsort(stable=True)[: rows * size - kept] // size).bincount(minlength=rows)
    keep = torch.zeros(rows, columns, dtype=torch.bool)
    for row, order in enumerate(orders):
        keep[row, torch.tensor(order)[steps[row] :]] = True
    return keep


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 24),
    sparsity=st.floats(0.5, 0.99),
    low_rank=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_forward_equals_its_definition(rows, columns, sparsity, low_rank, seed) -> None:
    weight, z = problem(rows, columns, 2 * columns, seed)
    found = forward(weight, LowRank(z) if low_rank else z @ z.mT, sparsity)
    expected = by_definition(
        weight[0], (z @ z.mT)[0], weight.numel() - round(sparsity * weight.numel())
    )
    if "mask by magnitude" not in found.note:
        assert torch.equal(found.weight[0] != 0, expected)


def test_forward_in_chunks_is_forward(monkeypatch) -> None:
    weight, z = problem(5, 60, 200, 3)
    weight, z = weight.repeat(3, 1, 1), torch.cat([z, z.flip(1), 2 * z])
    for moment in (z @ z.mT, LowRank(z)):
        whole = forward(weight, moment, 0.9).weight
        for size in (1, 20_000):
            monkeypatch.setattr(module, "_BYTES", size)
            torch.testing.assert_close(forward(weight, moment, 0.9).weight, whole)
        monkeypatch.undo()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_inputs_are_not_taken_twice(dtype: torch.dtype) -> None:
    """Six different inputs, each ten times, hardly damped: six weights lose next to nothing."""
    weight, z = problem(4, 6, 50, 0)
    weight, z = weight.repeat(1, 1, 10).to(dtype), z.repeat(1, 10, 1).to(dtype)
    found = forward(weight, z @ z.mT, 0.9, damping=1e-5)
    assert found.lost < 1e-4 * float((weight @ z).square().sum())


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.99])
def test_small_inputs_are_not_hidden_by_the_damping(sparsity: float) -> None:
    """Scales differ a thousandfold, and weights make up for it."""
    weight, z = problem(24, 96, 400, 1, tail=2.5)
    weight = weight / z.square().mean(2, keepdim=True).sqrt().mT
    lost = {name: SOLVERS[name](weight, z @ z.mT, sparsity, 1, 0.01).lost for name in SOLVERS}
    assert min(lost, key=lost.__getitem__) == "forward"


def test_forward_refuses_a_moment_it_cannot_factor() -> None:
    with pytest.raises(NumericalError, match="damping"):
        forward(torch.ones(1, 1, 2), torch.tensor([[[1.0, 3.0], [3.0, 1.0]]]), 0.5)
