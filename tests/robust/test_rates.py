"""Rates and whole counts: bounds, budgets met exactly, usual allocations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import InputError
from sparsight.robust.rates import (
    ALLOCATIONS,
    allocate_rates,
    keep_rate,
    kept_of,
    quota_of,
    whole_counts,
)


@given(st.floats(-50, 50), st.floats(0.0001, 0.9))
def test_a_rate_is_within_its_bounds(quota, least):
    rate = float(keep_rate(torch.tensor(quota, dtype=torch.float64), least))
    assert least <= rate <= 1


@given(st.floats(0.02, 0.98), st.floats(0.0001, 0.01))
def test_quotas_invert_rates(rate, least):
    quota = torch.tensor(quota_of(rate, least), dtype=torch.float64)
    wanted = least + (1 - least) * min(max((rate - least) / (1 - least), 0.01), 0.99)
    assert float(keep_rate(quota, least)) == pytest.approx(wanted)


def test_rates_at_the_bounds_are_numbers():
    for rate in (0.0, 0.001, 1.0):
        assert abs(quota_of(rate, 0.001)) < 10


@given(st.floats(0, 1), st.integers(1, 500))
def test_something_is_kept_of_every_layer(rate, size):
    assert 1 <= kept_of(rate, size) <= size


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 400), st.floats(1e-6, 1)), min_size=1, max_size=12),
    st.floats(0, 1),
)
def test_counts_add_up_exactly(layers, where):
    sizes, rates = [n for n, _ in layers], [a for _, a in layers]
    total = len(sizes) + round(where * (sum(sizes) - len(sizes)))
    counts = whole_counts(sizes, rates, total)
    assert sum(counts) == total
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))


def test_rates_of_any_size_are_rounded():
    counts = whole_counts([50_000_000, 10, 10_000_000], [0.3, 0.0, 0.01], 5_000_000)
    assert sum(counts) == 5_000_000
    assert counts[1] == 1
    assert counts[0] / counts[2] == pytest.approx(150, rel=1e-3)


def test_counts_follow_rates():
    assert whole_counts([1000, 1000, 1000], [0.1, 0.2, 0.3], 60) == [10, 20, 30]
    with pytest.raises(InputError, match="keeps one in each"):
        whole_counts([10, 10], [0.5, 0.5], 1)


@pytest.fixture
def weights():
    torch.manual_seed(0)
    sizes = {"first": (16, 3, 3, 3), "middle": (64, 16, 3, 3), "last": (10, 64)}
    return {name: torch.randn(size) * (1 + k) for k, (name, size) in enumerate(sizes.items())}


@pytest.mark.parametrize("how", ALLOCATIONS)
def test_allocations_meet_the_target(weights, how):
    rates = allocate_rates(weights, 0.1, how)
    sizes = {name: w.numel() for name, w in weights.items()}
    assert all(0 <= rate <= 1 for rate in rates.values())
    kept = sum(sizes[name] * rate for name, rate in rates.items()) / sum(sizes.values())
    assert kept == pytest.approx(0.1, abs=1e-3)


def test_global_magnitude_is_one_threshold(weights):
    rates = allocate_rates(weights, 0.2, "global")
    every = torch.cat([w.abs().flatten() for w in weights.values()])
    threshold = every.sort(descending=True).values[round(0.2 * len(every)) - 1]
    for name, weight in weights.items():
        assert rates[name] == pytest.approx(float((weight.abs() >= threshold).float().mean()))


def test_lamp_is_its_definition(weights):
    scores = {}
    for name, weight in weights.items():
        flat = weight.double().flatten().square()
        scores[name] = torch.stack([own / flat[flat >= own].sum() for own in flat])
    every = torch.cat(list(scores.values())).sort(descending=True).values
    threshold = every[round(0.1 * len(every)) - 1]
    rates = allocate_rates(weights, 0.1, "lamp")
    for name, own in scores.items():
        assert rates[name] == pytest.approx(float((own >= threshold).double().mean()), abs=1e-3)


def test_erk_keeps_small_layers_whole(weights):
    rates = allocate_rates(weights, 0.3, "erk")
    shapes = {name: sum(w.shape) / w.numel() for name, w in weights.items()}
    partial = [name for name, rate in rates.items() if rate < 1]
    assert len({round(rates[name] / shapes[name], 9) for name in partial}) == 1
    most = max(shapes[name] for name in partial)
    assert all(shapes[name] >= most for name, rate in rates.items() if rate == 1)


def test_an_unknown_allocation_is_refused(weights):
    with pytest.raises(InputError, match="choose from uniform"):
        allocate_rates(weights, 0.1, "luck")
