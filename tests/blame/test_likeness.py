"""Neighbours by an index against all neighbours, and what it refuses."""

from __future__ import annotations

import sys

import pytest
import torch

from blame.reference import network_of
from blame.test_saliency import models
from sparsight.blame import NeighbourIndex, blame, neighbours, statistics
from sparsight.errors import InputError


@pytest.fixture(scope="module")
def asked():
    network = network_of(models()["odd"])
    images = torch.randn(300, 3, 12, 12, dtype=torch.float64)
    usual = statistics(
        network, [(one, i % 5) for i, one in enumerate(images)], profiles=True, batch=64
    )
    found = blame(network, images[17], 2, statistics=usual, objective=None)
    return usual, found


def test_an_index_finds_what_a_search_of_all_finds(asked):
    pytest.importorskip("faiss")
    usual, found = asked
    exact = neighbours(found, usual, 10, wrong=False)
    index = NeighbourIndex(usual, wrong=False)
    near = neighbours(found, usual, 10, wrong=False, index=index)
    assert near[0].name == exact[0].name == "sample 17"
    assert len({one.name for one in near} & {one.name for one in exact}) >= 9
    by_name = {one.name: one.similarity for one in exact}
    for one in near:
        if one.name in by_name:
            assert one.similarity == pytest.approx(by_name[one.name]), "compared exactly"


def test_wrong_answers_alone(asked):
    pytest.importorskip("faiss")
    usual, found = asked
    index = NeighbourIndex(usual)
    near = neighbours(found, usual, 5, index=index)
    assert all(one.label != one.predicted for one in near)
    with pytest.raises(InputError, match="other statistics or images"):
        neighbours(found, usual, 5, wrong=False, index=index)


def test_without_faiss_it_says_what_to_install(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"sparsight\[index\]"):
        NeighbourIndex(asked[0])
