"""The real architectures: every method is right on them, or refuses and says why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn

from sparsight.attribution import METHODS, attribute, attribute_many

pytestmark = pytest.mark.usefixtures("one_thread")


def _vision(name: str, **settings: object) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None, **settings)


def _timm(name: str, **settings: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, **settings)


def _hf_vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=64,
            patch_size=16,
            num_labels=10,
        )
    )


def _hf_resnet() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_labels=10
        )
    )


# name: how to build it, input size, has only ReLUs, GradCAM's layer and its reading
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, bool, str]] = {
    "resnet18": (_vision("resnet18"), 64, True, "layer4, read as NCHW 2x2"),
    "resnet50": (_vision("resnet50"), 64, True, "layer4, read as NCHW 2x2"),
    "vgg16": (_vision("vgg16"), 64, True, "avgpool, read as NCHW 7x7"),
    "densenet121": (_vision("densenet121"), 64, True, "features, read as NCHW 2x2"),
    "mobilenet_v2": (_vision("mobilenet_v2"), 64, True, "features, read as NCHW 2x2"),
    "efficientnet_b0": (_vision("efficientnet_b0"), 64, False, "features, read as NCHW 2x2"),
    "convnext_tiny": (_vision("convnext_tiny"), 64, False, "features, read as NCHW 2x2"),
    "swin_t": (_vision("swin_t"), 64, False, "permute, read as NCHW 2x2"),
    "vit_b_16": (
        _vision("vit_b_16", image_size=64),
        64,
        False,
        "encoder.layers.encoder_layer_10, read as NTC 4x4 after 1 prefix tokens",
    ),
    "timm resnet18": (_timm("resnet18"), 64, True, "layer4, read as NCHW 2x2"),
    "timm vit_tiny": (
        _timm("vit_tiny_patch16_224", img_size=64),
        64,
        False,
        "blocks.10, read as NTC 4x4 after 1 prefix tokens",
    ),
    "timm convnext_atto": (_timm("convnext_atto"), 64, False, "norm_pre, read as NCHW 2x2"),
    "timm test_resnet": (_timm("test_resnet"), 64, True, "layer4, read as NCHW 2x2"),
    "timm test_vit": (
        _timm("test_vit", img_size=64),
        64,
        False,
        "blocks.4, read as NTC 4x4 after 1 prefix tokens",
    ),
    "hf vit": (_hf_vit, 64, False, "vit.layers.1, read as NTC 4x4 after 1 prefix tokens"),
    "hf resnet": (_hf_resnet, 64, True, "resnet.encoder.stages.1, read as NCHW 8x8"),
}


def _network(name: str) -> tuple[nn.Module, torch.Tensor]:
    build, size, _, _ = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.bias, std=0.1)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=0.1)
        return model, torch.randn(3, size, size)


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_methods_are_exact_and_layers_are_found(name):
    model, x = _network(name)
    relu, layer = NETWORKS[name][2:]
    refusals: dict[str, str] = {}
    names = ["deep_lift", "lrp", "guided_backprop", "grad_cam"]
    maps = attribute_many(model, x, 3, names, refusals=refusals)
    assert maps["deep_lift"].gap < 1e-3
    assert maps["lrp"].gap < 1e-3
    assert maps["grad_cam"].notes[0] == f"layer {layer}"
    assert ("guided_backprop" in maps) == relu
    if not relu:
        assert "guided backpropagation is defined for ReLU" in refusals["guided_backprop"]


CHEAP = {
    "occlusion": {"window": 32, "stride": 32},
    "lime": {"samples": 20, "segments": 9},
    "gradient_shap": {"samples": 20},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_method_on_every_network(name):
    model, x = _network(name)
    refusals: dict[str, str] = {}
    maps = attribute_many(model, x, 3, settings=CHEAP, refusals=refusals)
    assert set(maps) | set(refusals) == set(METHODS)
    assert set(refusals) == (set() if NETWORKS[name][2] else {"guided_backprop", "guided_grad_cam"})
    for method, result in maps.items():
        assert torch.isfinite(result.map).all(), method
        if result.gap is not None and result.gap > 0.05:
            assert result.notes, method  # a large gap is never silent
    if maps["integrated_gradients"].gap > 0.05:  # a rough way from black: more points help
        assert attribute(model, x, 3, "integrated_gradients", steps=1000).gap < 0.05


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_trained_networks(name, shared):
    from sparsight.networks import load

    network = load(
        f"torchvision:{name}", weights=shared / "data" / "imagenet" / f"{name}.safetensors"
    )
    size = network.preprocessing.size
    x = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    target = int(network.logits(network.prepare(x)).argmax())
    for method in ("lrp", "deep_lift"):
        assert attribute(network, x, target, method).gap < 1e-3
