"""One image through a chain, beside its trace and who is to blame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import sparsight
from contracts import untouched
from sparsight.blame import blame, statistics
from sparsight.chains import extract
from sparsight.datasets.scenes import render_scene
from sparsight.errors import NetworkError
from sparsight.mistake import investigate, suspects, weights_kept
from sparsight.subtask import follow
from sparsight.traces import trace


@pytest.fixture(scope="module")
def network():
    return sparsight.load("embedded")


def scenes(label, first, count):
    return [render_scene(label, seed=first + i).picture() for i in range(count)]


@pytest.fixture(scope="module")
def chain(network):
    given = scenes("mug", 0, 3) + scenes("tree", 10, 3)
    return extract(network, given, selector="contribution", keep=0.4)


def test_the_answer_is_that_of_the_chain(network, chain):
    image = render_scene("mug", seed=77).picture()
    found = trace(network, image, sparsity=0.5, augmentations=4)
    with untouched(network.model):
        told = follow(network, chain, image, found, most=3)
    x = network.prepare(image)
    with chain.applied(network, x):
        alone = network.logits(x)[0].double().softmax(0)
    whole = network.logits(x)[0].double().softmax(0)
    for name, before, after in told.classes:
        number = network.class_index(name)
        assert before == pytest.approx(float(whole[number]))
        assert after == pytest.approx(float(alone[number]), rel=1e-3, abs=1e-6)
    assert told.kl == pytest.approx(float((whole * (whole / alone).log()).sum()), rel=1e-3)
    assert told.agrees == bool(whole.argmax() == alone.argmax())
    assert max(sum(n.layer == k for n in told.report.nodes) for k in range(3)) == 3
    assert all(node.crops for node in told.report.nodes)
    assert told.blamed is None


def test_what_the_trace_kept_is_counted_by_unit(network, chain):
    image = render_scene("mug", seed=78).picture()
    found = trace(network, image, sparsity=0.5, augmentations=4)
    gated = chain.gated(network, network.prepare(image))
    kept = weights_kept(network, found, gated.units)
    with found.applied(network) as model:
        weight = model.get_submodule(gated.units.groups[3].name).weight
        wanted = (weight.flatten(1) != 0).double().mean(1)
    assert torch.allclose(gated.units.split(kept)[gated.units.groups[3].title], wanted)
    told = follow(network, chain, image, found)
    assert told.traced == pytest.approx((float(kept[chain.kept].mean()), float(kept.mean())))


def test_blamed_units_are_looked_up_in_the_chain(network, chain):
    picture = render_scene("mug", seed=79).picture()
    usual = statistics(network, [(one, "mug") for one in scenes("mug", 200, 4)])
    found = trace(network, picture, sparsity=0.5, augmentations=4)
    report = investigate(network, picture, "tree", statistics=usual, counts=())
    told = follow(network, chain, picture, found, blamed=report)
    units = set(chain.units())
    inside = sum((unit.layer, unit.number) in units for unit in report.units)
    assert told.blamed == (inside, len(report.units), pytest.approx(chain.share))
    right = extract(network, scenes("tree", 30, 3), selector="contribution", keep=0.2)
    wrong = extract(network, scenes("mug", 30, 3), selector="contribution", keep=0.2)
    blamed = blame(network, picture, "tree", statistics=usual)
    listed = suspects(blamed, wrong, right)
    assert listed == sorted(listed, key=lambda one: -one[2])
    assert {one[:2] for one in listed} <= set(wrong.without(right))
    assert all(score > 0 for *_, score in listed)


def test_a_chain_of_another_network_is_refused(network, chain):
    image = render_scene("mug", seed=80).picture()
    found = trace(network, image, sparsity=0.5, augmentations=2)
    other = replace(chain, layers=chain.layers[1:])
    with pytest.raises(NetworkError, match="extracted from"):
        follow(network, other, image, found)
