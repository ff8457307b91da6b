"""Masks of every pattern against their definition, unit by unit."""

from math import ceil
from time import perf_counter

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from sparsight.errors import InputError, NumericalError
from sparsight.traces.solvers.patterns import Pattern, parse_pattern, select


def kept_units(costs: list[float], pruned: int) -> set[int]:
    """Places of the units that stay when the cheapest go; of equal ones the last goes first."""
    order = sorted(range(len(costs)), key=lambda unit: (costs[unit], -unit))
    return set(order[pruned:])


def by_definition(score, sparsity, pattern, taps):
    """The mask, in Python numbers."""
    keep = torch.zeros(score.shape, dtype=torch.bool)
    groups, rows, columns = score.shape
    for group in range(groups):
        if pattern.run is not None:
            n, m = pattern.run
            for row in range(rows):
                for start in range(0, columns, m):
                    run = score[group, row, start : start + m].tolist()
                    for unit in kept_units(run, len(run) - ceil(n * len(run) / m)):
                        keep[group, row, start + unit] = True
            continue
        step = 1 if pattern.kind == "weight" else taps
        cells = [
            [(slice(None) if pattern.kind == "input" else row, slice(start, start + step))]
            for row in range(1 if pattern.kind == "input" else rows)
            for start in range(0, columns, step)
        ]
        costs = [float(score[group][cell[0]].double().sum()) for cell in cells]
        for unit in kept_units(costs, round(sparsity * len(costs))):
            keep[group][cells[unit][0]] = True
    return keep


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["weight", "kernel", "input", "1:2", "2:4", "1:4", "3:5", "4:8"]),
    groups=st.integers(1, 3),
    rows=st.integers(1, 5),
    channels=st.integers(1, 7),
    taps=st.sampled_from([1, 2, 9]),
    sparsity=st.floats(0, 1),
    levels=st.sampled_from([1, 2, 5, 10**6]),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]),
    seed=st.integers(0, 2**20),
)
def test_masks_equal_their_definition(
    kind, groups, rows, channels, taps, sparsity, levels, dtype, seed
) -> None:
    """Few levels make ties; whole numbers make sums exact."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, levels, (groups, rows, channels * taps), generator=generator)
    score = score.clamp_max(2000).to(dtype)
    before = score.clone()
    pattern = parse_pattern(kind)
    keep = select(score, None if pattern.run else sparsity, pattern, taps)
    assert keep.dtype == torch.bool
    assert torch.equal(keep, by_definition(score, sparsity, pattern, taps))
    assert torch.equal(score, before)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["weight", "kernel", "input"]),
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 2**20),
)
def test_what_is_pruned_costs_no_more_than_what_is_kept(kind, sparsity, seed) -> None:
    score = torch.rand(2, 6, 12, generator=torch.Generator().manual_seed(seed))
    keep = select(score, sparsity, Pattern(kind), 3)
    units = {"weight": score, "kernel": score.unflatten(2, (4, 3)).sum(3)}.get(
        kind, score.unflatten(2, (4, 3)).sum((1, 3))
    )
    assert int(keep.sum()) == 2 * (units[0].numel() - round(sparsity * units[0].numel())) * (
        keep[0].numel() // units[0].numel()
    )
    for group in range(2):
        more = select(score[group : group + 1], sparsity, Pattern(kind), 3)
        assert torch.equal(more[0], keep[group])  # groups do not know one another


@pytest.mark.parametrize("kind", ["weight", "kernel", "input", "2:4"])
def test_inputs_that_are_always_zero_go_first(kind: str) -> None:
    score = torch.rand(1, 4, 12, generator=torch.Generator().manual_seed(0)) + 0.1
    score[:, :, 3:6] = 0
    pattern = Pattern(kind)
    keep = select(score, pattern.sparsity or 0.25, pattern, 3)
    assert not keep[:, :, 3:6].any()


def test_n_of_m_keeps_at_most_n_in_every_run_and_no_row_empty() -> None:
    score = torch.rand(2, 3, 13, generator=torch.Generator().manual_seed(1))
    keep = select(score, 0.5, Pattern("2:4"))
    assert (keep[..., :12].unflatten(2, (3, 4)).sum(3) == 2).all()
    assert keep[..., 12].all()
    assert select(score[..., :1], None, Pattern("1:8")).all()


@pytest.mark.parametrize(
    "text", ["", "weights", "2:", ":4", "4:4", "0:4", "5:4", "1:65", "-1:4", "2:4:8", "²:4"]
)
def test_other_patterns_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match="pattern") as caught:
        parse_pattern(text)
    assert "\n" not in str(caught.value)


def test_patterns_are_read_as_users_write_them() -> None:
    assert parse_pattern(" KERNEL\n") == Pattern("kernel")
    assert [Pattern(kind).sparsity for kind in ("weight", "1:4")] == [None, 0.75]


def test_what_does_not_fit_is_refused() -> None:
    score = torch.ones(1, 2, 6)
    for sparsity in (None, -0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="sparsity"):
            select(score, sparsity, Pattern("weight"))
    with pytest.raises(InputError, match="fixed share"):
        select(score, 0.9, Pattern("2:4"))
    with pytest.raises(InputError, match="taps"):
        select(score, 0.5, Pattern("kernel"), 4)
    for value in (-1.0, float("inf"), float("nan")):
        with pytest.raises(NumericalError, match="scores"):
            select(score.index_fill(2, torch.tensor([1]), value), 0.5, Pattern("weight"))


@pytest.mark.parametrize("kind", ["weight", "kernel", "input", "2:4"])
def test_a_large_layer_takes_a_moment(kind: str) -> None:
    score = torch.rand(1, 512, 4608, generator=torch.Generator().manual_seed(0))
    pattern = Pattern(kind)
    times = []
    for _ in range(3):
        start = perf_counter()
        select(score, pattern.sparsity or 0.9, pattern, 9)
        times.append(perf_counter() - start)
    assert min(times) < 0.5  # 0.03 s when the machine has nothing else to do
