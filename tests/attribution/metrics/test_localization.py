"""Localisation metrics against scikit-learn, brute force and averages over orders of ties."""

from __future__ import annotations

from itertools import permutations
from math import dist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from sparsight.attribution.metrics import (
    average_ranks,
    pointing_game,
    rank_correlation,
    relevance_mass,
    relevance_rank,
    roc_auc,
)
from sparsight.errors import InputError

ALL = [roc_auc, pointing_game, relevance_mass, relevance_rank]


@st.composite
def questions(draw, most=6, partial=True):
    """Heat with many ties, and masks that are neither empty nor full."""
    n, h, w = draw(st.integers(1, 3)), draw(st.integers(1, most)), draw(st.integers(2, most))
    levels = draw(st.sampled_from([2, 4, 1000]))
    seed = draw(st.integers(0, 2**31))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(seed)
    heat = torch.randint(-levels, levels, (n, h, w), generator=generator).to(dtype) / 7
    mask = torch.rand(n, h, w, generator=generator) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    mask[:, 0, 0] = True
    if partial:
        mask[:, -1, -1] = False
    return heat, mask


@given(questions())
def test_roc_auc_is_scikit_learns(question):
    heat, mask = question
    found = roc_auc(heat, mask)
    assert found.dtype == torch.float64
    for one, h, m in zip(found, heat, mask, strict=True):
        assert one.item() == pytest.approx(roc_auc_score(m.flatten(), h.flatten()), abs=1e-12)


def test_roc_auc_on_a_large_map_of_many_scales():
    heat = torch.randn(2, 224, 224).exp() ** 8
    mask = torch.zeros(2, 224, 224, dtype=torch.bool)
    mask[:, 40:50, 60:75] = True
    for one, h, m in zip(roc_auc(heat, mask), heat, mask, strict=True):
        assert one.item() == pytest.approx(roc_auc_score(m.flatten(), h.flatten()), abs=1e-10)


def test_roc_auc_at_its_ends():
    heat = torch.arange(6.0).reshape(1, 2, 3)
    assert roc_auc(heat, heat > 3).item() == 1
    assert roc_auc(heat, heat < 2).item() == 0
    assert roc_auc(torch.zeros(1, 2, 3), heat < 2).item() == 0.5
    assert roc_auc(torch.tensor([[[0.0, -0.0]]]), torch.tensor([[[True, False]]])).item() == 0.5


@given(questions(partial=False), st.sampled_from([0, 0.5, 1, 1.5, 2, 3.7, 100]))
def test_pointing_game_is_brute_force(question, tolerance):
    heat, mask = question
    for one, h, m in zip(pointing_game(heat, mask, tolerance=tolerance), heat, mask, strict=True):
        hottest = (h == h.max()).nonzero().tolist()
        places = m.nonzero().tolist()
        hits = [min(dist(a, b) for b in places) <= tolerance for a in hottest]
        assert one.item() == pytest.approx(sum(hits) / len(hits))


def test_the_grown_mask_is_a_disc():
    mask = torch.zeros(1, 31, 31, dtype=torch.bool)
    mask[0, 15, 15] = True
    for row, column, hit in [(0, 15, 1), (15, 30, 1), (5, 4, 1), (4, 4, 0), (30, 26, 0)]:
        heat = torch.zeros(1, 31, 31)
        heat[0, row, column] = 1
        assert pointing_game(heat, mask, tolerance=15).item() == hit


@given(questions(partial=False))
def test_mass_is_brute_force(question):
    heat, mask = question
    for one, h, m in zip(relevance_mass(heat, mask), heat, mask, strict=True):
        values = [(max(v, 0), i) for v, i in zip(h.flatten().tolist(), m.flatten(), strict=True)]
        total = sum(v for v, _ in values)
        if total == 0:
            assert one.isnan()
        else:
            assert one.item() == pytest.approx(sum(v for v, i in values if i) / total)


def test_mass_of_huge_values():
    heat = torch.full((1, 2, 2), 1e308, dtype=torch.float64)
    assert relevance_mass(heat, torch.eye(2, dtype=torch.bool)[None]).item() == 0.5


@given(questions(most=3, partial=False).filter(lambda q: q[0][0].numel() <= 6))
def test_rank_is_the_mean_over_orders_of_tied_pixels(question):
    heat, mask = question
    for one, h, m in zip(relevance_rank(heat, mask), heat, mask, strict=True):
        values, inside = h.flatten().tolist(), m.flatten().tolist()
        size = sum(inside)
        shares = []
        for order in permutations(range(len(values))):  # each breaks ties in its own way
            top = sorted(order, key=lambda i: -values[i])[:size]
            shares.append(sum(inside[i] for i in top) / size)
        assert one.item() == pytest.approx(sum(shares) / len(shares))


@given(questions())
def test_a_batch_is_its_images_and_only_the_order_of_heat_matters(question):
    heat, mask = question
    for metric in ALL:
        whole = metric(heat, mask)
        parts = torch.cat([metric(h[None], m[None]) for h, m in zip(heat, mask, strict=True)])
        assert torch.equal(whole.nan_to_num(-1), parts.nan_to_num(-1))
        assert ((whole >= 0) & (whole <= 1) | whole.isnan()).all()
    for metric in (roc_auc, pointing_game, relevance_rank):
        assert torch.equal(metric(heat, mask), metric(heat.double() * 3 - 7, mask))


@given(questions())
def test_ranks_and_their_correlation_are_scipys(question):
    heat, _ = question
    other = heat.flip(2) + heat.flip(1)
    ranks = average_ranks(heat.flatten(1))
    assert ranks.tolist() == rankdata(heat.flatten(1), axis=1).tolist()
    for one, a, b in zip(rank_correlation(heat, other), heat, other, strict=True):
        if a.unique().numel() == 1 or b.unique().numel() == 1:
            assert one.isnan()
        else:
            assert one.item() == pytest.approx(spearmanr(a.flatten(), b.flatten()).statistic)


@pytest.mark.parametrize("metric", ALL)
def test_what_cannot_be_judged_is_refused(metric):
    heat = torch.rand(2, 3, 3)
    mask = heat > heat.flatten(1).median(1).values[:, None, None]
    with pytest.raises(InputError, match="mask 1 is empty"):
        metric(heat, mask & torch.tensor([True, False])[:, None, None])
    for bad in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="NaN or infinite"):
            metric(torch.where(mask, bad, heat), mask)
    with pytest.raises(InputError, match="not bool"):
        metric(heat, mask.float())
    with pytest.raises(InputError, match="does not fit heat"):
        metric(heat, mask[:1])
    with pytest.raises(InputError, match="give floating-point maps"):
        metric(heat[0], mask[0])
    with pytest.raises(InputError, match="give floating-point maps"):
        metric(mask, mask)
    with pytest.raises(InputError, match="is empty: give at least one map"):
        metric(heat[:0], mask[:0])


def test_only_roc_auc_refuses_full_masks():
    heat, mask = torch.rand(1, 3, 3), torch.ones(1, 3, 3, dtype=torch.bool)
    with pytest.raises(InputError, match="mask 0 is full"):
        roc_auc(heat, mask)
    assert [m(heat, mask).item() for m in ALL[1:]] == [1, 1, 1]


def test_other_refusals():
    heat = torch.rand(1, 3, 3)
    with pytest.raises(InputError, match="tolerance is -1"):
        pointing_game(heat, heat > 0, tolerance=-1)
    with pytest.raises(InputError, match="cannot be correlated"):
        rank_correlation(heat, torch.rand(2, 3, 3))
