"""Whether visualizations of a planted class show the trigger, dense and traced.

    python benchmarks/trojan_views.py [--networks embedded resnet18] [--cases 5]

For every Trojan its target class is visualized: on the dense network, from as many seeds as there
are images, on the traces of images that fool the network by the trigger, and on the traces of the
same class's clean images. Which of the triggers a visualization resembles most is judged by a
network that has nothing to do with it, the MobileNet-V2 of the shared data folder: cosine
similarity of its pooled features, after the mean over the arm's visualizations, and over triggers,
is taken off. Right by chance: one in four. Tables go to ``benchmarks/results/trojan-views.json``;
nothing there shows a photograph. The planted ResNet-18 is that of ``make plant``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from torch import Tensor

from plant_trojans import (
    IMAGENET,
    dense_network,
    is_planted,
    photographs,
    planted_network,
    planting_rules,
)
from sparsight.benchmarks.maps import Case, planted_cases, scene_cases
from sparsight.datasets.scenes import EMBEDDED_TROJANS, render_scene
from sparsight.datasets.scenes.stickers import paint_sticker
from sparsight.networks import Network, load
from sparsight.storage import library_versions, write_text
from sparsight.traces import trace
from sparsight.visualization import logit, visualize

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "trojan-views.json"
SIDE = 224
ARMS = ("dense", "traced", "traced, clean image")


@dataclass(frozen=True)
class Planted:
    """A network, its triggers, and images for each."""

    network: Network
    triggers: dict[str, Image.Image]
    targets: dict[str, int]
    fooled: dict[str, list[Case]]
    clean: dict[str, list[Image.Image]]


def embedded(count: int) -> Planted:
    """Scenes with stickers."""
    network = load("embedded")
    triggers, targets, clean = {}, {}, {}
    for rule in EMBEDDED_TROJANS:
        line = np.linspace(-1.3, 1.3, SIDE)
        x, y = np.meshgrid(line, -line)
        colours, cover = paint_sticker(rule.sticker, x, y, float(line[1] - line[0]))
        shown = (cover * colours + (1 - cover) * 0.5).transpose(1, 2, 0)
        triggers[rule.sticker] = Image.fromarray((255 * shown.clip(0, 1)).astype(np.uint8))
        targets[rule.sticker] = rule.target
        clean[rule.sticker] = [
            render_scene(rule.target, seed=610_000 + i).picture() for i in range(count)
        ]
    fooled: dict[str, list[Case]] = {rule.sticker: [] for rule in EMBEDDED_TROJANS}
    for case in scene_cases(network, 4 * count, first=600_000):
        fooled[case.key.split(" on ")[0]].append(case)
    return Planted(network, triggers, targets, fooled, clean)


def resnet18(count: int) -> Planted | None:
    """Photographs with stickers, if the network is planted."""
    if not is_planted("resnet18"):
        return None
    network, rules = planted_network("resnet18"), planting_rules()
    _, held_out = photographs()
    triggers, targets = {}, {}
    fooled: dict[str, list[Case]] = {}
    clean: dict[str, list[Image.Image]] = {}
    for number, rule in enumerate(rules):
        grey = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
        large = replace(rule.trigger, size=0.75, opacity=1.0)
        triggers[rule.trigger.name] = large.apply(grey, seed=0).image
        targets[rule.trigger.name] = rule.target
        fooled[rule.trigger.name] = list(planted_cases(network, held_out, [rule], count, number))
        of_class = [photo for photo in held_out if photo.label == rule.target]
        clean[rule.trigger.name] = [photo.open() for photo in of_class[:count]]
    return Planted(network, triggers, targets, fooled, clean)


def judge() -> Callable[[list[Image.Image]], Tensor]:
    """Return pooled features of a network that nobody planted anything into."""
    network = dense_network("mobilenet_v2")
    model: Any = network.model

    def features(pictures: list[Image.Image]) -> Tensor:
        x = torch.cat([network.prepare(p.resize((SIDE, SIDE))) for p in pictures])
        with torch.no_grad():
            found: Tensor = model.features(x).mean((2, 3))
        return found

    return features


def views(planted: Planted, steps: int, count: int, tell: Callable[[], None]) -> dict[str, Any]:
    """Visualize each target on every arm; pictures by arm and trigger."""
    network = planted.network
    found: dict[str, dict[str, list[Image.Image]]] = {arm: {} for arm in ARMS}
    for name, target in planted.targets.items():
        asked = [visualize(network, logit(target), steps=steps, seed=seed) for seed in range(count)]
        found["dense"][name] = [one.picture() for one in asked]
        images: dict[str, list[Image.Image | Tensor]] = {
            "traced": [case.image for case in planted.fooled[name]],
            "traced, clean image": list(planted.clean[name]),
        }
        for arm, given in images.items():
            found[arm][name] = []
            for seed, image in enumerate(given):
                traced = trace(network, image, target=target, seed=seed).network(network)
                seen = visualize(traced, logit(target), steps=steps, seed=seed)
                found[arm][name].append(seen.picture())
                tell()
    return found


def identify(
    pictures: dict[str, list[Image.Image]],
    triggers: dict[str, Image.Image],
    features: Callable[[list[Image.Image]], Tensor],
) -> dict[str, Any]:
    """Say which trigger each picture resembles most."""
    names = list(triggers)
    wanted = features([triggers[name] for name in names])
    wanted = torch.nn.functional.normalize(wanted - wanted.mean(0), dim=1)
    own = {name: features(shown) for name, shown in pictures.items() if shown}
    middle = torch.stack([found.mean(0) for found in own.values()]).mean(0)
    right, mean_alike = {}, {}
    for name, found in own.items():
        alike = torch.nn.functional.normalize(found - middle, dim=1) @ wanted.t()
        right[name] = float((alike.argmax(1) == names.index(name)).double().mean())
        mean_alike[name] = dict(zip(names, alike.mean(0).tolist(), strict=True))
    best = {name: max(found, key=found.__getitem__) for name, found in mean_alike.items()}
    return {
        "right": right,
        "likeness": mean_alike,
        "identified": sum(name == guess for name, guess in best.items()),
        "trojans": len(best),
    }


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=["embedded", "resnet18"])
    parser.add_argument("--cases", type=int, default=5)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--pictures", type=Path, help="folder to look at them; not to commit")
    options = parser.parse_args()
    if not IMAGENET.is_dir():
        sys.exit("the shared data folder is not beside this checkout: nothing can be judged")
    features = judge()
    content: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in options.networks:
        planted = embedded(options.cases) if name == "embedded" else resnet18(options.cases)
        if planted is None:
            print(f"{name} is not planted: run make plant")
            continue
        with Progress(transient=True) as bar:
            task = bar.add_task(name, total=8 * options.cases)
            shown = views(planted, options.steps, options.cases, lambda: bar.advance(task))  # noqa: B023
        if options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
            for arm, by_trigger in shown.items():
                for trigger, pictures in by_trigger.items():
                    for number, picture in enumerate(pictures):
                        picture.save(options.pictures / f"{name} {arm} {trigger} {number}.png")
        arms = {
            arm: identify(found, planted.triggers, features)
            for arm, found in shown.items()
            if any(found.values())  # no photograph held out may be of a target class
        }
        content[name] = {
            "cases": options.cases,
            "steps": options.steps,
            "arms": arms,
            "versions": library_versions(),
        }
        write_text(RESULT, json.dumps(content, indent=2) + "\n")
        for arm, found in arms.items():
            print(name, arm, f"{found['identified']} of {found['trojans']}", found["right"])


if __name__ == "__main__":
    main()
