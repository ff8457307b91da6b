"""How long a step of visualization takes against a plain forward and backward pass.

    python benchmarks/visualization_speed.py [--steps 512]

ResNet-50 at 224 pixels, random weights where the shared data are missing. Both are timed in turns,
so that a noisy machine disturbs both alike; the result, medians and the memory after every quarter,
goes to ``benchmarks/results/visualization-speed.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from statistics import median

import torch

from sparsight.networks import Network, load, shared_view
from sparsight.storage import library_versions, write_text
from sparsight.visualization import logit, visualize

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT.parent / "shared" / "data" / "imagenet" / "resnet50.safetensors"
RESULT = ROOT / "benchmarks" / "results" / "visualization-speed.json"
ROUND = 8  # steps


def plain(network: Network, batch: int) -> float:
    """Seconds of a forward and a backward pass to the image, mean of a round."""
    view = shared_view(network)
    x = torch.randn(batch, 3, *network.preprocessing.size, requires_grad=True)
    started = time.perf_counter()
    for _ in range(ROUND):
        torch.autograd.grad(view(x)[:, 0].sum(), x)
    return (time.perf_counter() - started) / ROUND


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    trained = WEIGHTS.is_file()
    network = load("torchvision:resnet50", weights=WEIGHTS if trained else Path("random"))
    plain(network, options.batch)
    steps, passes, memory = [], [], []
    for number in range(max(1, options.steps // ROUND)):
        found = visualize(network, logit(number), images=options.batch, steps=ROUND)
        steps.append(found.seconds / ROUND)
        passes.append(plain(network, options.batch))
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    ratios = [step / one for step, one in zip(steps, passes, strict=True)]
    quarters = memory[:: max(1, len(memory) // 4)] + memory[-1:]
    content = {
        "network": "torchvision:resnet50",
        "weights": "trained" if trained else "random",
        "batch": options.batch,
        "steps": ROUND * len(steps),
        "seconds per step": round(median(steps), 4),
        "seconds per plain pass": round(median(passes), 4),
        "ratio": round(median(ratios), 3),
        "peak memory, GiB, over the run": [round(value, 3) for value in quarters],
        "threads": torch.get_num_threads(),
        "versions": library_versions(),
        "command": f"python benchmarks/visualization_speed.py --steps {options.steps}",
    }
    write_text(RESULT, json.dumps(content, indent=2) + "\n")
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
