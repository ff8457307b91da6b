"""Numbers beside the maps, against slow definitions and a trusted library."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from sparsight.reports import MapPair
from sparsight.reports.readings import (
    concentration,
    grade_gap,
    inside,
    rank_correlation,
    read_pair,
    shared_bound,
    shares,
)

heats = arrays(np.float32, (6, 5), elements=st.integers(-8, 8).map(float))


@settings(max_examples=60, deadline=None)
@given(heats, st.floats(1e-6, 1e6))
def test_shares_do_not_see_the_size_of_a_map(heat, factor):
    first, second = shares(heat), shares(heat * np.float32(factor))
    if not heat.any():
        assert first is None
        assert second is None
        return
    assert np.allclose(first, second, rtol=1e-4)
    assert np.abs(first).mean() == pytest.approx(1, rel=1e-5)
    assert np.array_equal(np.sign(first), np.sign(heat))


@settings(max_examples=60, deadline=None)
@given(heats, heats)
def test_rank_correlation_is_spearmans(a, b):
    ours = rank_correlation(a, b)
    if a.min() == a.max() or b.min() == b.max():
        assert ours is None
    else:
        assert ours == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(heats)
def test_concentration_is_the_smallest_set_that_holds_half(heat):
    values = sorted(np.abs(heat).ravel().tolist(), reverse=True)
    if not sum(values):
        assert concentration(heat) is None
        return
    needed = next(n for n in range(1, 31) if sum(values[:n]) >= sum(values) / 2)
    assert concentration(heat) == needed / 30


def test_inside_counts_positive_relevance_and_is_the_area_by_chance():
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = True
    assert inside(np.ones((8, 8), np.float32), mask) == mask.mean()
    assert inside(np.ones((2, 2), np.float32), mask) == pytest.approx(0.25)
    heat = np.zeros((8, 8), np.float32)
    heat[0, 0], heat[7, 7] = 3, -100
    assert inside(heat, mask) == 1.0
    assert inside(-np.ones((8, 8), np.float32), mask) is None


def test_one_scale_for_both_sides_ignores_outliers():
    quiet = np.ones((50, 50), np.float32)
    loud = quiet.copy()
    loud[0, 0] = 1e6
    assert shared_bound([quiet, loud]) == 1.0
    single = np.zeros((50, 50), np.float32)
    single[0, 0] = 5
    assert shared_bound([single]) == 5.0
    assert shared_bound([]) == shared_bound([np.zeros((2, 2), np.float32)]) == 1.0


def test_one_sided_and_empty_pairs():
    alone = read_pair(MapPair("m", "M", np.eye(3)))
    assert alone.traced is None
    assert alone.difference is None
    assert alone.correlation is None
    assert alone.dense_half == pytest.approx(2 / 9)
    zeros = read_pair(MapPair("m", "M", np.zeros((3, 3)), np.eye(3)))
    assert zeros.dense is None
    assert zeros.difference is None
    assert zeros.correlation is None


def test_a_broken_gap_is_never_good():
    assert grade_gap(float("nan")).tone == grade_gap(float("inf")).tone == "bad"
    assert grade_gap(-0.5).tone == "bad"
