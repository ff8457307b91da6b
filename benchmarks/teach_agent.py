"""Teach the agent that shares a budget out among layers, on other networks and images.

    python benchmarks/teach_agent.py [--rounds 30]

What it learns from: federations of a ResNet-8 on images of CIFAR-10 that no study reports on, dealt
out anew. Writes the agent that comes along with the library, and says by how much its reward has
grown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from overlap import CIFAR, ROOT
from sparsight.datasets.pixels import Pixels, read_arrays
from sparsight.federated import (
    Agent,
    FederatedSettings,
    Federation,
    Setup,
    dirichlet,
    lessons,
    teach,
)
from sparsight.networks import load
from tables import stages

RESULT = ROOT / "src" / "sparsight" / "federated" / "agent.safetensors"
FIRST, IMAGES, CLIENTS, SEED = 12_000, 600, 5, 77
BUDGET = 0.1


def main() -> None:
    """Teach it, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    if not CIFAR.is_dir():
        print("no data beside the checkout")
        return
    torch.manual_seed(SEED)
    network = load(f"{ROOT / 'tests' / 'cifar_networks.py'}:resnet8")
    images = read_arrays(CIFAR / "train.npz")[FIRST : FIRST + IMAGES]
    data = Pixels(network, images)
    federation = Federation.of(data, dirichlet(data.labels, CLIENTS, 0.5, SEED), seed=SEED)
    settings = FederatedSettings.preset(rounds=21, seed=SEED)
    found = lessons(Setup(network, federation, settings), 21, first=12, every=4)
    agent = Agent(SEED)
    with stages("agent") as progress:
        rewards = teach(
            agent, found, BUDGET, rounds=options.rounds, rate=3e-3, seed=SEED, progress=progress
        )
    agent.save(options.result)
    few = max(1, len(rewards) // 6)
    first, last = sum(rewards[:few]) / few, sum(rewards[-few:]) / few
    every = [
        one.reward({n: torch.ones(len(v), dtype=torch.bool) for n, v in one.seen.after.items()})
        for one in found
    ]
    whole = sum(every) / len(every)
    print(f"{len(found)} lessons; nats {first:.3f} at first, {last:.3f} at last, all {whole:.3f}")


if __name__ == "__main__":
    main()
