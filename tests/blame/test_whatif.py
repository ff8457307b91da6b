"""Units off and units mended: against copies of the network with other weights."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from blame.reference import network_of
from blame.test_saliency import Sides, batch, models
from contracts import untouched
from sparsight.blame import (
    MODES,
    answers_without,
    choices,
    damage,
    knock_out,
    repair,
    usual_outputs,
)
from sparsight.errors import InputError, UnsupportedError
from sparsight.networks import Network, Units, overlay


def with_zeros(network: Network, units: Units, off: torch.Tensor) -> Network:
    """A copy with the weights of units zero, their biases as they were."""
    model = copy.deepcopy(network.model)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for index in off.nonzero()[:, 0].tolist():
            title, number = units.locate(index)
            group = next(group for group in units.groups if group.title == title)
            if group.kind == "norm":
                for name in ("weight", "bias"):
                    parameters[f"{group.name}.{name}"][number] = 0
            for part in group.parts if group.kind != "head" else group.parts[-1:]:
                parameter = parameters[part.matrix.parameter]
                matrix = part.matrix.pack(parameter).clone()
                rows = matrix.flatten(0, 1)
                chosen = slice(
                    part.start + number * part.size, part.start + (number + 1) * part.size
                )
                if part.axis == "rows":
                    rows[chosen] = 0
                else:
                    rows[:, chosen] = 0
                part.matrix.write(parameter, matrix)
    return network_of(model)


@pytest.mark.parametrize("name", list(models()))
@pytest.mark.parametrize("kind", ["filter", "row", "head", "neuron", "norm"])
def test_off_is_the_same_as_weights_of_zero(name, kind):
    network = network_of(models()[name])
    units = Units.of(network.model, [kind])
    if not len(units):
        return
    images, _ = batch(3)
    off = torch.rand(3, 2, len(units)) < 0.3
    with untouched(network.model):
        found = answers_without(network, images, units, off, chunk=4)
    for image in range(3):
        for choice in range(2):
            other = with_zeros(network, units, off[image, choice])
            expected = other.logits(images[image : image + 1])[0]
            assert torch.allclose(found[image, choice], expected, atol=1e-10)


def test_modes_differ_in_what_a_normalised_filter_leaves():
    network = network_of(models()["odd"])
    units = Units.of(network.model, ["filter"])
    images, _ = batch(3)
    usual = usual_outputs(network, [images[:2], images[2:]], units)
    off = torch.zeros(1, len(units), dtype=torch.bool)
    number = 3
    off[0, units.index("grouped", number)] = True
    seen = {}

    def look(_module, _inputs, output):
        seen["norm"] = output[:, number].clone()

    model = network.model
    left = {}
    for mode in MODES:
        handle = model.norm.register_forward_hook(look)
        answers_without(network, images, units, off, mode=mode, usual=usual)
        handle.remove()
        left[mode] = seen["norm"]
    norm = model.norm
    constant = norm.bias - norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt()
    assert torch.allclose(left["weights"], constant[number].expand_as(left["weights"]))
    handle = model.norm.register_forward_hook(look)
    network(images)
    handle.remove()
    assert torch.allclose(left["mean"], seen["norm"].mean().expand_as(left["mean"]))


def test_zero_is_zero_after_the_normalisation():
    network = network_of(models()["odd"])
    units = Units.of(network.model, ["filter"])
    images, _ = batch(2)
    off = torch.zeros(1, len(units), dtype=torch.bool)
    off[0, units.index("grouped", 1)] = True
    found = answers_without(network, images, units, off, mode="zero")[:, 0]
    other = copy.deepcopy(network.model)
    with torch.no_grad():
        other.grouped.weight[1] = 0
        other.norm.bias[1] = other.norm.weight[1] = 0
    assert torch.allclose(found, network_of(other).logits(images), atol=1e-12)


def test_the_mean_over_one_image_changes_nothing_where_nothing_varies():
    network = network_of(models()["vit"])
    units = Units.of(network.model, ["head", "neuron", "norm", "row"])
    flat = torch.zeros(1, 3, 12, 12, dtype=torch.float64)
    usual = usual_outputs(network, [flat], units)
    assert all(torch.isfinite(values).all() for values in usual.values())
    sizes = {group.title: group.count for group in units.groups}
    for title, values in usual.items():
        assert len(values) % sizes[title] == 0
    off = torch.ones(1, len(units), dtype=torch.bool)
    assert torch.isfinite(
        answers_without(network, flat, units, off, mode="mean", usual=usual)
    ).all()
    rows = Units.of(network.model, ["row"])
    head = torch.zeros(1, len(rows), dtype=torch.bool)
    head[0, rows.index("head", 2)] = True
    found = answers_without(network, flat, rows, head, mode="mean", usual=usual)
    assert torch.allclose(found[0, 0], network.logits(flat)[0], atol=1e-12)


def test_choices_are_nested_and_draws_differ():
    scores = torch.randn(30)
    off = choices(scores, [0, 3, 7], "random", draws=3, seed=1)
    assert off.sum(2).tolist() == [[0, 3, 7]] * 3
    assert bool((off[:, 1] <= off[:, 2]).all())
    assert not torch.equal(off[0], off[1])
    salient, least = (choices(scores, [5], order)[0, 0] for order in ("salient", "least"))
    assert set(salient.nonzero()[:, 0].tolist()) == set(scores.topk(5).indices.tolist())
    assert set(least.nonzero()[:, 0].tolist()) == set((-scores).topk(5).indices.tolist())
    with pytest.raises(InputError, match="no order"):
        choices(scores, [1], "middle")
    with pytest.raises(InputError, match="cannot switch off"):
        choices(scores, [31], "least")


def test_a_sweep_is_its_single_answers():
    network = network_of(models()["odd"])
    units = Units.of(network.model, ["filter"])
    images, labels = batch(1)
    scores = torch.randn(len(units))
    with untouched(network.model):
        curves = knock_out(
            network, images, int(labels[0]), units, scores, counts=[0, 2, 5], draws=2, chunk=3
        )
    predicted = int(network.logits(images).argmax())
    for order, curve in curves.items():
        off = choices(scores, [0, 2, 5], order, 2, 0)
        assert curve.true.shape == off.shape[:2]
        for draw in range(len(off)):
            for number in range(3):
                logits = answers_without(network, images, units, off[draw, number][None])[0, 0]
                probability = logits.softmax(0)
                assert torch.allclose(curve.true[draw, number], probability[labels[0]])
                assert torch.allclose(curve.predicted[draw, number], probability[predicted])
                assert bool(curve.corrected[draw, number]) == bool(logits.argmax() == labels[0])


def test_damage_counts_right_answers_lost():
    network = network_of(models()["odd"])
    units = Units.of(network.model, ["filter", "row"])
    images, _ = batch(12)
    labels = network.logits(images).argmax(1)
    labels[0] = (labels[0] + 1) % 5
    off = torch.zeros(2, len(units), dtype=torch.bool)
    off[1, units.index("fc", int(labels[1]))] = True
    lost = damage(network, images, labels, units, off)
    other = with_zeros(network, units, off[1]).logits(images).argmax(1)
    assert lost[0] == 0
    assert float(lost[1]) == pytest.approx(float((other != labels)[1:].double().mean()))
    with pytest.raises(InputError, match="gets none"):
        damage(network, images[:1], labels[:1], units, off)


def test_repair_steps_down_the_gradient_of_the_chosen_units_alone():
    network = network_of(models()["odd"])
    units = Units.of(network.model, ["filter"])
    images, labels = batch(1)
    label = int(labels[0])
    chosen = torch.tensor([units.index("twice", 2), units.index("grouped", 5)])
    with untouched(network.model):
        found = repair(network, images, label, units, chosen, steps=1, rate=0.1)
    loss = F.cross_entropy(network(images), labels)
    for layer, row in (("twice", 2), ("grouped", 5)):
        weight = network.model.get_submodule(layer).weight
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        expected = weight.detach().clone()
        expected[row] -= 0.1 * gradient[row]
        assert torch.allclose(found.tensors[f"{layer}.weight"], expected)
    assert set(found.tensors) == {"twice.weight", "grouped.weight"}
    longer = repair(network, images, label, units, chosen, steps=20, rate=0.1)
    assert longer.losses[-1] < longer.losses[0]
    with overlay(network.model, longer.tensors), torch.no_grad():
        again = float(F.cross_entropy(network(images), labels))
    assert again == pytest.approx(longer.losses[-1])
    with pytest.raises(InputError, match="1 step or more"):
        repair(network, images, label, units, chosen, steps=0)


def test_switches_say_what_they_miss():
    network = network_of(models()["odd"])
    units = Units.of(network.model)
    images, _ = batch(1)
    off = torch.zeros(1, len(units), dtype=torch.bool)
    with pytest.raises(InputError, match="cannot be off by"):
        answers_without(network, images, units, off, mode="half")
    with pytest.raises(InputError, match="needs means"):
        answers_without(network, images, units, off, mode="mean")
    with pytest.raises(InputError, match="choices of 3 units"):
        answers_without(network, images, units, off[:, :3])
    with pytest.raises(InputError, match="no images"):
        usual_outputs(network, [], units)


def test_a_network_that_mixes_its_images_is_switched_one_by_one():
    torch.manual_seed(0)
    network = network_of(Sides())
    units = Units.of(network.model, ["filter"])
    images, _ = batch(3)
    off = torch.rand(3, 2, len(units)) < 0.5
    with pytest.raises(UnsupportedError, match="chunk=1"):
        answers_without(network, images, units, off)
    found = answers_without(network, images, units, off, chunk=1)
    for image in range(3):
        expected = with_zeros(network, units, off[image, 1]).logits(images[image : image + 1])[0]
        assert torch.allclose(found[image, 1], expected, atol=1e-10)
