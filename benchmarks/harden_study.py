"""Compare ways to prune under attack, at equal recipes: CIFAR-10, a small network, processors.

    python benchmarks/harden_study.py [--seeds 0 1 2] [--targets 0.1 0.05 0.01]

A ResNet-8 (75,290 parameters) is trained under attack on 4,500 images, once for every seed. Then
HARP, learnt scores at uniform rates (as HYDRA has them), and magnitudes by layer and over all
layers prune it and train what is left, with as many epochs in all. Measured on 1,000 test images.
The attack of training has three steps, so that it fits: this compares methods, and sets no record.
Each row is kept in ``benchmarks/results/harden.json`` as soon as it is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harden_table import PAGE, table
from overlap import CIFAR, ROOT
from sparsight.networks import Network, load
from sparsight.networks.state import load_weights
from sparsight.robust import HardenSettings, PixelClassifier, Pixels, evaluate, harden, read_arrays
from tables import kept, stages, write_table

RESULT = ROOT / "benchmarks" / "results" / "harden.json"
BUILD = ROOT / "build" / "harden"
IMAGES, TESTED, AUTO = 5000, 1000, 64
METHODS: dict[str, dict[str, Any]] = {
    "harp": {}, "scores": {"method": "scores"}, "global": {"method": "global"},
    "uniform": {"method": "uniform"}, "harp-gamma-1": {"gamma": 1.0},
    "harp-gradient": {"scores": "gradient"}, "harp-traces": {"scores": "traces"},
}  # fmt: skip
DENSE, MASKS, AFTER = 30, 5, 5
USUAL: dict[str, Any] = {
    "attack_step": 4 / 255, "attack_steps": 3, "batch": 128, "precision": "bf16-mixed",
}  # fmt: skip

Keep = Callable[[str, Any], None]
Progress = Callable[[str, int, int], None]


def measured(
    network: Network, classifier: PixelClassifier, tests: Pixels, auto: bool, progress: Progress
) -> dict[str, Any]:
    """Count right answers, to images and attacked ones."""
    parts = torch.utils.data.Subset(tests, range(TESTED))
    found = evaluate(classifier, parts, "pgd10,cw", batch=250, progress=progress).describe()
    if auto:
        few = torch.utils.data.Subset(tests, range(AUTO))
        own = evaluate(classifier, few, "autoattack", batch=AUTO, progress=progress)
        found["autoattack"] = own.describe()["autoattack"] | {"images": AUTO}
    return found


def run(
    seeds: list[int], targets: list[float], auto: bool, kept: dict[str, Any], keep: Keep,
    progress: Progress,
) -> None:  # fmt: skip
    """Measure what is missing."""
    spec = f"{ROOT / 'tests' / 'cifar_networks.py'}:resnet8"
    for seed in seeds:
        torch.manual_seed(seed)
        network = load(spec)
        images = Pixels(network, read_arrays(CIFAR / "train.npz")[:IMAGES])
        tests = Pixels(network, read_arrays(CIFAR / "test.npz")[:TESTED])
        file = BUILD / f"dense-{seed}" / "network.safetensors"
        title = f"dense|{seed}"
        if title not in kept or not file.is_file():
            settings = HardenSettings(method="dense", epochs=(DENSE, 0, 0), seed=seed, **USUAL)
            found = harden(
                network, images, settings=settings, state=BUILD / f"state-{seed}",
                progress=progress,
            )  # fmt: skip
            found.save(file.parent, overwrite=True)
            keep(title, measured(network, found.classifier, tests, auto, progress))
        load_weights(network.model, file)
        for target in targets:
            for method in METHODS:
                title = f"{method}|{target}|{seed}"
                if title in kept or (method.startswith("harp-") and target > 0.01):
                    continue
                options: dict[str, Any] = {"method": "harp"} | METHODS[method]
                learns = options["method"] in ("harp", "scores")
                settings = HardenSettings(
                    target=target, seed=seed,
                    epochs=(0, MASKS, AFTER) if learns else (0, 0, MASKS + AFTER),
                    **options, **USUAL,
                )  # fmt: skip
                found = harden(network, images, settings=settings, progress=progress)
                row = measured(network, found.classifier, tests, auto and target == 0.01, progress)
                keep(title, row | {
                    "share": found.share, "reached": found.reached,
                    "kept": [[one.name, one.kept, one.size] for one in found.kept],
                })  # fmt: skip


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--targets", nargs="*", type=float, default=[0.1, 0.05, 0.01])
    parser.add_argument("--auto", action="store_true", help="AutoAttack as well, on few images.")
    parser.add_argument("--result", type=Path, default=RESULT, help="File to keep rows in.")
    options = parser.parse_args()
    if not CIFAR.is_dir():
        print("no data beside the checkout")
        return
    content, write = kept(options.result, "make harden")
    rows = content.setdefault("rows", {})
    torch.set_flush_denormal(True)

    def keep(title: str, value: Any) -> None:
        rows[title] = value
        write()

    with stages() as progress:
        run(options.seeds, options.targets, options.auto, rows, keep, progress)
    if options.result == RESULT:
        write_table(PAGE, table(content))


if __name__ == "__main__":
    main()
