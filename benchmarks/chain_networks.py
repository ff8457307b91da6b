"""A VGG and a vision transformer of rendered scenes, for the study of chains.

    python benchmarks/chain_networks.py

Trains them into ``build/chains``, in half an hour of one core; those that are there stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from sparsight.datasets.scenes import CLASSES, SceneDataset
from sparsight.networks import Network, Preprocessing
from sparsight.networks.state import write_tensors
from sparsight.storage import write_text
from train_embedded import ROOT, TEST_SEED, Normalize, answers, render_all, train, training_set

HOME = ROOT / "build" / "chains"
SCENES, SEED = 12_000, 70_000
MIDDLE = (0.5, 0.5, 0.5)
"""Mean and standard deviation of the input's channels."""


def _vgg() -> nn.Module:
    """Build VGG-19 with batch norm, a quarter as wide, and one linear layer on averages."""
    narrow: list[Any] = [width if width == "M" else int(width) // 4 for width in cfgs["E"]]
    layers = make_layers(narrow, batch_norm=True)
    head = nn.Linear(narrow[-2], len(CLASSES))
    return nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def _vit() -> nn.Module:
    """Build a vision transformer of four blocks with patches of 8 pixels."""
    transformer: nn.Module = VisionTransformer(
        img_size=64, patch_size=8, num_classes=len(CLASSES), embed_dim=96, depth=4, num_heads=4
    )
    return transformer


@dataclass(frozen=True)
class Recipe:
    """How a network is made."""

    build: Callable[[], nn.Module]
    epochs: int
    rate: float


RECIPES = {"scenes_vgg19": Recipe(_vgg, 8, 2e-3), "scenes_vit": Recipe(_vit, 20, 1e-3)}


def network_of(name: str) -> Network:
    """Load a trained network.

    Raises
    ------
    FileNotFoundError
        If it was not made yet.
    """
    model = RECIPES[name].build()
    model.load_state_dict(load_file(HOME / f"{name}.safetensors"))
    frame = Preprocessing((64, 64), None, mean=MIDDLE, std=MIDDLE)
    return Network(model.eval(), frame, tuple(CLASSES), name)


def main() -> None:
    """Train what is missing, and say how good each is."""
    HOME.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)
    normalize, rows = Normalize(MIDDLE, MIDDLE), {}
    with ThreadPoolExecutor(1) as pool:
        test, truth = render_all(pool, SceneDataset(1000, seed=TEST_SEED))
        for name, recipe in RECIPES.items():
            if not (HOME / f"{name}.safetensors").exists():
                images, labels = training_set(SCENES, [], 0.0, SEED, pool)
                model = train(
                    images, labels, normalize, recipe.epochs, SEED, recipe.build, adam=recipe.rate
                )
                write_tensors(HOME / f"{name}.safetensors", model.state_dict(), {})
    for name in RECIPES:
        said = answers(network_of(name).model, normalize, test)
        rows[name] = {"right": float((said == truth).double().mean())}
        print(name, rows[name], flush=True)
    write_text(HOME / "networks.json", json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
