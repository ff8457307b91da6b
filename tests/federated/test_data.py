"""Partitions: nobody's image twice, as unlike as they are said to be, the same for a seed."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from federated.federation_kit import images_of, network_of
from sparsight.datasets.pixels import Pixels
from sparsight.errors import InputError
from sparsight.federated import (
    ClientData,
    Federation,
    Styled,
    dirichlet,
    evenly,
    few_classes,
    statistics,
)

LABELS = torch.arange(10).repeat(200)


@given(st.integers(1, 12), st.sampled_from([0.1, 0.5, 5.0]), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_every_image_has_one_owner(clients: int, alpha: float, seed: int) -> None:
    for parts in (
        dirichlet(LABELS, clients, alpha, seed), evenly(LABELS, clients, seed),
    ):  # fmt: skip
        assert sorted(chain.from_iterable(parts)) == list(range(len(LABELS)))
        assert min(map(len, parts)) >= 10
    assert dirichlet(LABELS, clients, alpha, seed) == dirichlet(LABELS, clients, alpha, seed)


def test_alike_and_unlike_clients_look_like_it() -> None:
    """Ten clients: alike, they have every class and a tenth of the images; at 0.1 a few classes."""
    alike = statistics(LABELS, evenly(LABELS, 10))
    assert alike["images"] == [200] * 10
    assert alike["distance"] < 0.15
    assert min(alike["classes"]) == 10
    spreads = []
    for seed in range(5):
        unlike = statistics(LABELS, dirichlet(LABELS, 10, 0.1, seed))
        spreads.append(unlike["distance"])
        assert sum(unlike["images"]) == len(LABELS)
        assert max(unlike["images"]) < 2 * len(LABELS) / 10 + 200, "balanced, as the benchmark does"
        assert sorted(unlike["classes"])[5] <= 4
    half = statistics(LABELS, dirichlet(LABELS, 10, 0.5))["distance"]
    many = statistics(LABELS, dirichlet(LABELS, 10, 100.0))["distance"]
    assert min(spreads) > half > many


@pytest.mark.parametrize("each", [1, 2, 5, 10])
def test_clients_have_as_many_classes_as_is_said(each: int) -> None:
    parts = few_classes(LABELS, 10, each)
    told = statistics(LABELS, parts)
    assert told["classes"] == [each] * 10
    assert sorted(chain.from_iterable(parts)) == list(range(len(LABELS)))


def test_a_clients_parts_do_not_overlap() -> None:
    data = ClientData.of(list(range(50)), 3)
    parts = [[part[i] for i in range(len(part))] for part in vars(data).values()]
    assert sorted(chain.from_iterable(parts)) == list(range(50))
    smallest = ClientData.of([1, 2, 3], 0)
    assert [len(part) for part in vars(smallest).values()] == [1, 1, 1]


def test_cameras_differ_between_clients_and_not_between_calls() -> None:
    data = Pixels(network_of(), images_of(3))
    one, again, other = Styled(data, 0), Styled(data, 0), Styled(data, 1)
    assert torch.equal(one[2][0], again[2][0])
    assert not torch.equal(one[2][0], other[2][0])
    assert 0 <= float(one[2][0].min()) <= float(one[2][0].max()) <= 1
    assert torch.allclose(Styled(data, 0, strength=0.0)[1][0], data[1][0], atol=1e-6)
    assert one[1][1] == data[1][1]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: dirichlet(LABELS, 10, 0.0), "alpha 0: give a positive"),
        (lambda: dirichlet(LABELS[:50], 10, 0.5), "take fewer clients"),
        (lambda: dirichlet(LABELS % 3, 12, 0.01), "choose a larger alpha"),
        (lambda: evenly(LABELS, 0), "give 1 or more"),
        (lambda: evenly(LABELS[:5], 2), "give 3 each"),
        (lambda: few_classes(LABELS, 4, 11), "give 1 to 10"),
        (lambda: few_classes(LABELS[:40], 30, 1), "give 3 each"),
        (lambda: ClientData.of([1, 2], 0), "give it more"),
        (lambda: Federation.of(Pixels(network_of(), images_of(6)), [[0, 1], [2]]), "give it more"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(make, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        make()
