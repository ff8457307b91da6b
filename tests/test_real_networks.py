"""Real networks on real images, where the shared data folder is beside the checkout."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import cifar_networks
from contracts import untouched
from sparsight.attribution import attribute
from sparsight.blame import blame, knock_out, neighbours, statistics
from sparsight.networks import Network, load
from sparsight.networks.coverage import coverage
from sparsight.traces import trace

pytestmark = pytest.mark.shared


def cifar(shared: Path, name: str) -> tuple[Network, torch.Tensor, torch.Tensor]:
    folder = shared / "data" / "cifar10"
    spec = f"{cifar_networks.__file__}:{name}"
    network = load(spec, weights=folder / f"{name}.safetensors")
    with np.load(folder / "test.npz") as data:
        images, labels = data["images"][:500], data["labels"][:500]
    return network, torch.from_numpy(images) / 255, torch.from_numpy(labels).long()


@pytest.mark.parametrize(
    ("name", "accuracy", "sparsity"),
    # The transformer loses its answers sooner: 4 of 6 kept at a half.
    [
        ("resnet20", 0.89, 0.5),
        ("resnet56", 0.9, 0.5),
        ("vit_encoder", 0.68, 0.3),
        ("wrn16_1_backdoored", 0.8, 0.5),
    ],
)
def test_cifar_networks_answer_are_covered_and_traced(
    shared: Path, name: str, accuracy: float, sparsity: float
) -> None:
    network, images, labels = cifar(shared, name)
    with torch.no_grad():
        answers = network(network.preprocessing.normalize(images)).argmax(1)
    assert float((answers == labels).float().mean()) > accuracy
    found = coverage(network)
    assert found.share == 1
    kept = 0
    with untouched(network.model):
        for image in images[:6]:
            x = network.preprocessing.normalize(image)[None]
            result = trace(network, x, sparsity=sparsity, augmentations=64)
            assert (
                len([layer for layer in result.layers if layer.requested]) == len(result.layers) - 1
            )
            kept += result.agrees
            with result.applied(network):
                relevance = attribute(network, x, result.prediction[0], "deep_lift")
            assert relevance.gap is not None
            assert relevance.gap < 0.01
    assert kept >= 5


def imagenet(shared: Path, name: str) -> tuple[Network, list[tuple[Path, int]]]:
    folder = shared / "data" / "imagenet"
    network = load(
        f"torchvision:{name}", weights=folder / f"{name}.safetensors", labels=folder / "classes.csv"
    )
    with (folder / "photos_labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return network, [(folder / "photos" / row["file"], int(row["label"])) for row in rows]


def test_imagenet_photographs_are_recognised_and_traced(shared: Path) -> None:
    network, photographs = imagenet(shared, "resnet18")
    right = 0
    for path, label in photographs[::8]:
        right += int(network.logits(network.prepare(path)).argmax()) == label
    assert right >= 8
    path, label = photographs[0]
    assert network.label(label).startswith("ostrich")
    result = trace(network, path, sparsity=0.5, augmentations=8)
    assert result.agrees
    assert result.prediction[0] == label
    assert result.kl < 0.5


@pytest.mark.parametrize("name", ["resnet20", "vit_encoder"])
def test_mistakes_of_cifar_networks_share_their_units(shared: Path, name: str) -> None:
    network, images, labels = cifar(shared, name)
    x = network.preprocessing.normalize(images)
    with untouched(network.model):
        usual = statistics(
            network, list(zip(x[:200], labels[:200].tolist(), strict=True)), profiles=True, batch=50
        )
        wrong = next(
            i for i in range(200, 500) if int(network.logits(x[i : i + 1])[0].argmax()) != labels[i]
        )
        found = blame(network, x[wrong], int(labels[wrong]), statistics=usual)
        alone = blame(network, x[wrong], int(labels[wrong]), statistics=usual, objective="sum")
        curves = knock_out(
            network, x[wrong : wrong + 1], int(labels[wrong]), found.units, found.scores["z"],
            counts=[0, 10], draws=2,
        )  # fmt: skip
    assert found.raised > 0.5  # the loss is large
    assert torch.equal(found.saliency, alone.saliency)
    for pixels in (found.map, alone.map):
        assert pixels is not None
        assert bool(pixels.map.any())
        assert bool(torch.isfinite(pixels.gradient).all())
    assert all(
        bool((curve.predicted[:, 0] == curve.predicted[0, 0]).all()) for curve in curves.values()
    )
    near = neighbours(found, usual, 5)
    assert all(image.label != image.predicted for image in near)
