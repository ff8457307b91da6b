"""Compare federations: rounds, bytes and accuracies on CIFAR-10, ten clients with unlike images.

    python benchmarks/federate_study.py [--networks simple_cnn] [--alphas 0.1] [--seeds 0 1 2]

Every algorithm trains the same network from the same weights on the same images, dealt out to ten
clients by a Dirichlet distribution; clients keep a fifth of theirs to be judged on, and 500 images
(200 for the ResNet-20) of all classes are nobody's. Learning rate and budgets were set by hand on a
ResNet-8 with other images, for SPATL. Each row is kept in ``benchmarks/results/federate.json`` as
soon as it is measured, and not measured again. Clients run one after the other in this process:
bytes are those of the messages that Flower would carry (``tests/federated/test_flower.py`` holds
the two to the same results).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from federate_table import PAGE, frontier, table
from overlap import CIFAR, ROOT
from sparsight.datasets.pixels import Pixels, read_arrays
from sparsight.errors import NumericalError
from sparsight.federated import Federation, dirichlet, federate
from sparsight.networks import load
from tables import kept, stages, write_table

RESULT = ROOT / "benchmarks" / "results" / "federate.json"
CLIENTS = 10


@dataclass(frozen=True)
class Amounts:
    """How much is trained, with how many test images it is judged, every how many rounds."""

    images: int
    tested: int
    rounds: int
    judge: int
    methods: tuple[str, ...]


METHODS: dict[str, dict[str, Any]] = {
    "alone": {"algorithm": "alone"},
    "fedavg": {"algorithm": "fedavg"},
    "fedavg, slower": {"algorithm": "fedavg", "rate": 0.03},
    "fedprox": {"algorithm": "fedprox"},
    "fednova": {"algorithm": "fednova"},
    "scaffold": {"algorithm": "scaffold"},
    "scaffold, slower": {"algorithm": "scaffold", "rate": 0.03},
    "fedper": {"algorithm": "fedper"},
    "topk": {"algorithm": "topk", "budget": 0.1},
    "randomk": {"algorithm": "randomk", "budget": 0.1},
    "spatl": {"algorithm": "spatl"},
    "spatl, controlled": {"algorithm": "spatl", "variates": "derived"},
    "spatl, forgetful": {"algorithm": "spatl", "memory": False},
    "spatl, half down": {"algorithm": "spatl", "downlink": 0.5},
    "spatl, head shared": {"algorithm": "spatl", "head": "shared", "batch_norm": "shared"},
    "spatl, norm": {"algorithm": "spatl", "selector": "norm"},
    "spatl, random": {"algorithm": "spatl", "selector": "random"},
    "spatl, gradient": {"algorithm": "spatl", "selector": "gradient"},
    "spatl, blame": {"algorithm": "spatl", "selector": "blame"},
    "spatl, agent": {"algorithm": "spatl", "selector": "agent"},
    "spatl, entries": {"algorithm": "spatl", "selector": "entries"},
}  # fmt: skip
_EACH = (
    "alone", "fedavg", "fedprox", "fednova", "scaffold, slower", "fedper", "topk", "randomk",
    "spatl", "spatl, controlled",
)  # fmt: skip
NETWORKS = {
    "simple_cnn": Amounts(2000, 500, 30, 2, tuple(METHODS)),
    "resnet20": Amounts(1000, 200, 12, 3, _EACH),
}


def measure(name: str, method: str, alpha: float, seed: int, progress: Any) -> dict[str, Any]:
    """Run one federation."""
    amounts = NETWORKS[name]
    torch.manual_seed(seed)
    network = load(f"{ROOT / 'tests' / 'cifar_networks.py'}:{name}")
    data = Pixels(network, read_arrays(CIFAR / "train.npz")[: amounts.images])
    tests = Pixels(network, read_arrays(CIFAR / "test.npz")[: amounts.tested])
    federation = Federation.of(data, dirichlet(data.labels, CLIENTS, alpha, seed), tests, seed=seed)
    options = METHODS[method]
    log: list[dict[str, Any]] = []
    diverged = False

    def keep(rows: list[dict[str, Any]]) -> None:
        log[:] = rows

    try:
        federate(
            network, federation, rounds=amounts.rounds, judge=amounts.judge, seed=seed,
            progress=progress, logged=keep, **options,
        )  # fmt: skip
    except NumericalError:
        diverged = True
    names = ("local", "least", "global")
    return {
        "distance": federation.told["distance"],
        "commonest": sum(max(c) / sum(c) for c in federation.told["counts"]) / CLIENTS,
        "diverged": diverged,
        "rounds": [row["round"] for row in log if "local" in row],
        **{n: [row[n] for row in log if n in row] for n in names},
        "failed": sum(len(row["failed"]) for row in log),
        "up": [row["up"] for row in log],
        "down": [row["down"] for row in log],
    }


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--alphas", nargs="*", type=float, default=[0.1, 0.5])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--result", type=Path, default=RESULT, help="File to keep rows in.")
    options = parser.parse_args()
    if not CIFAR.is_dir():
        print("no data beside the checkout")
        return
    content, write = kept(options.result, "make federate")
    rows = content.setdefault("rows", {})
    torch.set_flush_denormal(True)
    with stages() as progress:
        for name in options.networks:
            for seed in options.seeds:
                for alpha in options.alphas:
                    for method in NETWORKS[name].methods:
                        title = f"{name}|{alpha}|{seed}|{method}"
                        if title in rows or method not in options.methods:
                            continue
                        rows[title] = measure(name, method, alpha, seed, progress)
                        write()
    if options.result == RESULT:
        write_table(PAGE, table(content))
        write_table(PAGE, frontier(content), "selectors")


if __name__ == "__main__":
    main()
