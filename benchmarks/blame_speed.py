"""How long statistics of saliency take: against a training step, and the published loop.

    python benchmarks/blame_speed.py [--networks resnet50 resnet20] [--device cpu] [--repeats 5]

All three work on the same images in one process, in turn: a plain training step (forward, backward
into all parameters) in batches; ours; and the published steps, one sample at a time, with a forward
pass that nobody reads and a graph kept for second derivatives. Ratios are of medians. Writes
``benchmarks/results/blame-speed.json``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.blame import SaliencyOf
from sparsight.networks import Network, Units, load
from sparsight.storage import library_versions, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "blame-speed.json"
CASES = {  # specification, images, images per batch
    "resnet50": ("torchvision:resnet50", 16, 8),
    "resnet18": ("torchvision:resnet18", 32, 8),
    "resnet20": (f"{ROOT / 'tests' / 'cifar_networks.py'}:resnet20", 128, 32),
    "resnet56": (f"{ROOT / 'tests' / 'cifar_networks.py'}:resnet56", 128, 32),
}
PROJECTED = 50_000


def training_step(network: Network, images: Tensor, labels: Tensor, batch: int) -> None:
    """Forward and backward into all parameters, whose gradients are not kept."""
    parameters = list(network.model.parameters())
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        torch.autograd.grad(F.cross_entropy(network(x), y), parameters)


def published(network: Network, images: Tensor, labels: Tensor) -> None:
    """One sample at a time, as the authors' code does it; Welford's update is left out."""
    parameters = list(network.model.parameters())
    for x, y in zip(images.split(1), labels.split(1), strict=True):
        network(x)
        loss = F.cross_entropy(network(x), y)
        found = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        for gradient in found:
            if gradient is not None and gradient.ndim == 4:
                gradient.detach().abs().mean((1, 2, 3))


def seconds(work: Callable[[], Any], device: str) -> float:
    """Time something, on a GPU until it is really done."""
    start = perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return perf_counter() - start


def main() -> None:
    """Time in turn, write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, help="in place of a number for each network")
    parser.add_argument("--batch", type=int, help="in place of a number for each network")
    options = parser.parse_args()
    content: dict[str, Any] = {"versions": library_versions(), "command": "make blame"}
    content |= {"threads": torch.get_num_threads(), "cores": os.cpu_count(), "rows": {}}
    for name in options.networks:
        spec, images, batch = CASES[name]
        images, batch = options.images or images, options.batch or batch
        torch.manual_seed(0)
        network = load(spec, weights="random", device=options.device)
        for parameter in network.model.parameters():
            parameter.requires_grad_()
        x = torch.randn(images, 3, *network.preprocessing.size, device=options.device)
        y = torch.randint(len(network.labels), (images,), device=options.device)
        measure = SaliencyOf(network, Units.of(network.model, ["filter"]))

        def ours(
            x: Tensor = x, y: Tensor = y, batch: int = batch, measure: SaliencyOf = measure
        ) -> None:
            for part, labels in zip(x.split(batch), y.split(batch), strict=True):
                measure(part, labels)

        works: dict[str, Callable[[], Any]] = {
            "training step": lambda n=network, x=x, y=y, b=batch: training_step(n, x, y, b),  # type: ignore[misc]
            "ours": ours,
            "published": lambda n=network, x=x, y=y: published(n, x, y),  # type: ignore[misc]
        }
        for work in works.values():
            work()  # warm up
        taken: dict[str, list[float]] = {title: [] for title in works}
        for _ in range(options.repeats):
            for title, work in works.items():
                taken[title].append(seconds(work, options.device))
        medians = {title: median(values) for title, values in taken.items()}
        row = {
            "device": options.device,
            "images": images,
            "batch": batch,
            "seconds": taken,
            "over training step": medians["ours"] / medians["training step"],
            "published over ours": medians["published"] / medians["ours"],
            f"seconds for {PROJECTED} images": medians["ours"] / images * PROJECTED,
        }
        content["rows"][f"{name}, {options.device}"] = row
        print(name, {k: v for k, v in row.items() if isinstance(v, float)}, flush=True)
        write_text(RESULT, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
