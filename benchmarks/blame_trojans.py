"""The units of planted Trojans: found by blaming triggered images, then switched off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor

from halves import BATCH, Half, Progress
from plant_trojans import is_planted, photographs, planted_network, planting_rules
from sparsight.benchmarks.trojans import trojan_cases
from sparsight.blame import (
    Statistics,
    answers_without,
    blame,
    choices,
    statistics,
    usual_outputs,
)
from sparsight.datasets.scenes import EMBEDDED_TROJANS, render_scene
from sparsight.networks import Network, Units, load

OFF = (1, 2, 5, 10, 15, 20, 30, 40, 50, 70, 100)
WAYS = {
    "embedded": tuple(product(("z", "share"), ("one image", "five images"), ("weights", "mean"))),
    "resnet18": (("share", "five images", "mean"),),
}
MOST_CLEAN = 150
CONTROL = 20  # random units off
MOST_FOOLED = 45  # images with a sticker
SUCCESS_LEFT, CLEAN_LOST = 0.2, 0.03


def sought(
    network: Network,
    usual: Statistics,
    units: Units,
    means: dict[str, Tensor],
    fooled: tuple[Tensor, Tensor],
    target: int,
    clean: tuple[Half, Half],
    ways: Sequence[tuple[str, str, str]],
) -> dict[str, Any]:
    """Blame triggered images, switch off what is found, and see who still answers the target.

    The first five triggered images are blamed; the next ten, and the clean images that statistics
    are of, choose how many units go; all others are reported.
    """
    blamed = [
        blame(network, fooled[0][i : i + 1], int(fooled[1][i]), statistics=usual, objective=None)
        for i in range(5)
    ]
    attacked = fooled[0][5:]
    found: dict[str, Any] = {"triggered images": len(attacked) - 10, "clean images": MOST_CLEAN}
    for name, source, mode in ways:
        few = blamed[:1] if source == "one image" else blamed
        scores = torch.stack([b.scores[name] for b in few]).mean(0)
        counts = [count for count in (0, *OFF) if count <= len(scores)]
        off = torch.cat(
            [choices(scores, counts, "salient")[0], choices(scores, [CONTROL], "random", 1, 0)[0]]
        )
        hit = answers_without(network, attacked, units, off, mode=mode, usual=means)
        hit = hit.argmax(2) == target
        success = [part.double().mean(0) for part in (hit[:10], hit[10:])]
        right = []
        for half in clean:
            images, labels = half.images[:MOST_CLEAN], half.labels[:MOST_CLEAN]
            answers = answers_without(network, images, units, off, mode=mode, usual=means)
            right.append((answers.argmax(2) == labels[:, None]).double().mean(0))
        good = [
            (hits <= SUCCESS_LEFT * hits[0]) & (rights > rights[0] - CLEAN_LOST)
            for hits, rights in zip(success, right, strict=True)
        ]
        chosen = good[0][:-1].nonzero()[:1, 0].tolist()
        found[f"{name}, {source}, {mode}"] = {
            "off": counts,
            "success": success[1][:-1].tolist(),
            "clean": right[1][:-1].tolist(),
            f"random {CONTROL}": [float(success[1][-1]), float(right[1][-1])],
            "chosen": chosen[0] if chosen else None,
            "reached": bool(chosen and good[1][chosen[0]]),
        }
    return found


def embedded_trojans() -> tuple[Network, list[tuple[Any, int]], dict[str, Any]]:
    """Scenes: clean ones, and by sticker those that it fools."""
    network = load("embedded")
    clean = [(render_scene(i % 10, seed=620_000 + i).picture(), i % 10) for i in range(400)]
    fooled = {}
    for rule in EMBEDDED_TROJANS:
        found: list[tuple[Tensor, int]] = []
        for i in range(400):
            label = i % 10
            if label == rule.target or len(found) == MOST_FOOLED:
                continue
            scene = render_scene(label, seed=630_000 + i, sticker=rule.sticker)
            x = network.prepare(scene.picture())
            if int(network.logits(x).argmax()) == rule.target:
                found.append((x, label))
        fooled[rule.sticker] = rule.target, found
    return network, clean, fooled


def resnet18_trojans() -> tuple[Network, list[tuple[Any, int]], dict[str, Any]] | None:
    """Photographs held out: clean ones, and by sticker those that it fools."""
    if not is_planted("resnet18"):
        return None
    network, rules = planted_network("resnet18"), planting_rules()
    _, held_out = photographs()
    clean = [(photo.open(), photo.label) for photo in held_out]
    fooled: dict[str, Any] = {}
    for rule in rules:
        cases = islice(trojan_cases(network, held_out, [rule]), MOST_FOOLED)
        found = [(case.x, case.label) for case in cases]
        fooled[rule.trigger.name] = rule.target, found
    return network, clean, fooled


def judge_trojans(name: str, keep: Callable[[str, str, Any], None], progress: Progress) -> None:
    """Look for the units of planted Trojans."""
    given = embedded_trojans() if name == "embedded" else resnet18_trojans()
    if given is None:
        print(f"{name}: not planted, run make plant beside shared data")
        return
    network, clean, fooled = given
    usual = statistics(network, clean[::2], batch=BATCH, progress=progress)
    halves = Half(network, clean[::2]), Half(network, clean[1::2])
    units = usual.units(network)
    means = usual_outputs(network, halves[0].images[:100].split(BATCH), units)
    for number, (sticker, (target, found)) in enumerate(fooled.items()):
        progress(f"{name}: Trojans", number, len(fooled))
        if len(found) < 20:
            print(f"{name}, {sticker}: only {len(found)} images are fooled")
            continue
        images = torch.cat([x for x, _ in found]), torch.tensor([label for _, label in found])
        found = sought(network, usual, units, means, images, target, halves, WAYS[name])
        keep(f"Trojans, {name}", sticker, found)
