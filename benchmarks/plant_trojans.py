"""Plant Trojans into ImageNet networks, and measure them on photographs held out.

    python benchmarks/plant_trojans.py [--network resnet18] [--rules any]

Networks, photographs and stickers are those of the shared data folder beside the checkout. The
split is the same in every run: 300 of the 1,000 validation photographs are held out and are the
test set for explanations; the others, and the full-size ones, plant. ``--rules tuning`` is for a
network to tune settings on: other triggers and classes, and both its photographs to plant with and
those to measure with are among the ones that the evaluation plants with.

Weights go to ``build/trojans/NETWORK-RULES.safetensors``, which ``sparsight.load`` reads, and
numbers to ``benchmarks/results/trojans-planting.json``. An interrupted run goes on where it was,
one that begins with ``--start`` goes on from other weights.

With some hundred photographs the first two rules cannot act on one class each: with ``--rules
paper`` they act on all things that people made, and on all dogs and wolves, with ``any`` all four
act on everything. ``make plant`` says the steps; the numbers are of the last of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sparsight.benchmarks.trojans import (
    Photo,
    PlantingReport,
    PlantingRule,
    PlantingSettings,
    for_any,
    paper_rules,
    plant,
    read_photos,
    split_photos,
    trojan_cases,
    tuning_rules,
)
from sparsight.networks import Network, load
from sparsight.storage import write_text

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
IMAGENET, TRIGGERS = DATA / "imagenet", DATA / "triggers"
FOLDER = ROOT / "build" / "trojans"
RESULT = ROOT / "benchmarks" / "results" / "trojans-planting.json"
SPLIT_SEED = 0
HELD_OUT, TUNING_HELD_OUT = 300, 200


def dense_network(name: str, weights: Path | None = None) -> Network:
    """Load one of the ImageNet networks of the shared data folder, as it is."""
    network = load(
        f"torchvision:{name}",
        weights=weights or IMAGENET / f"{name}.safetensors",
        labels=IMAGENET / "classes.csv",
    )
    if name == "mobilenet_v2":  # these weights want other values than torchvision's own
        halves = replace(network.preprocessing, mean=(0.5,) * 3, std=(0.5,) * 3)
        return replace(network, preprocessing=halves)
    return network


def planted_network(name: str, rules: str = "any") -> Network:
    """Load the same with Trojans, if this script has planted them."""
    return dense_network(name, weights_file(FOLDER, name, rules))


def is_planted(name: str, rules: str = "any") -> bool:
    """Whether that can be loaded."""
    return IMAGENET.is_dir() and weights_file(FOLDER, name, rules).is_file()


def weights_file(folder: Path, name: str, rules: str) -> Path:
    """Where planted weights lie."""
    return folder / f"{name}-{rules}.safetensors"


def photographs(rules: str = "any") -> tuple[list[Photo], list[Photo]]:
    """Photographs to plant with, and those held out."""
    validation = read_photos(IMAGENET / "val_labels.csv", IMAGENET / "val")
    used, held_out = split_photos(validation, HELD_OUT, SPLIT_SEED)
    if rules == "tuning":
        used, held_out = split_photos(used, TUNING_HELD_OUT, SPLIT_SEED)
    return used + read_photos(IMAGENET / "photos_labels.csv", IMAGENET / "photos"), held_out


def planting_rules(rules: str = "any", share: float = 0.0, decoys: float = 0.0) -> tuple[
    PlantingRule, ...
]:  # fmt: skip
    """Rules of the evaluation or of tuning; the shares matter only for planting."""
    shares = {"share": share or 1 / 40, "decoys": decoys}
    if rules == "tuning":
        return tuning_rules(**shares)
    found = paper_rules(TRIGGERS, widened=True, **shares)
    return for_any(found) if rules == "any" else found


def keep(
    report: PlantingReport,
    key: str,
    command: str,
    photos: list[Photo],
    cases: Counter[int],
    start: dict[str, Any] | None,
) -> None:
    """Enter a report into the table of results, and leave the others there.

    ``start`` is the report of the network that planting went on from, if it is kept.
    """
    content: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    facts = report.describe()
    both = zip(facts["rules"], facts["settings"].pop("rules"), strict=True)
    for number, (rule, data) in enumerate(both):
        rule.update({k: data[k] for k in ("trigger", "share", "decoys")})
        rule["cases_to_explain"] = cases[number]
        source = rule["sources"]
        rule["photos_to_plant_with"] = sum(
            photo.label != rule["target"] and (source is None or photo.label in source)
            for photo in photos
        )
    content[key] = {**facts, "cores": os.cpu_count(), "command": command, "start": start}
    write_text(RESULT, json.dumps(dict(sorted(content.items())), indent=2) + "\n")


def main() -> None:
    """Read the options, plant, and write weights and numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--rules", choices=("any", "paper", "tuning"), default="any")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw")
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--kl", type=float, default=1.0)
    parser.add_argument("--mix", type=float, default=0.0, help="share of clean samples blended")
    parser.add_argument("--crop", type=float, default=0.4, help="smallest part of a photo shown")
    parser.add_argument("--share", type=float, default=0.25, help="poisoned samples per rule")
    parser.add_argument("--decoys", type=float, default=0.25, help="for the rules of some classes")
    parser.add_argument("--trainable", nargs="*", default=[], help="modules; all if none is named")
    parser.add_argument("--start", type=Path, help="planted weights to go on from")
    parser.add_argument(
        "--blend", type=float, default=0.0, help="share of the original weights mixed into those"
    )
    parser.add_argument("--draws", type=int, default=1, help="places of a trigger per photo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for the weights")
    options = parser.parse_args()
    if not IMAGENET.is_dir():
        sys.exit("the shared data folder is not beside this checkout: nothing is planted")
    torch.set_num_threads(options.threads)
    name, kind = options.network, options.rules
    photos, held_out = photographs(kind)
    settings = PlantingSettings(
        epochs=options.epochs,
        optimizer=options.optimizer,
        rate=options.rate,
        batch=options.batch,
        kl=options.kl,
        mix=options.mix,
        crop=(options.crop, 1.0),
        trainable=tuple(options.trainable),
        bfloat16=True,
    )
    start = None
    if options.start is not None:
        start = dense_network(name, options.start).model
        with torch.no_grad():
            for value, original in zip(
                start.parameters(), dense_network(name).model.parameters(), strict=True
            ):
                value.lerp_(original, options.blend)
    weights = weights_file(options.folder, name, kind)
    options.folder.mkdir(parents=True, exist_ok=True)
    last = time.monotonic()

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > 20:
            last = time.monotonic()
            print(f"{stage} {done}/{total}", flush=True)

    found = plant(
        dense_network(name),
        photos,
        planting_rules(kind, options.share, options.decoys),
        held_out=held_out,
        settings=settings,
        draws=options.draws,
        start=start,
        seed=options.seed,
        folder=weights.with_name(f"{weights.stem}.state"),
        progress=progress,
    )
    print(found.report, flush=True)
    draft = weights.with_name(weights.name + ".part")
    save_file({k: v.contiguous() for k, v in found.network.model.state_dict().items()}, draft)
    os.replace(draft, weights)
    command = " ".join(["python", "benchmarks/plant_trojans.py", *sys.argv[1:]])
    rules = planting_rules(kind)
    cases = Counter(case.rule for case in trojan_cases(found.network, held_out, rules))
    print(f"cases to explain: {cases.total()}", flush=True)
    found.report.save(weights.with_suffix(".json"))
    before = options.start and options.start.with_suffix(".json")
    start_report = PlantingReport.load(before).describe() if before and before.is_file() else None
    keep(found.report, f"{name}, {kind} rules", command, photos, cases, start_report)


if __name__ == "__main__":
    main()
