"""Does a trace keep the answer? Agreement and divergence against sparsity, over networks.

    python benchmarks/agreement.py [--images 10] [--augmentations 64] [--imagenet resnet18 ...]

The embedded network is asked about scenes with its Trojans' stickers, whose place is known, so the
ROC-AUC of the saliency map against the sticker is reported too. ImageNet networks are asked about
validation photographs of the shared data folder, where there is one beside the checkout; they are
left out where there is none. Writes ``benchmarks/results/agreement.json`` and a table in the docs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from sparsight.attribution import attribute
from sparsight.datasets.scenes import EMBEDDED_TROJANS, render_scene
from sparsight.networks import Network, load, open_image
from sparsight.storage import library_versions
from sparsight.traces import Sparsity, trace
from tables import write_table

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data" / "imagenet"
RESULT = ROOT / "benchmarks" / "results" / "agreement.json"
PAGE = ROOT / "docs" / "how-to" / "choosing-sparsity.md"

SETTINGS: tuple[Sparsity, ...] = (0.5, 0.7, "ramp:0.8", "ramp:0.9", "ramp:0.95")


@dataclass(frozen=True)
class Question:
    """An image, and where known the class and the place of its sticker."""

    image: Image.Image
    target: int | None = None
    mask: torch.Tensor | None = None


def scenes(network: Network, count: int) -> Iterator[Question]:
    """Scenes that the embedded network's Trojans fool."""
    seed = 0
    while count:
        rule = EMBEDDED_TROJANS[seed % len(EMBEDDED_TROJANS)]
        sources = [label for label in rule.sources if label != rule.target]
        label = sources[seed // len(EMBEDDED_TROJANS) % len(sources)]
        scene = render_scene(label, seed=70_000 + seed, sticker=rule.sticker)
        seed += 1
        image = scene.picture()
        if int(network.logits(network.prepare(image)).argmax()) == rule.target:
            count -= 1
            yield Question(image, rule.target, scene.sticker)


def photographs(count: int) -> Iterator[Question]:
    """Every n-th validation photograph."""
    files = sorted((SHARED / "val").iterdir())
    for file in files[:: len(files) // count][:count]:
        yield Question(open_image(file))


def questions(count: int, imagenet: list[str]) -> Iterator[tuple[Network, list[Question]]]:
    """Networks with what they are asked."""
    embedded = load("embedded")
    yield embedded, list(scenes(embedded, count))
    for name in imagenet:
        weights = SHARED / f"{name}.safetensors"
        if weights.is_file():
            yield load(f"torchvision:{name}", weights=weights), list(photographs(count))


def sticker_auc(network: Network, question: Question) -> float | None:
    """ROC-AUC of the saliency map against the sticker, if there is one."""
    if question.mask is None or question.target is None:
        return None
    x = network.prepare(question.image)
    heat = attribute(network, x, question.target, "saliency").heat()
    return float(roc_auc_score(question.mask.flatten(), heat.flatten()))


def measure(
    network: Network, asked: list[Question], sparsity: Sparsity, augmentations: int
) -> dict[str, Any]:
    """One row: what a sparsity does to a network's answers."""
    traces = []
    places = []
    for question in asked:
        found = trace(network, question.image, sparsity=sparsity, augmentations=augmentations)
        traces.append(found)
        with found.applied(network):
            places.append(sticker_auc(network, question))
    known = [place for place in places if place is not None]
    return {
        "network": network.spec,
        "sparsity": sparsity,
        "images": len(traces),
        "pruned": mean(found.sparsity for found in traces),
        "kept": mean(found.agrees for found in traces),
        "kl": [found.kl for found in traces],
        "sticker_auc": mean(known) if known else None,
    }


def row(entry: dict[str, Any]) -> str:
    """Render one row as Markdown."""
    auc = "" if entry["sticker_auc"] is None else f"{entry['sticker_auc']:.1%}"
    if entry["sparsity"] == "dense":
        return f"| `{entry['network']}` | dense | {entry['images']} | | | | {auc} |"
    return (
        f"| `{entry['network']}` | `{entry['sparsity']}` | {entry['images']} "
        f"| {entry['pruned']:.0%} | {entry['kept']:.0%} | {median(entry['kl']):.3f} | {auc} |"
    )


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--augmentations", type=int, default=64)
    parser.add_argument("--imagenet", nargs="*", default=["resnet18"], metavar="NAME")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for network, asked in questions(arguments.images, arguments.imagenet):
        dense = [auc for q in asked if (auc := sticker_auc(network, q)) is not None]
        if dense:
            rows.append({"network": network.spec, "sparsity": "dense", "images": len(asked),
                         "sticker_auc": mean(dense)})  # fmt: skip
            print(row(rows[-1]), flush=True)
        for sparsity in SETTINGS:
            rows.append(measure(network, asked, sparsity, arguments.augmentations))
            print(row(rows[-1]), flush=True)
    result = {
        "command": "python benchmarks/agreement.py",
        "augmentations": arguments.augmentations,
        "versions": library_versions(),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    head = "| network | sparsity | images | pruned | answer kept | median KL, nats | sticker AUC |"
    write_table(PAGE, "\n".join([head, "|---|---|---:|---:|---:|---:|---:|", *map(row, rows)]))


if __name__ == "__main__":
    main()
