"""The sweep against the published implementation's outputs and against its definition."""

from pathlib import Path

import golden
import hypothesis.strategies as st
import pytest
import slow_reference
import torch
from hypothesis import given, settings

from sparsight.errors import NumericalError
from sparsight.traces.solvers import LowRank, sparsegpt
from sparsight.traces.solvers.factor import factorise, strips


def squared_output(weight: torch.Tensor, moment: torch.Tensor) -> float:
    """``tr(W X X^T W^T)``."""
    return float((weight @ moment * weight).sum())


def problem(rows: int, columns: int, samples: int, seed: int, groups: int = 1):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, rows, columns, generator=generator, dtype=torch.float64)
    x = torch.randn(groups, columns, samples, generator=generator, dtype=torch.float64)
    x = x * torch.rand(groups, columns, 1, generator=generator, dtype=torch.float64) ** 2
    return weight, x @ x.transpose(1, 2)


@pytest.mark.shared
def test_golden(shared: Path) -> None:
    """Masks equal, weights within 1e-4 relative, for every published result."""
    checked = 0
    for entry in golden.entries(shared, "sparsegpt"):
        facts = entry.facts
        sparsity = facts["pruned_per_block"] / facts["weights_per_block"]
        damping = entry.damping(dead=1.0)
        entry.check(sparsegpt(entry.weight, entry.moment, sparsity, facts["block"], damping).weight)
        checked += 1
    assert checked > 30


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 12),
    inputs=st.integers(1, 20),
    block=st.sampled_from([1, 3, 9]),
    samples=st.integers(1, 60),
    sparsity=st.floats(0.05, 0.99),
    seed=st.integers(0, 2**16),
)
def test_equals_the_published_recursion(rows, inputs, block, samples, sparsity, seed) -> None:
    weight, moment = problem(rows, inputs * block, samples, seed)
    found = sparsegpt(weight, moment, sparsity, block)
    expected = slow_reference.sparsegpt(weight[0], moment[0], sparsity, block)
    # The reference inverts the matrix, which costs it digits where samples are few.
    torch.testing.assert_close(found.weight[0], expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 300),
    block=st.sampled_from([1, 4, 9, 49, 200]),
    sparsity=st.floats(0, 0.999),
    seed=st.integers(0, 99),
)
def test_exactly_as_many_as_asked_per_block(rows, columns, block, sparsity, seed) -> None:
    weight, moment = problem(rows, columns, columns + 5, seed)
    zeros = sparsegpt(weight, moment, sparsity, block).weight[0] == 0
    for part in zeros.split(block, dim=1):
        assert int(part.sum()) == round(sparsity * part.numel())


def test_zero_sparsity_is_the_identity() -> None:
    weight, moment = problem(4, 6, 10, 0)
    moment[0, 2] = moment[0, :, 2] = 0
    assert torch.equal(sparsegpt(weight, moment, 0.0).weight, weight)


def test_beats_magnitude_pruning_of_as_many_weights_per_column() -> None:
    for seed in range(20):
        weight, moment = problem(16, 32, 100, seed)
        found = sparsegpt(weight, moment, 0.5).weight
        order = weight[0].abs().argsort(dim=0)
        magnitude = weight[0].clone().scatter_(0, order[:8], 0)[None]
        ours, theirs = (squared_output(weight - w, moment) for w in (found, magnitude))
        assert ours < theirs


