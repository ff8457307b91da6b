"""Every solver of the registry against one contract; each against its definition."""

from importlib import import_module
from math import ceil
from pathlib import Path

import golden
import hypothesis.strategies as st
import pytest
import slow_reference
import torch
from hypothesis import given, settings
from torch import nn

from sparsight.errors import NumericalError
from sparsight.networks import Network, Preprocessing
from sparsight.traces import trace
from sparsight.traces.solvers import (
    SOLVERS,
    LowRank,
    magnitude,
    obs,
    refit,
    solve_at,
    wanda,
)
from sparsight.traces.solvers.factor import absolute_damping
from sparsight.traces.solvers.refit import least_squares

COUNTS = {  # zeros in each group by rows, columns, block and sparsity
    "sparsegpt": lambda r, c, b, s: sum(round(s * r * min(b, c - i)) for i in range(0, c, b)),
    "obs": lambda r, c, b, s: ceil(s * r * c - 1e-9),
    "forward": lambda r, c, b, s: round(s * r * c),
    "refit": lambda r, c, b, s: round(s * r * c),
    "wanda": lambda r, c, b, s: r * round(s * c),
    "magnitude": lambda r, c, b, s: round(s * r * c),
}
"""A solver that enters the registry enters here what it promises."""

ZEROES_DEAD_INPUTS = {"sparsegpt", "obs", "forward", "refit"}


