"""Measure how many multiplications a client's network can do without, after a federation.

    python benchmarks/federate_smaller.py [--targets 0.8 0.6 0.4] [--seeds 0 1 2]

A VGG-11 is trained by a federation; each client then keeps the channels whose reading weights are
largest, of every layer the same share, cuts the others out, and trains what is left for two epochs
on its own images. Multiplications are counted on the network that is cut out, and right answers to
images of the client that it never trained on. Writes ``benchmarks/results/federate-smaller.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from overlap import CIFAR, ROOT
from sparsight.datasets.pixels import Pixels, read_arrays
from sparsight.federated import ClientData, Federation, dirichlet, federate
from sparsight.networks import load
from sparsight.robust import HardenSettings, evaluate, harden
from tables import kept, stages

RESULT = ROOT / "benchmarks" / "results" / "federate-smaller.json"
CLIENTS, IMAGES, ALPHA, ROUNDS = 5, 800, 0.5, 10


def right(model: torch.nn.Module, data: Dataset[Any]) -> float:
    """Share of right answers."""
    return evaluate(model, data, ()).accuracy("clean")


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="*", type=float, default=[0.8, 0.6, 0.4])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    if not CIFAR.is_dir():
        print("no data beside the checkout")
        return
    content, write = kept(options.result, "make federate")
    rows = content.setdefault("rows", {})
    torch.set_flush_denormal(True)
    with stages() as progress:
        for seed in options.seeds:
            missing = [t for t in options.targets if f"{seed}|{t}" not in rows]
            if missing:
                rows |= run(seed, missing, progress)
                write()


def run(seed: int, targets: list[float], progress: Any) -> dict[str, Any]:
    """Train a federation, and make each client's network smaller."""
    torch.manual_seed(seed)
    network = load(f"{ROOT / 'tests' / 'cifar_networks.py'}:vgg11")
    samples = read_arrays(CIFAR / "train.npz")[:IMAGES]
    data = Pixels(network, samples)
    parts = dirichlet(data.labels, CLIENTS, ALPHA, seed)
    federation = Federation.of(data, parts, seed=seed)
    found = federate(
        network, federation, rounds=ROUNDS, judge=ROUNDS, seed=seed, rate=0.02,
        progress=progress,
    )  # fmt: skip
    rows: dict[str, Any] = {}
    x = torch.zeros(2, 3, 32, 32)
    for target in targets:
        shares, before, after, plain = [], [], [], []
        for number in range(CLIENTS):
            own = federation.clients[number]
            assert isinstance(own, ClientData)
            mine = found.network(network, number)
            numbers = [parts[number][i] for i in own.train.indices]  # type: ignore[attr-defined]
            images = Pixels(network, [samples[i] for i in numbers])
            settings = HardenSettings(
                method="uniform", mode="channels", target=target, objective="natural",
                epochs=(0, 0, 2), batch=32, seed=seed, rates=(0.1, 0.1, 0.02),
            )  # fmt: skip
            less = harden(mine, images, settings=settings, progress=progress)
            dense = HardenSettings(
                method="dense", objective="natural", epochs=(2, 0, 0), batch=32, seed=seed,
                rates=(0.02, 0.1, 0.02),
            )  # fmt: skip
            same = harden(mine, images, settings=dense, progress=progress)
            sizes = less.sizes(mine, x[:1])
            shares.append(sizes["cut"].products / sizes["before"].products)
            before.append(right(same.classifier, own.test))
            after.append(right(less.smaller(x), own.test))
            plain.append(found.log[-1]["local"])
        rows[f"{seed}|{target}"] = {
            "products": sum(shares) / CLIENTS, "right": sum(after) / CLIENTS,
            "right, nothing cut": sum(before) / CLIENTS, "right, before": sum(plain) / CLIENTS,
        }  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
