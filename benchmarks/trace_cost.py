"""What a trace costs, as a multiple of a plain forward pass of the same augmentations.

Both are timed in turn in one process and medians are compared, because clocks and neighbours
change between runs. Three forward passes are reported: the batch as it comes (what a user
would write), the batch in channels-last layout, and channels-last in the chunks that a trace
uses, the fastest forward pass that we know how to do. Peak memory is that of a process of its
own that does nothing but one trace.

    python benchmarks/trace_cost.py [--repeats 5] [--augmentations 64]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from PIL import Image

from sparsight.networks import Network, load
from sparsight.storage import library_versions
from sparsight.traces import Augmentation, Trace, trace

RESULT = Path(__file__).parent / "results" / "trace_cost.json"


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = perf_counter()
    work()
    return perf_counter() - start


def photograph() -> Image.Image:
    """Noise at two scales, 500 x 375 pixels: content does not change the cost."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 12, 16, generator=generator)
    image = torch.nn.functional.interpolate(coarse[None], (375, 500), mode="bicubic")[0]
    image = (image + 0.1 * torch.rand(3, 375, 500, generator=generator)).clamp(0, 1)
    return Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy())


def trace_once(network: Network, image: Image.Image, count: int, sparsity: str) -> Trace:
    """One trace at the settings measured."""
    return trace(network, image, augmentations=count, sparsity=float(sparsity))


def peak_memory(arguments: argparse.Namespace) -> float:
    """GiB of resident memory at most, in a process that makes one trace."""
    command = [sys.executable, __file__, "--only-memory", f"--model={arguments.model}",
               f"--augmentations={arguments.augmentations}",
               f"--sparsity={arguments.sparsity}"]  # fmt: skip
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(printed.split()[-1])


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--augmentations", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sparsity", default="0.9", help="of every layer: all layers are solved")
    parser.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    network = load(arguments.model, weights="random")
    image = photograph()
    if arguments.only_memory:
        trace_once(network, image, arguments.augmentations, arguments.sparsity)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return

    views = Augmentation(count=arguments.augmentations)(
        torch.rand(3, 375, 500), network.preprocessing.size
    )
    last = views.contiguous(memory_format=torch.channels_last)
    found = trace_once(network, image, arguments.augmentations, arguments.sparsity)
    chunk = int(found.settings["chunk"])
    forwards = {
        "plain": lambda: network.logits(views),
        "channels_last": lambda: network.logits(last),
        "channels_last_chunks": lambda: [network.logits(part) for part in last.split(chunk)],
    }
    for work in forwards.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in (*forwards, "trace")}
    stages: dict[str, list[float]] = {}
    for repeat in range(arguments.repeats):
        for name, work in forwards.items():
            seconds[name].append(timed(work))
        start = perf_counter()
        found = trace_once(network, image, arguments.augmentations, arguments.sparsity)
        seconds["trace"].append(perf_counter() - start)
        for stage, spent in found.seconds.items():
            stages.setdefault(stage, []).append(spent)
        print(f"{repeat + 1}/{arguments.repeats}", {k: round(v[-1], 2) for k, v in seconds.items()})

    middle = {name: median(values) for name, values in seconds.items()}
    result = {
        "command": "python benchmarks/trace_cost.py",
        "model": arguments.model,
        "augmentations": arguments.augmentations,
        "sparsity": float(arguments.sparsity),
        "threads": torch.get_num_threads(),
        "chunk": chunk,
        "seconds": seconds,
        "median_seconds_by_stage": {name: median(values) for name, values in stages.items()},
        "trace_over_forward": {name: middle["trace"] / middle[name] for name in forwards},
        "peak_memory_gib": peak_memory(arguments),
        "versions": library_versions(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print({k: round(v, 2) for k, v in result["trace_over_forward"].items()})
    print(f"peak memory {result['peak_memory_gib']:.2f} GiB")


if __name__ == "__main__":
    main()
