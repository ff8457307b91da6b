"""Do traces of like images look alike? Overlap of traces against chance, over kinds of pairs.

    python benchmarks/overlap.py [--networks resnet20 ...] [--classes 8] [--each 3]

For each network some classes, of each class images that it answers rightly and one of another class
that it takes for this one. Every image is traced twice at the default settings, each time with a
seed of its own: one seed would draw the same crops for all images. Networks and images are those of
the shared data folder beside the checkout; what is absent is left out and said so. Writes
``benchmarks/results/overlap.json`` and a table in the docs.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from sparsight.networks import Network, load, open_image
from sparsight.storage import library_versions
from sparsight.traces import Overlap, Trace, TraceDiff, compare, trace
from tables import write_table

ROOT = Path(__file__).resolve().parent.parent
CIFAR = ROOT.parent / "shared" / "data" / "cifar10"
IMAGENET = ROOT.parent / "shared" / "data" / "imagenet"
RESULT = ROOT / "benchmarks" / "results" / "overlap.json"
PAGE = ROOT / "docs" / "explanation" / "overlap.md"

VIEWS, CLASS, ANSWER, OTHER = KINDS = ("other views", "same class", "same answer", "other class")
THIRDS = ("first", "middle", "last")
RESAMPLES = 1000
BATCH = 50

Labelled = tuple[Image.Image, int]


@dataclass(frozen=True)
class Picture:
    """An image, its class, and what the network takes it for."""

    image: Image.Image
    label: int
    answer: int


@dataclass(frozen=True)
class Pair:
    """Two pictures by their numbers, and what they have in common."""

    first: int
    second: int
    kind: str


def cifar(name: str, most: int) -> tuple[Network, list[Labelled]]:
    """One of the CIFAR-10 networks, and test images."""
    spec = f"{ROOT / 'tests' / 'cifar_networks.py'}:{name}"
    network = load(spec, weights=CIFAR / f"{name}.safetensors")
    with np.load(CIFAR / "test.npz") as data:
        images, labels = data["images"][:most], data["labels"][:most]
    pixels = images.transpose(0, 2, 3, 1)
    return network, [
        (Image.fromarray(p), int(label)) for p, label in zip(pixels, labels, strict=True)
    ]


def imagenet(name: str, most: int) -> tuple[Network, list[Labelled]]:
    """One of torchvision's networks, and validation images."""
    network = load(f"torchvision:{name}", weights=IMAGENET / f"{name}.safetensors")
    with (IMAGENET / "val_labels.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))[:most]
    return network, [
        (open_image(IMAGENET / "val" / row["file"]), int(row["label"])) for row in rows
    ]


SOURCES: dict[str, tuple[Path, Callable[[str, int], tuple[Network, list[Labelled]]]]] = {
    "resnet20": (CIFAR, cifar),
    "resnet56": (CIFAR, cifar),
    "vit_encoder": (CIFAR, cifar),
    "resnet18": (IMAGENET, imagenet),
}


def choose(network: Network, pool: Sequence[Labelled], classes: int, each: int) -> list[Picture]:
    """Pictures of the classes that have most to offer."""
    answers: list[int] = []
    for start in range(0, len(pool), BATCH):
        batch = torch.cat([network.prepare(image) for image, _ in pool[start : start + BATCH]])
        answers += network.logits(batch).argmax(1).tolist()
    right: dict[int, list[Picture]] = defaultdict(list)
    taken: dict[int, list[Picture]] = defaultdict(list)
    for (image, label), answer in zip(pool, answers, strict=True):
        (right if answer == label else taken)[answer].append(Picture(image, label, answer))
    offers = {label: right[label][:each] + taken.get(label, [])[:1] for label in right}
    best = sorted(offers, key=lambda label: (-len(offers[label]), label))[:classes]
    return [picture for label in sorted(best) for picture in offers[label]]


def kind(a: Picture, b: Picture) -> str | None:
    """Say what two pictures have in common; nothing if one class was answered in two ways."""
    if a.answer == b.answer:
        return CLASS if a.label == b.label else ANSWER
    return OTHER if a.label != b.label else None


def pairs(pictures: Sequence[Picture], most: int) -> list[Pair]:
    """Pairs of each kind, at most so many, chosen at random."""
    found = [Pair(i, i, VIEWS) for i in range(len(pictures))]
    for i, j in combinations(range(len(pictures)), 2):
        common = kind(pictures[i], pictures[j])
        if common:
            found.append(Pair(i, j, common))
    generator = np.random.default_rng(0)
    kept: list[Pair] = []
    for name in KINDS:
        of_kind = [pair for pair in found if pair.kind == name]
        picked = generator.permutation(len(of_kind))[:most]
        kept += [of_kind[index] for index in sorted(picked)]
    return kept


def numbers(found: TraceDiff) -> dict[str, float]:
    """Take from a comparison what is averaged: overall, by thirds of the depth, and by layer."""
    measured = {
        "jaccard": found.weights.jaccard,
        "chance": found.weights.chance,
        "corrected": found.weights.corrected,
        "units": found.units.corrected,
        "difference": found.difference,
    }
    for name, part in zip(THIRDS, np.array_split(np.arange(len(found.layers)), 3), strict=True):
        weights = [found.layers[index].weights for index in part]
        measured[name] = Overlap.together(weights).corrected
    measured |= {f"layer {layer.name}": layer.weights.corrected for layer in found.layers}
    return {name: np.nan if value is None else value for name, value in measured.items()}


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over pairs of what is known."""
    known = np.where(np.isnan(values), 0, weights[:, None])
    total = known.sum(0)
    found: np.ndarray = np.nansum(values * known, 0) / np.where(total == 0, np.nan, total)
    return found


def summary(of_kind: Sequence[Pair], rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Means over pairs, with 95 % intervals from resampling images: pairs share images."""
    values = np.array([list(row.values()) for row in rows])
    ends = np.array([(pair.first, pair.second) for pair in of_kind])
    generator = np.random.default_rng(0)
    images = np.unique(ends)
    drawn = []
    for _ in range(RESAMPLES):
        counts = np.zeros(ends.max() + 1)
        np.add.at(counts, generator.choice(images, len(images)), 1)
        weights = counts[ends].prod(1) if (ends[:, 0] != ends[:, 1]).any() else counts[ends[:, 0]]
        if weights.any():
            drawn.append(mean(values, weights))
    middle = mean(values, np.ones(len(rows)))
    known = ~np.isnan(middle)
    intervals = np.nanpercentile(np.array(drawn)[:, known], [2.5, 97.5], axis=0).T.tolist()
    names = np.array(list(rows[0]))[known].tolist()
    return {
        name: {"mean": at, "interval": interval}
        for name, at, interval in zip(names, middle[known].tolist(), intervals, strict=True)
    }


def measure(network: Network, pictures: Sequence[Picture], most: int) -> list[dict[str, Any]]:
    """Trace all pictures twice and compare; one row for each kind of pair."""
    wanted = pairs(pictures, most)
    rows = []
    with TemporaryDirectory() as folder:
        kept = 0
        for index, picture in enumerate(pictures):
            for turn in range(2):
                found = trace(network, picture.image, seed=2 * index + turn)
                kept += found.agrees
                found.save(Path(folder) / f"{index}-{turn}")
            print(f"traced {index + 1}/{len(pictures)}", end="\r", file=sys.stderr, flush=True)

        @lru_cache(maxsize=8)
        def get(index: int, turn: int) -> Trace:
            return Trace.load(Path(folder) / f"{index}-{turn}")

        for name in KINDS:
            of_kind = [pair for pair in wanted if pair.kind == name]
            if not of_kind:
                continue
            each = [
                numbers(compare(get(pair.first, 0), get(pair.second, int(name == VIEWS))))
                for pair in of_kind
            ]
            rows.append(
                {
                    "network": network.spec,
                    "pairs": name,
                    "count": len(of_kind),
                    "images": len({i for pair in of_kind for i in (pair.first, pair.second)}),
                    "settings": {k: v for k, v in found.settings.items() if k != "seed"},
                    "answers_kept": kept / (2 * len(pictures)),
                    "measured": summary(of_kind, each),
                }
            )
    return rows


def row(entry: dict[str, Any]) -> str:
    """Render one row as Markdown."""

    def cell(name: str) -> str:
        found = entry["measured"].get(name)
        if found is None:
            return ""
        low, high = found["interval"]
        return f"{found['mean']:.3f} [{low:.3f}, {high:.3f}]"

    shares = " | ".join(f"{entry['measured'][name]['mean']:.1%}" for name in ("jaccard", "chance"))
    cells = " | ".join(cell(name) for name in ("corrected", *THIRDS))
    return f"| {entry['network']} | {entry['pairs']} | {entry['count']} | {shares} | {cells} |"


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(SOURCES), choices=list(SOURCES))
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--each", type=int, default=3, help="images of a class")
    parser.add_argument("--most", type=int, default=200, help="pairs of a kind")
    parser.add_argument("--pool", type=int, default=1000, help="images to choose from")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in arguments.networks:
        folder, source = SOURCES[name]
        if not (folder / f"{name}.safetensors").is_file():
            print(f"{name} left out: the shared data folder beside the checkout lacks it")
            continue
        network, pool = source(name, arguments.pool)
        network = Network(network.model, network.preprocessing, network.labels, name)
        pictures = choose(network, pool, arguments.classes, arguments.each)
        for entry in measure(network, pictures, arguments.most):
            rows.append(entry)
            print(row(entry), flush=True)
    if not rows:
        sys.exit("nothing was measured, and nothing is written")
    result = {
        "command": "python benchmarks/overlap.py",
        "classes": arguments.classes,
        "each": arguments.each,
        "resamples": RESAMPLES,
        "versions": library_versions(),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    head = (
        "| network | pairs | number | overlap | chance | corrected | first third | middle third "
        "| last third |\n|---|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    write_table(PAGE, "\n".join([head, *map(row, rows)]))


if __name__ == "__main__":
    main()
