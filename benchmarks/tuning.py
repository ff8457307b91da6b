"""Ratios tuned as published beside the rule that is tuned on nothing, and what wrong ones cost.

    python benchmarks/tuning.py [--methods saliency,lrp] [--solver sparsegpt]

Ratios are searched on one network with its own Trojans and images, and used on another: those of
the embedded network come from the network that ``train_embedded.py --trojans tuning`` trains (made
if it is not there). An interrupted run goes on in ``build/tuning``; tables and ratios go to
``benchmarks/results/tuning-embedded``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from sparsight.attribution import choose_methods
from sparsight.benchmarks.maps import Solutions, scene_cases, tune_and_compare
from sparsight.cli.cases import SCENE_SETTINGS
from sparsight.datasets.scenes import TUNING_TROJANS
from sparsight.networks import load
from tables import stages

ROOT = Path(__file__).resolve().parent.parent
NETWORK, FOLDER = ROOT / "build" / "tuning-network", ROOT / "build" / "tuning"
RESULTS = ROOT / "benchmarks" / "results"
METHODS = "saliency,input_x_gradient"
FIRST = 820_000  # of the scenes to tune on


def tuning_network() -> Path:
    """Return the weights of the network to tune on; train it if it is not there."""
    weights = NETWORK / "weights.safetensors"
    if not weights.is_file():
        subprocess.run(
            [
                sys.executable, str(ROOT / "benchmarks" / "train_embedded.py"), "--trojans",
                "tuning", "--output", str(NETWORK), "--results", f"{NETWORK}.json",
            ],
            check=True,
        )  # fmt: skip
    return weights


def main() -> None:
    """Tune what is missing, compare, and keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--solver", default="sparsegpt")
    parser.add_argument("--images", type=int, default=24, help="to tune on")
    parser.add_argument("--cases", type=int, default=40, help="to compare on")
    parser.add_argument("--augmentations", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    methods = choose_methods(options.methods)
    other, network = load("embedded", weights=tuning_network()), load("embedded")
    to_tune = scene_cases(other, options.images, trojans=TUNING_TROJANS, first=FIRST)
    known, unseen = (
        Solutions(
            net, list(found), FOLDER / "solutions" / name, solver=options.solver,
            augmentations=options.augmentations,
        )
        for name, net, found in (
            ("tuning", other, to_tune),
            ("embedded", network, scene_cases(network, options.cases)),
        )
    )  # fmt: skip
    with stages() as progress:
        tune_and_compare(
            known, unseen, methods, "roc_auc", FOLDER / "embedded", reduction="sum_abs",
            method_settings=SCENE_SETTINGS, workers=options.workers, progress=progress,
        )  # fmt: skip
    kept = RESULTS / "tuning-embedded"
    kept.mkdir(parents=True, exist_ok=True)
    for file in (FOLDER / "embedded").glob("*.*"):
        shutil.copyfile(file, kept / file.name)
    shutil.copyfile(FOLDER / "embedded" / "test" / "summary.json", kept / "summary.json")
    print((kept / "tables.md").read_text())


if __name__ == "__main__":
    main()
