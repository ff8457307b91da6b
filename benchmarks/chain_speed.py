"""Measure how long a step of a chain takes, in plain forward and backward passes.

    python benchmarks/chain_speed.py [--network resnet50] [--images 20] [--rounds 3]

A step is the difference between extractions of more and of fewer steps, so that what is done once
does not count; a plain pass is a forward and backward pass of the same images, gradients of weights
included, as in training. Both are timed in turn, in one run. Weights are random unless the shared
data folder is beside the checkout. Writes ``benchmarks/results/chain-speed.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from sparsight.chains import extract
from sparsight.networks import load
from sparsight.storage import library_versions, write_text

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT.parent / "shared" / "data" / "imagenet"
RESULT = ROOT / "benchmarks" / "results" / "chain-speed.json"
FEW, MANY = 2, 12  # with one try of the chain in ten steps, as in a whole extraction


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    file = WEIGHTS / f"{options.network}.safetensors"
    network = load(
        f"torchvision:{options.network}", weights=file if file.is_file() else "random",
        device=options.device,
    )  # fmt: skip
    torch.manual_seed(0)
    x = torch.randn(options.images, 3, *network.preprocessing.size, device=options.device)
    labels = torch.zeros(len(x), dtype=torch.long, device=options.device)
    parameters = list(network.model.parameters())

    def wait() -> float:
        if x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def plain() -> float:
        start = wait()
        with torch.enable_grad():
            torch.autograd.grad(F.cross_entropy(network(x), labels), parameters)
        return wait() - start

    def chain(steps: int) -> float:
        start = wait()
        extract(network, x, steps=steps, views=0)
        return wait() - start

    plain()
    rows = []
    for number in range(options.rounds):
        each = (chain(MANY) - chain(FEW)) / (MANY - FEW)
        own = median(plain() for _ in range(3))
        rows.append({"step": each, "plain": own, "ratio": each / own})
        print(number, rows[-1], flush=True)
    found = {
        "network": options.network, "images": options.images, "device": options.device,
        "threads": torch.get_num_threads(), "rows": rows,
        "ratio": median(row["ratio"] for row in rows),
    }  # fmt: skip
    content = {"versions": library_versions(), "command": "make chains", **found}
    write_text(RESULT, json.dumps(content, indent=1) + "\n")
    print(f"a step takes {found['ratio']:.2f} plain passes")


if __name__ == "__main__":
    main()