def test_groups_are_solved_as_if_alone() -> None:
    weight, moment = problem(5, 18, 40, 3, groups=4)
    together = sparsegpt(weight, moment, 0.7, 9).weight
    alone = [sparsegpt(weight[g : g + 1], moment[g : g + 1], 0.7, 9).weight for g in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_scale_of_the_moment_does_not_matter() -> None:
    weight, moment = problem(5, 12, 8, 1)
    moment[0, 3] = moment[0, :, 3] = 0
    one, other = (sparsegpt(weight, moment * scale, 0.6).weight for scale in (1, 1e-6))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("case", ["one sample", "duplicates", "all dead", "constant"])
def test_degenerate_inputs(case: str) -> None:
    weight, moment = problem(4, 8, 1 if case == "one sample" else 30, 0)
    if case == "duplicates":
        moment[0] = moment[0][[0, 0, 2, 2, 4, 4, 6, 6]][:, [0, 0, 2, 2, 4, 4, 6, 6]]
    elif case == "all dead":
        moment.zero_()
    elif case == "constant":
        moment = torch.ones_like(moment)
    for dtype in (torch.float32, torch.float64):
        found = sparsegpt(weight.to(dtype), moment.to(dtype), 0.5)
        assert torch.isfinite(found.weight).all()
        assert not torch.equal(found.weight, weight.to(dtype))
        assert ("always zero" in found.note) == (case == "all dead")


def test_float64_takes_over_and_says_so() -> None:
    """A matrix that is positive definite, but not to float32 arithmetic."""
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        basis, _ = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64))
        spectrum = torch.cat([torch.full((20,), 1.0), torch.full((20,), 5e-8)]).double()
        matrix = ((basis * spectrum) @ basis.T).float()[None]
        if int(torch.linalg.cholesky_ex(matrix)[1]) and not int(
            torch.linalg.cholesky_ex(matrix.double())[1]
        ):
            break
    else:
        pytest.skip("float32 arithmetic of this machine is too good")
    factor = factorise(matrix.flip(1, 2), 1e-12, 8)
    assert factor.scale.dtype == torch.float64
    assert factor.note == "factorised in float64"


def test_indefinite_moments_are_refused() -> None:
    with pytest.raises(NumericalError, match="damping"):
        factorise(torch.tensor([[[1.0, 3.0], [3.0, 1.0]]]), 0.01, 2)


@pytest.mark.parametrize("rank", [3, 20, 70])
@pytest.mark.parametrize("lazy", [1, 7, 64])
def test_both_factors_reproduce_the_reversed_damped_matrix(rank: int, lazy: int) -> None:
    torch.manual_seed(rank)
    z = torch.randn(2, 40, rank, dtype=torch.float64)
    moment = z @ z.mT
    added = 0.01 * moment.diagonal(dim1=1, dim2=2).mean(-1)
    expected = moment.flip(1, 2) + added[:, None, None] * torch.eye(40)
    exact = torch.linalg.cholesky(expected)
    error = torch.randn(2, 40, 5, dtype=torch.float64)
    for factor in (factorise(moment, 0.01, lazy), factorise(LowRank(z), 0.01, lazy)):
        torch.testing.assert_close(factor.damping, added)
        torch.testing.assert_close(factor.scale, exact.diagonal(dim1=1, dim2=2))
        for start, stop in strips(40, lazy):
            block = exact[:, start:stop, start:stop]
            torch.testing.assert_close(factor.local(start, stop).tril(), block)
            if stop < 40:
                gathered = exact[:, stop:, start:stop].mT @ error[:, stop:]
                torch.testing.assert_close(factor.gather(start, stop, error), gathered)


@pytest.mark.parametrize("samples", [1, 5, 30])
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_samples_give_what_their_gram_matrix_gives(samples: int, sparsity: float) -> None:
    torch.manual_seed(samples)
    weight = torch.randn(1, 6, 150, dtype=torch.float64)
    z = torch.randn(1, 150, samples, dtype=torch.float64)
    z[:, 7] = 0
    dense, low = (sparsegpt(weight, m, sparsity) for m in (z @ z.mT, LowRank(z)))
    torch.testing.assert_close(dense.weight, low.weight)
    assert dense.lost == pytest.approx(low.lost)
    assert dense.note == low.note == "1 inputs are always zero"


@pytest.mark.parametrize("block", [1, 9])
def test_the_lost_output_is_counted_on_the_way(block: int) -> None:
    weight, moment = problem(7, 27, 60, 5)
    moment[0, 4] = moment[0, :, 4] = 0
    for dtype in (torch.float64, torch.float32):
        found = sparsegpt(weight.to(dtype), moment.to(dtype), 0.8, block)
        expected = squared_output(weight - found.weight, moment)
        assert found.lost == pytest.approx(expected, rel=1e-4)
