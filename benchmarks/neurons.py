"""Ten neurons of a ResNet-18, dense and traced for two photographs each.

    python benchmarks/neurons.py [--steps 128]

Six classes, each with two photographs that the network takes for it, and four channels of the last
block, each with the two photographs that it answers to most. Photographs are those of the shared
data folder; only what is computed goes to ``docs/images/neurons.jpg``, and their names and all
scores to ``benchmarks/results/neurons.json``.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from rich.progress import Progress

from sparsight.networks import Network, load
from sparsight.storage import write_text
from sparsight.traces import trace
from sparsight.visualization import Objective, channel, logit, top_examples, visualize

ROOT = Path(__file__).resolve().parent.parent
IMAGENET = ROOT.parent / "shared" / "data" / "imagenet"
PICTURE = ROOT / "docs" / "images" / "neurons.jpg"
RESULT = ROOT / "benchmarks" / "results" / "neurons.json"
CLASSES = (99, 340, 417, 483, 850, 937)
CHANNELS = (31, 100, 257, 400)
LAYER = "layer4.1"
SIDE, GAP, HEAD = 150, 6, 26


def photographs(network: Network) -> dict[int, list[Path]]:
    """Find photographs by the class that they are and that the network says."""
    found: dict[int, list[Path]] = {}
    with (IMAGENET / "val_labels.csv").open() as stream:
        for row in csv.DictReader(stream):
            file, label = IMAGENET / "val" / row["file"], int(row["label"])
            if label in CLASSES and len(found.get(label, [])) < 2:
                says = int(network.logits(network.prepare(file)).argmax())
                if says == label:
                    found.setdefault(label, []).append(file)
    return found


def questions(network: Network) -> list[tuple[str, Objective, list[Path]]]:
    """Name, objective, and the photographs to trace for."""
    by_class = photographs(network)
    asked = [
        (network.label(label).split(",")[0], logit(label), by_class[label])
        for label in CLASSES
        if len(by_class.get(label, [])) == 2
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
    network = load(
        "torchvision:resnet18",
        weights=IMAGENET / "resnet18.safetensors",
        labels=IMAGENET / "classes.csv",
    )
    asked = questions(network)
    height = HEAD + len(asked) * (SIDE + GAP + HEAD)
    sheet = Image.new("RGB", (3 * (SIDE + GAP) + GAP, height), "white")
    draw = ImageDraw.Draw(sheet)
    rows: list[dict[str, Any]] = []
    with Progress(transient=True) as bar:
        task = bar.add_task("neurons", total=3 * len(asked))
        for number, (name, objective, files) in enumerate(asked):
            top = HEAD + number * (SIDE + GAP + HEAD)
            draw.text((GAP, top + 4), name, fill="black", font_size=14)
            row: dict[str, Any] = {"neuron": name, "objective": str(objective)}
            for column in range(3):
                shown, heading = network, "dense"
                if column:
                    file = files[column - 1]
                    found = trace(network, file, seed=0)
                    shown, heading = found.network(network), f"traced {column}"
                    row[f"photograph {column}"] = file.name
                    row[f"weights left {column}"] = round(1 - found.sparsity, 4)
                seen = visualize(shown, objective, steps=options.steps)
                row[f"score {heading}"] = round(float(seen.scores), 2)
                place = GAP + column * (SIDE + GAP), top + HEAD
                sheet.paste(seen.picture().resize((SIDE, SIDE), Image.Resampling.LANCZOS), place)
                draw.text((place[0], 4), heading, fill="black", font_size=14)
                bar.advance(task)
            rows.append(row)
    sheet.save(PICTURE, quality=80, optimize=True)
    content = {"command": f"python benchmarks/neurons.py --steps {options.steps}", "rows": rows}
    write_text(RESULT, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