def problem(rows, columns, samples, seed, groups=1, dtype=torch.float64):
    """Correlated inputs of unlike scale: weights and samples."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(groups, *shape, generator=generator, dtype=torch.float64)

    z = draw(columns, columns) @ draw(columns, samples) * draw(columns, 1).exp()
    return draw(rows, columns).to(dtype), z.to(dtype)


def lost(weight, sparse, z) -> float:
    return float(((weight - sparse).double() @ z.double()).square().sum())


def check_solver(name: str, groups: int, rows: int, columns: int, samples: int, dtype) -> None:
    """Everything a solver must hold to, on one problem."""
    solve, block, close = SOLVERS[name], 3, 1e-6 if dtype == torch.float64 else 1e-3
    weight, z = problem(rows, columns, samples, columns + samples, groups, dtype)
    moment = z @ z.mT
    before = weight.clone(), moment.clone(), z.clone()
    for sparsity in (0.0, 0.3, 0.75, 0.95):
        found = solve(weight, moment, sparsity, block, 0.01)
        assert found.weight.shape == weight.shape
        assert found.weight.dtype == dtype
        assert torch.isfinite(found.weight).all()
        counts = (found.weight == 0).sum((1, 2)).tolist()
        assert counts == [COUNTS[name](rows, columns, block, sparsity)] * groups
        total = lost(weight, 0 * weight, z)
        assert found.lost == pytest.approx(
            lost(weight, found.weight, z), rel=close, abs=1e-6 * total
        )
        if sparsity == 0:
            assert torch.equal(found.weight, weight)
            assert (found.lost, found.damping) == (0, 0)
            assert found.weight.data_ptr() != weight.data_ptr()
        # float32 is not asked to choose alike among few samples' near ties; its checks are above.
        if dtype == torch.float64:
            same = {
                "scale of the inputs": solve(weight, moment * 1e-4, sparsity, block, 0.01).weight,
                "scale of the weights": solve(weight * 8, moment, sparsity, block, 0.01).weight / 8,
                "samples": solve(weight, LowRank(z), sparsity, block, 0.01).weight,
                "groups": torch.cat(
                    [
                        solve(weight[g : g + 1], moment[g : g + 1], sparsity, block, 0.01).weight
                        for g in range(groups)
                    ]
                ),
            }
            for what, other in same.items():
                torch.testing.assert_close(
                    other, found.weight, rtol=1e-5, atol=1e-6, msg=lambda m, w=what: f"{w}: {m}"
                )
    for now, then in zip((weight, moment, z), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape", [(1, 6, 17, 60), (3, 4, 9, 30), (1, 5, 40, 3), (2, 1, 9, 12), (1, 7, 1, 5)]
)
@pytest.mark.parametrize("name", SOLVERS)
def test_conforms(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_solver(name, *shape, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("case", ["one sample", "one column", "duplicates", "constant", "all dead"])
@pytest.mark.parametrize("name", SOLVERS)
def test_degenerate_inputs(name, case, low_rank, dtype) -> None:
    samples = 1 if case == "one sample" else 30
    weight, z = problem(4, 1 if case == "one column" else 12, samples, 0, dtype=dtype)
    if case == "duplicates":
        z = z[:, [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10]]
    elif case == "constant":
        z = torch.ones_like(z)
    elif case == "all dead":
        z = torch.zeros_like(z)
    moment = LowRank(z) if low_rank else z @ z.mT
    found = SOLVERS[name](weight, moment, 0.6, 1, 0.01)
    assert torch.isfinite(found.weight).all()
    assert not torch.equal(found.weight, weight)
    assert found.lost == pytest.approx(lost(weight, found.weight, z), rel=1e-3, abs=1e-3)
    assert ("always zero" in found.note) == (case == "all dead")


@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("name", sorted(ZEROES_DEAD_INPUTS))
def test_dead_inputs_lose_their_weights_whatever_the_sparsity(name, low_rank) -> None:
    weight, z = problem(5, 12, 40, 1, groups=2)
    z[0, 3] = z[0, 7] = z[1, 5] = 0
    moment = LowRank(z) if low_rank else z @ z.mT
    for sparsity in (0.01, 0.1, 0.6):
        found = SOLVERS[name](weight, moment, sparsity, 1, 0.01)
        assert not found.weight[0, :, [3, 7]].any()
        assert not found.weight[1, :, 5].any()
        assert "3 inputs are always zero" in found.note
        if name != "sparsegpt":  # which prunes its share of every column
            count = COUNTS[name](5, 12, 1, sparsity)
            zeros = (found.weight == 0).sum((1, 2)).tolist()
            assert zeros == [max(count, 10), max(count, 5)]


@pytest.mark.parametrize("name", ["obs", "forward", "refit"])
@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 8),
    columns=st.integers(1, 16),
    samples=st.integers(1, 40),
    sparsity=st.floats(0.02, 0.99),
    damping=st.sampled_from([1e-3, 0.01, 0.1]),
    seed=st.integers(0, 2**20),
)
def test_never_lose_more_than_magnitude(
    name, rows, columns, samples, sparsity, damping, seed
) -> None:
    weight, z = problem(rows, columns, samples, seed)
    found = SOLVERS[name](weight, LowRank(z), sparsity, 1, damping)
    zeros = int((found.weight == 0).sum())
    plain = magnitude(weight, LowRank(z), zeros / weight.numel())
    assert int((plain.weight == 0).sum()) == zeros
    total = lost(weight, 0 * weight, z)
    assert found.lost <= plain.lost * (1 + 1e-9) + 1e-12 * total


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 8),
    columns=st.integers(1, 16),
    samples=st.integers(1, 40),
    kept=st.floats(0, 1),
    low_rank=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_least_squares_on_any_supports(rows, columns, samples, kept, low_rank, seed) -> None:
    weight, z = problem(rows, columns, samples, seed, groups=2)
    keep = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < kept
    moment = z @ z.mT
    ridge = 0.01 * moment.diagonal(dim1=1, dim2=2).mean(1)
    damped = moment + ridge[:, None, None] * torch.eye(columns, dtype=torch.float64)
    found = least_squares(weight, LowRank(z) if low_rank else moment, keep, ridge)
    for group in range(2):
        for row in range(rows):
            expected = slow_reference.least_squares(
                weight[group, row], damped[group], keep[group, row]
            )
            torch.testing.assert_close(found[group, row], expected, rtol=1e-6, atol=1e-6)


def test_supports_of_unlike_size_are_solved_in_parts(monkeypatch) -> None:
    module = import_module(refit.__module__)
    weight, z = problem(40, 30, 100, 4)
    keep = torch.rand(1, 40, 30) < torch.linspace(0, 1, 40)[:, None]
    whole = least_squares(weight, z @ z.mT, keep, torch.ones(1))
    monkeypatch.setattr(module, "_BYTES", 1)
    torch.testing.assert_close(least_squares(weight, z @ z.mT, keep, torch.ones(1)), whole)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 14),
    samples=st.integers(1, 30),
    sparsity=st.floats(0.05, 0.99),
    seed=st.integers(0, 2**20),
)
def test_obs_equals_the_published_steps(rows, columns, samples, sparsity, seed) -> None:
    weight, z = problem(rows, columns, samples, seed)
    moment = z @ z.mT
    ridge = float(absolute_damping(moment.diagonal(dim1=1, dim2=2), 0.01)[1])
    count = ceil(sparsity * weight.numel() - 1e-9)
    expected = slow_reference.obs(weight[0], moment[0], count, ridge)
    found = obs(weight, moment, sparsity)
    if "mask by magnitude" not in found.note:
        torch.testing.assert_close(found.weight[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", [6, 200])
def test_obs_over_many_lazy_steps(samples: int) -> None:
    """Removed entries leave the inverse several times; few samples go another way."""
    weight, z = problem(3, 110, samples, 2)
    ridge = float(absolute_damping(z.square().sum(2), 0.01)[1])
    expected = slow_reference.obs(weight[0], (z @ z.mT)[0], 297, ridge)
    for moment in (z @ z.mT, LowRank(z)):
        found = obs(weight, moment, 0.9).weight
        torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-6)


def test_obs_in_chunks_is_obs(monkeypatch) -> None:
    module = import_module(obs.__module__)
    weight, z = problem(5, 12, 40, 3, groups=3)
    for moment in (z @ z.mT, LowRank(z[:, :, :2])):
        whole = obs(weight, moment, 0.7).weight
        for size in (1, 40_000):
            monkeypatch.setattr(module, "_BYTES", size)
            torch.testing.assert_close(obs(weight, moment, 0.7).weight, whole)
        monkeypatch.undo()


@pytest.mark.shared
def test_obs_golden(shared: Path) -> None:
    """Masks equal, weights within 1e-4 relative, for every published result."""
    checked = 0
    for entry in golden.entries(shared, "exact_obs"):
        # Published OBS averages over images, and then counts a dead input as 1. The golden
        # moments of convolutions are averages already.
        damping = entry.damping(dead=1.0 if entry.convolution else float(len(entry.inputs)))
        sparsity = float(entry.facts["key"].rpartition(".s")[2])
        found = obs(entry.weight, entry.moment, sparsity, 1, damping).weight
        assert int((found == 0).sum()) == entry.facts["observed_zeros"], entry.facts["key"]
        entry.check(found)
        checked += 1
    assert checked > 30


def test_obs_refuses_a_moment_it_cannot_invert() -> None:
    with pytest.raises(NumericalError, match="damping"):
        obs(torch.ones(1, 1, 2), torch.tensor([[[1.0, 3.0], [3.0, 1.0]]]), 0.5)


def test_a_wrong_mask_gives_way_to_magnitude_and_says_so() -> None:
    """Two inputs that nearly cancel: each alone passes much on, both together almost nothing."""
    weight = torch.tensor([[[1.0, -1.0, 1.5]]], dtype=torch.float64)
    z = torch.tensor([[[10.0, 0.0], [10.0, 0.1], [0.0, 5.0]]], dtype=torch.float64)
    found = refit(weight, z @ z.mT, 2 / 3)
    assert found.weight[0, 0, 2] != 0
    assert found.note == "mask by magnitude in 1 of 1 groups"


def test_wanda_ranks_rows_apart_and_magnitude_the_layer() -> None:
    weight = torch.tensor([[[4.0, 3.0, -2.0], [0.1, -0.2, 0.3]]])
    moment = torch.diag(torch.tensor([1.0, 4.0, 25.0]))[None]
    assert torch.equal(
        wanda(weight, moment, 1 / 3).weight, torch.tensor([[[0, 3.0, -2.0], [0, -0.2, 0.3]]])
    )
    assert torch.equal(
        magnitude(weight, moment, 1 / 3).weight, torch.tensor([[[4.0, 3.0, -2.0], [0, 0, 0.3]]])
    )


def test_empty_outputs_are_told() -> None:
    weight = torch.tensor([[[4.0, 3.0], [0.1, -0.2]]])
    assert magnitude(weight, torch.eye(2)[None], 0.5).note == "1 outputs keep no weight"


class Small(nn.Module):
    """A depthwise, a grouped and a dense layer, and a head with fewer samples than inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 24, 3, groups=2)
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.stem(x).relu()).relu()
        return self.head(self.grouped(x).relu().mean((2, 3)))


