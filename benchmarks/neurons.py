"""Ten neurons of a ResNet-50, dense and traced for two photographs each.

    python benchmarks/neurons.py [--steps 128]

The first six classes of which the network knows two photographs, and four channels of the last
block, each with the two photographs that it answers to most. As published for visualizations, a
trace prunes the last layers alone, so that what they are made of stays as it is. Photographs are
those of the shared data folder; only what is computed goes to ``docs/images/neurons.jpg``, and
their names and all scores to ``benchmarks/results/neurons.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from plant_trojans import IMAGENET, dense_network
from sparsight.benchmarks.trojans import read_photos
from sparsight.networks import Network
from sparsight.storage import library_versions, write_text
from sparsight.traces import trace
from sparsight.visualization import Objective, channel, logit, top_examples, visualize
from tables import stages
from view_study import recognised

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "neurons.jpg"
RESULT = ROOT / "benchmarks" / "results" / "neurons.json"
CLASSES = 6
CHANNELS = (31, 100, 257, 400)
LAYER = "layer4.2"
SPARSITY = {"layer4.1": 0.95, "layer4.2": 0.95, "fc": 0.95}  # as published for visualizations
SIDE, GAP, HEAD = 150, 6, 26


def known_classes(network: Network) -> dict[int, list[Path]]:
    """Find two photographs each of classes that the network recognises."""
    found: dict[int, list[Path]] = {}
    for photo in read_photos(IMAGENET / "val_labels.csv", IMAGENET / "val"):
        if len(found.get(photo.label, [])) < 2 and recognised(network, photo):
            found.setdefault(photo.label, []).append(IMAGENET / "val" / photo.name)
        both = {label: files for label, files in found.items() if len(files) == 2}
        if len(both) == CLASSES:
            return both
    sys.exit("too few classes have two photographs that the network recognises")


def questions(network: Network) -> list[tuple[str, Objective, list[Path]]]:
    """Name, objective, and the photographs to trace for."""
    asked = [
        (network.label(label).split(",")[0], logit(label), files)
        for label, files in known_classes(network).items()
    ]
    files = sorted((IMAGENET / "photos").glob("*.JPEG"))
    channels = [channel(LAYER, number) for number in CHANNELS]
    best = top_examples(network, channels, files, count=2)
    asked += [
        (f"{LAYER}:{number}", objective, [Path(example.source) for example in found])
        for number, objective, found in zip(CHANNELS, channels, best, strict=True)
    ]
    return asked


def main() -> None:
    """Compute what is to be seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=128)
    options = parser.parse_args()
    if not IMAGENET.is_dir():
        sys.exit("the shared data folder is not beside this checkout: nothing is visualized")
    network = dense_network("resnet50")
    asked = questions(network)
    half = -(-len(asked) // 2)
    width = 3 * (SIDE + GAP) + 3 * GAP
    sheet = Image.new("RGB", (2 * width, HEAD + half * (SIDE + GAP + HEAD)), "white")
    draw = ImageDraw.Draw(sheet)
    rows: list[dict[str, Any]] = []
    with stages() as progress:
        for number, (name, objective, files) in enumerate(asked):
            left = GAP + number // half * width
            top = HEAD + number % half * (SIDE + GAP + HEAD)
            draw.text((left, top + 4), name, fill="black", font_size=14)
            row: dict[str, Any] = {"neuron": name, "objective": str(objective)}
            for column in range(3):
                shown, heading = network, "dense"
                if column:
                    file = files[column - 1]
                    found = trace(network, file, sparsity=SPARSITY, seed=0)
                    shown, heading = found.network(network), f"traced {column}"
                    row[f"photograph {column}"] = file.name
                    row[f"weights left {column}"] = round(1 - found.sparsity, 4)
                seen = visualize(shown, objective, steps=options.steps)
                row[f"score {heading}"] = round(float(seen.scores), 2)
                place = left + column * (SIDE + GAP), top + HEAD
                sheet.paste(seen.picture().resize((SIDE, SIDE), Image.Resampling.LANCZOS), place)
                draw.text((place[0], 4), heading, fill="black", font_size=14)
                progress("neurons", 3 * number + column + 1, 3 * len(asked))
            rows.append(row)
    sheet.save(PICTURE, quality=80, optimize=True)
    content = {
        "versions": library_versions(),
        "command": f"python benchmarks/neurons.py --steps {options.steps}",
        "rows": rows,
    }
    write_text(RESULT, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
