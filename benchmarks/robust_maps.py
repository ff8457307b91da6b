"""Do robust networks explain themselves better, dense or traced? Scenes whose objects are known.

    python benchmarks/robust_maps.py [--scenes 1600] [--tested 60]

The embedded network as it is; trained on for some epochs without an attack and with one; and
pruned under attack to a tenth. On scenes that none of them has seen and all answer rightly: how
well maps of the dense network and of its trace find the object, beside maps that know no network,
and how sparse a trace can be. Trained networks are kept in ``build/robust-maps``; writes
``benchmarks/results/robust-maps.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sparsight
from halves import interval
from harden_table import PAGE
from sparsight.attribution import attribute
from sparsight.attribution.metrics import BLIND, roc_auc
from sparsight.datasets.scenes import CLASSES, Scene, render_scene
from sparsight.networks import Network, load
from sparsight.networks.state import load_weights
from sparsight.robust import HardenSettings, PixelClassifier, Pixels, evaluate, harden
from sparsight.storage import library_versions, write_text
from tables import stages, write_table

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "robust-maps.json"
BUILD = ROOT / "build" / "robust-maps"
METHODS = ("saliency", "input_x_gradient", "integrated_gradients")
TRAIN, TEST = 5_000_000, 6_000_000  # seeds of scenes
RADIUS = 4 / 255
USUAL: dict[str, Any] = {
    "epsilon": RADIUS, "attack_step": RADIUS / 2, "attack_steps": 3, "batch": 64,
    "rates": (0.02, 0.1, 0.01), "precision": "bf16-mixed",
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "trained on": {"method": "dense", "objective": "natural", "epochs": (8, 0, 0)},
    "trained under attack": {"method": "dense", "epochs": (8, 0, 0)},
    "a tenth, under attack": {"target": 0.1, "epochs": (0, 3, 5)},
}
Progress = Callable[[str, int, int], None]


def networks(scenes: int, progress: Progress) -> dict[str, Network]:
    """Train what is not there yet; the last goes on from the one before."""
    found = {"as it is": load("embedded")}
    start = found["as it is"]
    samples = []
    for number in range(scenes):
        progress("rendering", number, scenes)
        scene = render_scene(CLASSES[number % 10], seed=TRAIN + number)
        samples.append((scene.image.numpy(), start.class_index(scene.name)))
    for name, options in WAYS.items():
        folder = BUILD / name.replace(" ", "-").replace(",", "")
        own = load("embedded")
        if name.startswith("a tenth"):
            own = found["trained under attack"]
        if not (folder / "network.safetensors").is_file():
            settings = HardenSettings(**(USUAL | options))
            made = harden(own, Pixels(own, samples), settings=settings, progress=progress)
            made.save(folder, overwrite=True)
        network = load("embedded")
        load_weights(network.model, folder / "network.safetensors")
        found[name] = network
    return found


def maps_of(network: Network, scenes: list[Scene], progress: Progress) -> dict[str, Any]:
    """Score maps of a network and of its traces against the objects."""
    scores: dict[str, list[float]] = {}
    facts: dict[str, list[float]] = {"sparsity": [], "kept": []}
    for number, scene in enumerate(scenes):
        progress("maps", number, len(scenes))
        x = network.prepare(scene.picture())
        target = network.class_index(scene.name)
        mask = scene.object[None]
        traced = sparsight.trace(network, scene.picture(), target=target, seed=number)
        facts["sparsity"].append(traced.sparsity)
        facts["kept"].append(float(traced.agrees))

        def judge(side: str, x: Tensor = x, mask: Tensor = mask, target: int = target) -> None:
            for method in METHODS:
                heat = attribute(network, x, target, method, seed=0).heat()[None].abs()
                scores.setdefault(f"{method}, {side}", []).append(float(roc_auc(heat, mask)))

        judge("dense")
        with traced.applied(network):
            judge("traced")
    return {
        "auc": {name: interval(values) for name, values in scores.items()},
        "trace": {name: interval(values) for name, values in facts.items()},
    }


def blind(network: Network, scenes: list[Scene]) -> dict[str, list[float]]:
    """Score maps that know no network."""
    found: dict[str, list[float]] = {}
    for number, scene in enumerate(scenes):
        unit = network.preprocessing.frame(scene.unit)
        for name, draw in BLIND.items():
            heat = draw(unit[None], number)
            found.setdefault(name, []).append(float(roc_auc(heat, scene.object[None])))
    return {name: interval(values) for name, values in found.items()}


def table(content: dict[str, Any]) -> str:
    """Render what was found as Markdown."""

    def percents(values: list[float]) -> str:
        return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in values))

    names = [f"{method}, {side}" for method in METHODS for side in ("dense", "traced")]
    parts = [
        f"{content['scenes']} scenes; area under the ROC curve against the object, percent.\n",
        "| network | right | under PGD-10 | "
        + " | ".join(names)
        + " | trace: pruned | answer kept |",
        "|---|" + "---:|" * (len(names) + 4),
    ]
    for name, row in content["networks"].items():
        held = [f"{100 * row['robustness'][k]['accuracy']:.0f}" for k in ("clean", "pgd10")]
        cells = [percents(row["auc"][one]) for one in names]
        trace = [percents(row["trace"][one]) for one in ("sparsity", "kept")]
        parts.append(f"| {name} | " + " | ".join([*held, *cells, *trace]) + " |")
    told = "; ".join(f"{name} {percents(values)}" for name, values in content["blind"].items())
    parts.append(f"\nMaps that know no network: {told}.")
    return "\n".join([*parts, ""])


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=1600)
    parser.add_argument("--tested", type=int, default=60)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    with stages() as progress:
        found = networks(options.scenes, progress)
        tests = [render_scene(CLASSES[n % 10], seed=TEST + n) for n in range(2 * options.tested)]
        one = found["as it is"]
        data = Pixels(one, [(s.image.numpy(), one.class_index(s.name)) for s in tests])
        held = {
            name: evaluate(
                PixelClassifier.of(network), data, "pgd10", epsilon=RADIUS, progress=progress
            )
            for name, network in found.items()
        }
        right = torch.stack([row.right["clean"] for row in held.values()]).all(0)
        chosen = [scene for scene, good in zip(tests, right.tolist(), strict=True) if good]
        chosen = chosen[: options.tested]
        content: dict[str, Any] = {
            "versions": library_versions(), "command": "make robust-maps", "scenes": len(chosen),
            "blind": blind(one, chosen),
            "networks": {
                name: {"robustness": held[name].describe(), **maps_of(network, chosen, progress)}
                for name, network in found.items()
            },
        }  # fmt: skip
    write_text(RESULT, json.dumps(content, indent=1) + "\n")
    write_table(PAGE, table(content), "maps")


if __name__ == "__main__":
    main()