@pytest.mark.parametrize("name", SOLVERS)
def test_traces_with_every_solver(name: str) -> None:
    torch.manual_seed(0)
    network = Network(Small().eval(), Preprocessing((16, 16), 16), tuple("abcde"))
    found = trace(network, torch.randn(1, 3, 16, 16), solver=name, sparsity=0.5, augmentations=4)
    assert found.settings["solver"] == name
    for row in found.layers[1:]:
        assert row.sparsity == pytest.approx(0.5, abs=0.06), row.name
        assert 0 < row.error < 1, row.name


@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_several_sparsities_give_what_each_gives_alone(name: str, low_rank: bool) -> None:
    weight, z = problem(6, 300, 40, seed=4, groups=2)
    moment = LowRank(z) if low_rank else z @ z.mT
    asked = [0.5, 0.0, 0.9, 0.5]
    together = solve_at(name, weight, moment, asked, 9, 0.01)
    for sparsity, found in zip(asked, together, strict=True):
        alone = SOLVERS[name](weight, moment, sparsity, 9, 0.01)
        assert torch.equal(found.weight, alone.weight)
        assert (found.lost, found.damping, found.note) == (alone.lost, alone.damping, alone.note)


@pytest.mark.parametrize(
    ("name", "module", "step"), [("sparsegpt", "sparsegpt", "factorise"), ("obs", "obs", "_start")]
)
def test_one_factorisation_serves_all_sparsities(
    name: str, module: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = import_module(f"sparsight.traces.solvers.{module}")
    calls, real = [], getattr(solver, step)
    monkeypatch.setattr(solver, step, lambda *given: calls.append(1) or real(*given))
    weight, z = problem(4, 12, 30, seed=5)
    solve_at(name, weight, z @ z.mT, [0.3, 0.6, 0.9], 1, 0.01)
    assert len(calls) == 1
