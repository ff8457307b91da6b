"""What workers are worth: a plain loop, the same loop that keeps what it finds, one worker, two.

    python benchmarks/sweep_speed.py [--images 24] [--repeats 3]

Photographs through ResNet-18 where the data are, else scenes through the embedded network; one
thread each. The plain loop traces, attributes and measures blame, and writes nothing. Seconds of
workers are also given without the time until the first image is begun, which does not grow with the
data set. Writes ``benchmarks/results/sweep-speed.json``, with the most memory that a worker had.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from overlap import ROOT
from sparsight.attribution import attribute
from sparsight.blame import statistics as blame_statistics
from sparsight.datasets.folders import label_images
from sparsight.datasets.scenes import CLASSES, render_scene
from sparsight.networks import Network, load, open_image
from sparsight.storage import library_versions, write_text
from sparsight.sweeps import sweep
from sparsight.traces import trace

RESULT = ROOT / "benchmarks" / "results" / "sweep-speed.json"
IMAGENET = ROOT.parent / "shared" / "data" / "imagenet"
SHARD = 4


def subject(count: int) -> tuple[Network, list[tuple[Any, Any]]]:
    """Give a network and labelled images."""
    if not IMAGENET.is_dir():
        names = [CLASSES[i % len(CLASSES)] for i in range(count)]
        pictures = [(render_scene(n, seed=i).picture(), n) for i, n in enumerate(names)]
        return load("embedded"), pictures
    network = load("torchvision:resnet18", weights=IMAGENET / "resnet18.safetensors")
    return network, list(label_images(IMAGENET / "val", IMAGENET / "val_labels.csv"))[:count]


def plain(network: Network, images: list[tuple[Any, Any]]) -> None:
    """Do the same without any engine, and keep nothing."""
    for start in range(0, len(images), SHARD):
        ready = []
        for image, label in images[start : start + SHARD]:
            opened = open_image(image) if isinstance(image, Path) else image
            x = network.prepare(opened)
            found = trace(network, opened)
            target = found.prediction[0]
            attribute(network, x, target)
            with found.applied(network):
                attribute(network, x, target)
            ready.append((x[0], label))
        blame_statistics(network, ready, profiles=True)


def memory() -> float:
    """Most memory that one of this process's workers has now, in GiB."""
    found = [0.0]
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "ray::_Worker" in " ".join(child.cmdline()):
                found.append(child.memory_info().rss / 2**30)
    return max(found)


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network, images = subject(options.images)
    plain(network, images[:SHARD])  # what is done once in a process
    rows: list[dict[str, float]] = []
    most = [0.0]
    for _ in range(options.repeats):
        row: dict[str, float] = {}
        start = time.perf_counter()
        plain(network, images)
        row["plain loop"] = time.perf_counter() - start
        for workers in (0, 1, 2):
            folder = Path(tempfile.mkdtemp())
            begun: list[float] = []

            def heard(stage: str, done: int, total: int, folder: Path = folder) -> None:
                most.append(memory())
                if not begun and any(folder.glob("at-*/*.json")):  # noqa: B023
                    begun.append(time.perf_counter())  # noqa: B023

            start = time.perf_counter()
            sweep(network, images, folder, shard=SHARD, workers=workers, progress=heard)
            end = time.perf_counter()
            row[f"{workers} workers"] = end - start
            if workers:
                row[f"{workers} workers, once begun"] = end - begun[0]
            shutil.rmtree(folder)
        rows.append(row)
        print(row, flush=True)
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    content = {
        "command": "python benchmarks/sweep_speed.py",
        "network": network.spec, "images": len(images), "cores": os.cpu_count(),
        "versions": library_versions(), "rows": rows, "median seconds": median,
        "most GiB of a worker": max(most),
        "ratios": {
            "kept over plain loop": median["0 workers"] / median["plain loop"],
            "one worker over plain loop": median["1 workers, once begun"] / median["plain loop"],
            "one worker over two": median["1 workers"] / median["2 workers"],
            "one worker over two, once begun":
                median["1 workers, once begun"] / median["2 workers, once begun"],
        },
    }  # fmt: skip
    write_text(options.result, json.dumps(content, indent=1) + "\n")
    print(json.dumps(content["ratios"], indent=1))


if __name__ == "__main__":
    main()
