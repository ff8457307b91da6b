"""Measure what masks cost: a PGD-10 training step with them, without, and with a sort every pass.

    python benchmarks/harden_speed.py [--batch 32] [--repeats 3]

A ResNet-18 for images of 32 pixels (11.2 million weights), random weights and images, in turn in
one process. The third way is a slow reference of our own for what the published code does: every
layer's scores are sorted whole in every forward pass, twelve times a step. Writes
``benchmarks/results/harden-speed.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsight.robust import Masked, PixelClassifier, pgd
from sparsight.storage import library_versions, write_text

RESULT = Path(__file__).resolve().parent / "results" / "harden-speed.json"
TARGET = 0.01


class Sorted(torch.autograd.Function):
    """A mask by a full sort, gradients straight through."""

    @staticmethod
    def forward(ctx: object, scores: Tensor, keep: float) -> Tensor:
        """Sort, and mark the upper part."""
        flat = scores.flatten()
        order = flat.sort().indices
        mask = torch.zeros_like(flat)
        mask[order[int((1 - keep) * len(flat)) :]] = 1
        return mask.reshape(scores.shape)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient through."""
        return gradients[0], None


class SortedMask(nn.Module):
    """A weight under a mask that is sorted in every pass."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(weight.detach().abs().clone())

    def forward(self, weight: Tensor) -> Tensor:
        """Mask the weight."""
        mask: Tensor = Sorted.apply(self.scores.abs(), TARGET)
        return weight * mask


def network() -> PixelClassifier:
    """Build a ResNet-18 for small images."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return PixelClassifier(model, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)).train()


def plain() -> tuple[nn.Module, Callable[[], object]]:
    """Train all weights."""
    return network(), nullcontext


def masked() -> tuple[nn.Module, Callable[[], object]]:
    """Train scores and quotas."""
    classifier = network()
    found = Masked(classifier, "weights", TARGET, torch.rand(1, 3, 32, 32))
    for weight in found.originals().values():
        weight.requires_grad_(False)
    return classifier, found.cached


def published() -> tuple[nn.Module, Callable[[], object]]:
    """Train scores, sorted in every pass."""
    classifier = network()
    for module in list(classifier.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.requires_grad_(False)
            parametrize.register_parametrization(module, "weight", SortedMask(module.weight))
    return classifier, nullcontext


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    x, y = torch.rand(options.batch, 3, 32, 32), torch.randint(0, 10, (options.batch,))
    attack = pgd()
    ways = {"plain": plain(), "masked": masked(), "sorted": published()}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):
        for name, (model, context) in ways.items():
            start = time.perf_counter()
            with context():  # type: ignore[attr-defined]
                moved = attack(model, x, y)
                F.cross_entropy(model(moved), y).backward()
            for parameter in model.parameters():
                parameter.grad = None
            if repeat:  # the first warms up
                spent[name].append(time.perf_counter() - start)
            print(name, f"{time.perf_counter() - start:.1f} s", flush=True)
    ratios = {
        name: [own / base for own, base in zip(times, spent["plain"], strict=True)]
        for name, times in spent.items()
    }
    found = {
        "command": f"python benchmarks/harden_speed.py --batch {options.batch}",
        "versions": library_versions(), "threads": torch.get_num_threads(), "steps": attack.steps,
        "seconds": {name: statistics.median(times) for name, times in spent.items()},
        "ratio": {
            name: {"median": statistics.median(r), "least": min(r), "most": max(r)}
            for name, r in ratios.items()
        },
    }  # fmt: skip
    write_text(RESULT, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["ratio"], indent=1))


if __name__ == "__main__":
    main()
