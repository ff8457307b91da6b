"""Blocks of the architectures that the published ratios are given for, and of others."""

from __future__ import annotations

import pytest
import torchvision.models
from torch import nn

from sparsight.networks import blocks_of, load, weight_matrices
from sparsight.traces import PRESETS


def blocks(model: nn.Module) -> dict[str, list[str]]:
    found = blocks_of(model, weight_matrices(model))
    return {block: [matrix.name for matrix in part] for block, part in found.items()}


def test_residual_blocks_are_those_of_the_published_ratios() -> None:
    found = blocks(torchvision.models.resnet50())
    assert list(found) == ["conv1", *reversed(PRESETS["spade-lrp"])]
    assert found["layer2.0"] == [
        "layer2.0.conv1",
        "layer2.0.conv2",
        "layer2.0.conv3",
        "layer2.0.downsample.0",
    ]


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("mobilenet_v2", {"features.0", "features.17", "classifier.1"}),
        ("vit_b_16", {"conv_proj", "encoder.layers.encoder_layer_3", "heads.head"}),
        ("squeezenet1_0", {"features.0", "features.3", "classifier.1"}),
        ("vgg11", {"features.3", "classifier.6"}),
        ("swin_t", {"features.1.0", "head"}),
    ],
)
def test_blocks_of_other_architectures(name: str, some: set[str]) -> None:
    model = torchvision.models.get_model(name)
    found = blocks(model)
    assert some <= set(found)
    names = [matrix.name for matrix in weight_matrices(model)]
    assert sorted(name for part in found.values() for name in part) == sorted(names)


def test_the_embedded_network() -> None:
    model = load("embedded").model
    assert list(blocks(model))[1:3] == ["stage1.0", "stage2.0"]
