"""First scores that ask attacked images: gradients against differences, traces one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import Subset

import sparsight
from contracts import untouched
from robust.test_harden import FAST, network_of, pixels
from sparsight.datasets.pixels import batches
from sparsight.networks import Network
from sparsight.robust import HardenSettings, PixelClassifier, harden
from sparsight.robust.worth import worth_of


def _asked(
    scores: str, network: Network
) -> tuple[PixelClassifier, dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """A classifier, what its weights are worth, and the attacked images that said so."""
    classifier = PixelClassifier.of(network)
    settings = HardenSettings(scores=scores, batch=6, attack_steps=2)
    data = Subset(pixels(network), range(6))
    with untouched(classifier.model):
        worth = worth_of(network, classifier, data, settings)
    x, y = next(iter(batches(data, 6)))
    return classifier, worth, settings.attack(classifier, x, y, torch.Generator()), y


def test_gradients_are_those_of_the_loss_on_attacked_images():
    network = network_of()
    network = Network(network.model.double(), network.preprocessing, network.labels, "double")
    classifier, worth, moved, y = _asked("gradient", network)
    assert set(worth) == {"one.weight", "two.weight", "three.weight", "fc.weight"}
    for name, place in (("two.weight", (3, 5, 1, 2)), ("fc.weight", (2, 7))):
        weight = classifier.model.get_parameter(name).detach()
        found = []
        for step in (1e-6, -2e-6):
            weight[place] += step
            with torch.no_grad():
                found.append(float(F.cross_entropy(classifier(moved), y)))
        slope = (found[0] - found[1]) / 2e-6
        assert float(worth[name][place]) == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_traces_of_attacked_images_are_counted():
    network = network_of()
    classifier, worth, moved, _ = _asked("traces", network)
    assert set(worth) == {"one.weight", "two.weight", "three.weight", "fc.weight"}
    seen = Network(classifier.model, network.preprocessing, network.labels, "seen")
    traces = [sparsight.trace(seen, x) for x in network.preprocessing.normalize(moved).split(1)]
    for name, value in worth.items():
        kept = torch.stack([found.tensors.get(name, torch.ones(())) != 0 for found in traces])
        assert torch.allclose(value, (1 + kept.sum(0)) / 7)
    assert worth["one.weight"].unique().tolist() == [1.0], "the stem is not traced"
    assert worth["three.weight"].min() == pytest.approx(1 / 7)
    assert worth["three.weight"].max() > 0.5


@pytest.mark.parametrize("mode", ["weights", "channels"])
@pytest.mark.parametrize("scores", ["gradient", "traces"])
def test_masks_begin_with_them(scores, mode):
    network = network_of()
    options = FAST | {"target": 0.4, "epochs": (0, 1, 0), "mode": mode}
    with untouched(network.model):
        found = harden(network, pixels(network), scores=scores, **options)
        other = harden(network, pixels(network), scores="magnitude", **options)
    weights = [one.network.model.get_parameter("three.weight") for one in (found, other)]
    assert weights[0].shape != weights[1].shape or not torch.equal(*weights)
