"""Measure what Flower and Ray cost: rounds of ten clients there, against a plain loop.

    python benchmarks/federate_speed.py [--rounds 6] [--repeats 3]

The clients train a small CNN on few images, so that what is left is the engine's own time: seconds
of a round on Flower, less the seconds of the same clients in a plain loop divided by the processes
that Flower has. The first round, which starts Ray and its workers, is told apart. Writes
``benchmarks/results/federate-speed.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from overlap import ROOT
from sparsight.datasets.pixels import Pixels
from sparsight.federated import Federation, evenly, federate
from sparsight.networks import load
from sparsight.storage import library_versions, write_text

RESULT = ROOT / "benchmarks" / "results" / "federate-speed.json"
CLIENTS = 10


def seconds(engine: str, rounds: int) -> tuple[float, list[float]]:
    """Seconds until the first round is done, and of each later one."""
    network = load(f"{ROOT / 'tests' / 'cifar_networks.py'}:simple_cnn")
    noise = torch.randint(0, 256, (CLIENTS * 40, 3, 32, 32), dtype=torch.uint8).numpy()
    pixels = Pixels(network, [(image, number % 10) for number, image in enumerate(noise)])
    federation = Federation.of(pixels, evenly(pixels.labels, CLIENTS))
    start = time.perf_counter()
    begun: list[float] = []
    found = federate(
        network, federation, engine=engine, rounds=rounds, judge=rounds,
        logged=lambda rows: begun.append(time.perf_counter() - start),
    )  # fmt: skip
    return begun[0], [row["seconds"] for row in found.log[1:]]


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for _ in range(options.repeats):
        first, later = seconds("flower", options.rounds)
        _, plain = seconds("loop", options.rounds)
        row = {
            "start and first round": first, "flower": statistics.median(later),
            "loop": statistics.median(plain),
        }  # fmt: skip
        row["overhead"] = row["flower"] - row["loop"] / (os.cpu_count() or 1)
        rows.append(row)
        print({name: round(value, 2) for name, value in row.items()})
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    content = {
        "versions": library_versions(), "command": "python benchmarks/federate_speed.py",
        "clients": CLIENTS, "seconds": middle, "each": rows,
    }  # fmt: skip
    write_text(options.result, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
