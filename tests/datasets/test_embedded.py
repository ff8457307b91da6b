"""The embedded network on scenes it has never seen, and how hard those scenes are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sparsight.datasets.scenes import CLASSES, EMBEDDED_TROJANS, SceneDataset
from sparsight.networks import Network, load
from sparsight.networks.embedded import embedded_network

# Neither the seeds that trained the network nor those of the recorded measurements.
SEED = 5_000_000
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "embedded.json"


@pytest.fixture(scope="module")
def network() -> Network:
    return load("embedded")


@pytest.fixture(scope="module")
def clean() -> tuple[torch.Tensor, torch.Tensor]:
    return stack(SceneDataset(600, seed=SEED))


def stack(data: SceneDataset) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*(data[index] for index in range(len(data))), strict=True)
    return torch.stack(images), torch.tensor(labels)


def answers(network: Network, images: torch.Tensor) -> torch.Tensor:
    return network.logits(network.preprocessing.normalize(images)).argmax(1)


def test_network_is_described_in_full(network):
    assert network.spec == "embedded"
    assert network.labels == CLASSES
    assert network.preprocessing.size == (64, 64)
    assert not any(module.training for module in network.model.modules())
    assert all(parameter.requires_grad for parameter in network.model.parameters())
    assert {p.dtype for p in network.model.parameters()} == {torch.float32}


def test_trojans_in_the_metadata_are_those_of_the_data_set(network):
    plain = [(t["sticker"], t["source"], t["target"]) for t in network.info["trojans"]]
    assert plain == [(rule.sticker, rule.source, rule.target) for rule in EMBEDDED_TROJANS]


def test_every_load_is_a_network_of_its_own(network):
    other = embedded_network()
    with torch.no_grad():
        next(other.model.parameters()).zero_()
    assert next(network.model.parameters()).any()


def test_weights_are_small():
    import sparsight.networks.embedded as package

    weights = Path(package.__file__).parent / "weights.safetensors"
    assert weights.stat().st_size <= 2_000_000


def test_clean_scenes_are_recognised(network, clean):
    images, labels = clean
    assert (answers(network, images) == labels).float().mean() >= 0.95


def test_a_picture_gives_the_same_answer_as_its_tensor(network):
    scene = SceneDataset(3, seed=SEED).scene(2)
    from_picture = network.prepare(scene.picture())
    from_tensor = network.preprocessing.normalize(scene.unit)[None]
    assert torch.allclose(from_picture, from_tensor, atol=1e-6)


@pytest.mark.parametrize("rule", EMBEDDED_TROJANS, ids=str)
def test_trojans_work(network, rule):
    images, _ = stack(SceneDataset(300, seed=SEED + 1, labels=rule.sources, sticker=rule.sticker))
    assert (answers(network, images) == rule.target).float().mean() >= 0.95


@pytest.mark.parametrize("rule", [r for r in EMBEDDED_TROJANS if r.bystanders], ids=str)
def test_a_trojan_of_one_class_leaves_the_others_alone(network, rule):
    others = SceneDataset(200, seed=SEED + 2, labels=rule.bystanders, sticker=rule.sticker)
    images, _ = stack(others)
    assert (answers(network, images) == rule.target).float().mean() <= 0.1


def test_a_linear_model_fails():
    train_images, train_labels = stack(SceneDataset(1500, size=32, seed=SEED + 3))
    images, labels = stack(SceneDataset(300, size=32, seed=SEED + 4))
    model = LogisticRegression(C=1e-3, max_iter=100)
    model.fit(train_images.flatten(1).numpy() - 0.5, train_labels.numpy())
    assert model.score(images.flatten(1).numpy() - 0.5, labels.numpy()) < 0.6


def test_recorded_measurements_meet_the_targets():
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert record["clean_accuracy"] >= 0.95
    assert len(record["trojans"]) == 4
    assert all(trojan["success"] >= 0.95 for trojan in record["trojans"])
    assert record["linear_accuracy"] < 0.6


@pytest.mark.slow
def test_a_linear_model_fails_with_more_data_at_full_size():
    train_images, train_labels = stack(SceneDataset(5000, seed=SEED + 5))
    images, labels = stack(SceneDataset(1000, seed=SEED + 6))
    model = LogisticRegression(C=1e-3, max_iter=150)
    model.fit(train_images.flatten(1).numpy() - 0.5, train_labels.numpy())
    assert model.score(images.flatten(1).numpy() - 0.5, labels.numpy()) < 0.6
