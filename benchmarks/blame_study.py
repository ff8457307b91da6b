"""Are the units most to blame to blame? Off, mended, shared by like mistakes, and Trojans.

    python benchmarks/blame_study.py [--networks resnet20 ...] [--trojans embedded resnet18]

Statistics are of one half of the images, everything else is measured on the other half, and what is
chosen (the rate of a repair, the number of units that switch a Trojan off) is chosen on images that
are not reported. Networks and photographs are those of the shared data folder beside the checkout
and of ``plant_trojans.py``; what is absent is left out and said so. Each part is kept in
``benchmarks/results/blame.json`` as soon as it is measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from overlap import CIFAR, IMAGENET, cifar, imagenet
from plant_trojans import FOLDER, photographs, planted_network, planting_rules, weights_file
from sparsight.benchmarks.trojans import trojan_cases
from sparsight.blame import (
    COUNTS,
    Statistics,
    answers_without,
    blame,
    choices,
    knock_out,
    repair,
    score,
    statistics,
    usual_outputs,
)
from sparsight.datasets.scenes import EMBEDDED_TROJANS, render_scene
from sparsight.networks import Network, Units, load, overlay
from sparsight.storage import library_versions, write_text
from tables import stages, write_table

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "blame.json"
PAGE = ROOT / "docs" / "explanation" / "blame.md"
SCORES = ("z", "share", "raw")
MODES = ("weights", "mean")
RATES = (0.001, 0.003, 0.01, 0.03)
TOP, NEAR, LOST = 10, 10, 0.02
BATCH = 16
OFF = (1, 2, 5, 10, 15, 20, 30, 40, 50, 70, 100)
WAYS = {
    "embedded": tuple(product(("z", "share"), ("one image", "five images"), MODES)),
    "resnet18": (("share", "five images", "mean"),),
}
MOST_CLEAN = 150
CONTROL = 20  # random units off
MOST_FOOLED = 45  # images with a sticker
SUCCESS_LEFT, CLEAN_LOST = 0.2, 0.03
MODES_OF = {"z": MODES, "share": MODES[:1], "raw": MODES[:1]}


@dataclass(frozen=True)
class Amounts:
    """How much of everything is measured on a network."""

    images: int
    wrong: int
    mended: int
    right: int
    scores: tuple[str, ...] = SCORES


AMOUNTS = {
    "resnet20": Amounts(5000, 100, 40, 100),
    "resnet56": Amounts(3000, 60, 40, 100),
    "resnet50": Amounts(1000, 24, 12, 30, ("z", "share")),
}

Progress = Callable[[str, int, int], None]


def interval(values: Sequence[float]) -> list[float]:
    """Mean, and 95 % bootstrap interval of it."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(np.asarray(values, float), (2000, len(values))).mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return [float(np.mean(values)), float(low), float(high)]


class Half:
    """Images of one half, prepared, with labels and answers."""

    def __init__(self, network: Network, pairs: Sequence[tuple[Any, int]]) -> None:
        self.pairs = pairs
        self.images = torch.cat([network.prepare(image) for image, _ in pairs])
        self.labels = torch.tensor([label for _, label in pairs])
        self.answers = torch.cat(
            [network.logits(part).argmax(1) for part in self.images.split(BATCH)]
        )
        self.wrong = (self.answers != self.labels).nonzero()[:, 0]
        self.right = (self.answers == self.labels).nonzero()[:, 0]


def order_images(profiles: Tensor, own: Tensor) -> Tensor:
    """Numbers of profiles, the most similar first."""
    return torch.cosine_similarity(profiles, own[None], dim=1).argsort(descending=True)


def switched_off(
    network: Network, half: Half, usual: Statistics, amounts: Amounts, progress: Progress
) -> dict[str, Any]:
    """Curves of wrong answers as units go off: those to blame, random ones, the least to blame."""
    units = usual.units(network)
    means = usual_outputs(network, half.images[half.right[:200]].split(BATCH), units)
    chosen = half.wrong[: amounts.wrong].tolist()
    found: dict[str, Any] = {"images": len(chosen), "counts": list(COUNTS)}
    gathered: dict[str, list[dict[str, np.ndarray]]] = {}
    for number, index in enumerate(chosen):
        progress("units off", number, len(chosen))
        x, label = half.images[index : index + 1], int(half.labels[index])
        blamed = blame(network, x, label, statistics=usual, objective=None)
        for name in amounts.scores:
            for mode in MODES_OF[name]:
                curves = knock_out(
                    network, x, label, units, blamed.scores[name], mode=mode, usual=means, draws=3
                )
                for order, curve in curves.items():
                    if order == "salient" or name == "z":
                        key = (
                            f"{order} by {name}, {mode}"
                            if order == "salient"
                            else f"{order}, {mode}"
                        )
                        values = {
                            "predicted": curve.predicted.mean(0).numpy(),
                            "true": curve.true.mean(0).numpy(),
                            "corrected": curve.corrected.double().mean(0).numpy(),
                        }
                        gathered.setdefault(key, []).append(values)
    found["curves"] = {
        key: {
            what: [interval([row[what][k] for row in rows]) for k in range(len(COUNTS))]
            for what in ("predicted", "true", "corrected")
        }
        for key, rows in gathered.items()
    }
    damaged = half.right[: amounts.right]
    lost = {}
    for order in ("salient", "random", "least"):
        rows = []
        for index in chosen[: amounts.mended // 4]:
            x, label = half.images[index : index + 1], int(half.labels[index])
            scores = blame(network, x, label, statistics=usual, objective=None).scores["z"]
            off = choices(scores, [10, 50], order, 1, index)[0]
            logits = answers_without(network, half.images[damaged], units, off)
            wrong = logits.argmax(2) != half.labels[damaged][:, None]
            rows.append(wrong.double().mean(0).tolist())
        lost[order] = {
            f"{count} off": interval([row[k] for row in rows]) for k, count in enumerate((10, 50))
        }
    return found | {"right answers lost": lost}


def same_reason(
    network: Network, half: Half, usual: Statistics, progress: Progress
) -> dict[str, Any]:
    """How often an image's neighbours among mistakes share its label and its wrong answer."""
    assert usual.profiles is not None
    labels, answers = torch.tensor(usual.labels), torch.tensor(usual.predictions)
    among = (labels != answers).nonzero()[:, 0]
    profiles = {name: score(name, usual.profiles[among], usual) for name in SCORES}
    shares: dict[str, list[float]] = {name: [] for name in (*SCORES, "chance")}
    chosen = half.wrong[:200].tolist()
    for number, index in enumerate(chosen):
        progress("neighbours", number, len(chosen))
        label, answer = int(half.labels[index]), int(half.answers[index])
        x = half.images[index : index + 1]
        scores = blame(network, x, label, statistics=usual, objective=None).scores
        same = (labels[among] == label) & (answers[among] == answer)
        if not same.any():
            continue
        shares["chance"].append(float(same.double().mean()))
        for name in SCORES:
            near = order_images(profiles[name], scores[name])[:NEAR]
            shares[name].append(float(same[near].double().mean()))
    return {
        "images": len(shares["chance"]),
        "among": len(among),
        "nearest": NEAR,
        "share": {name: interval(values) for name, values in shares.items() if values},
    }


def mended(
    network: Network,
    half: Half,
    other: Half,
    usual: Statistics,
    amounts: Amounts,
    progress: Progress,
) -> dict[str, Any]:
    """One gradient step on the units to blame for one image: who else is mended, who is lost."""
    assert usual.profiles is not None
    units = usual.units(network)

    def outcome(index: int, source: Half, order: str, rate: float) -> list[float]:
        x, label = source.images[index : index + 1], int(source.labels[index])
        scores = blame(network, x, label, statistics=usual, objective=None).scores["z"]
        chosen = choices(scores, [TOP], order, 1, index)[0, 0].nonzero()[:, 0]
        tensors = repair(network, x, label, units, chosen, rate=rate).tensors
        rest = other.wrong[other.wrong != index] if source is other else other.wrong
        profiles = score("z", usual.profiles[rest], usual)  # type: ignore[index]
        near = rest[order_images(profiles, scores)[:NEAR]]
        generator = torch.Generator().manual_seed(index)
        far = rest[torch.randperm(len(rest), generator=generator)[:NEAR]]
        kept = half.right[torch.randperm(len(half.right), generator=generator)[: amounts.right]]
        with overlay(network.model, tensors):
            own = network.logits(x).argmax(1) == label
            both = [
                network.logits(other.images[part]).argmax(1) == other.labels[part]
                for part in (near, far)
            ]
            right = torch.cat(
                [network.logits(half.images[part]).argmax(1) == half.labels[part]
                 for part in kept.split(BATCH)]
            )  # fmt: skip
        return [
            float(own),
            *(float(b.double().mean()) for b in both),
            float((~right).double().mean()),
        ]

    best, tried = RATES[0], {}
    for number, rate in enumerate(RATES):
        progress("rate", number, len(RATES))
        rows = [
            outcome(i, other, "salient", rate) for i in other.wrong[: amounts.mended // 2].tolist()
        ]
        tried[rate] = [mean(column) for column in zip(*rows, strict=True)]
        if tried[rate][3] <= LOST:
            best = rate
    names = ("itself", "neighbours", "other mistakes", "right answers lost")
    chosen = half.wrong[: amounts.mended].tolist()
    found: dict[str, Any] = {"images": len(chosen), "units": TOP, "rate": best, "rates tried": {
        str(rate): dict(zip(names, values, strict=True)) for rate, values in tried.items()
    }}  # fmt: skip
    for order in ("salient", "random", "least"):
        rows = []
        for number, index in enumerate(chosen):
            progress(f"mending, {order}", number, len(chosen))
            rows.append(outcome(index, half, order, best))
        columns = zip(names, zip(*rows, strict=True), strict=True)
        found[order] = {name: interval(column) for name, column in columns}
    return found


def judge_network(name: str, keep: Callable[[str, str, Any], None], progress: Progress) -> None:
    """Measure one network."""
    amounts = AMOUNTS[name]
    folder, source = (CIFAR, cifar) if name in ("resnet20", "resnet56") else (IMAGENET, imagenet)
    if not folder.is_dir():
        print(f"{name}: no data beside the checkout")
        return
    network, pairs = source(name, amounts.images)
    other, half = Half(network, pairs[::2]), Half(network, pairs[1::2])
    usual = statistics(network, pairs[::2], profiles=True, batch=BATCH, progress=progress)
    facts = {
        "statistics": {"images": usual.samples, "correct": usual.correct},
        "measured on": {"images": len(half.pairs), "correct": len(half.right)},
        "units": len(usual.raw.mean),
    }
    keep(name, "facts", facts)
    keep(name, "units off", switched_off(network, half, usual, amounts, progress))
    keep(name, "neighbours", same_reason(network, half, usual, progress))
    keep(name, "mending", mended(network, half, other, usual, amounts, progress))


def shark(keep: Callable[[str, str, Any], None]) -> None:
    """Measure the case of the paper: a shark taken for a killer whale."""
    file = IMAGENET / "misc" / "great_white_shark_mispred_as_killer_whale.jpeg"
    if not file.is_file():
        print("shark: no data beside the checkout")
        return
    network, pairs = imagenet("resnet50", 1000)
    usual = statistics(network, pairs[::2], batch=BATCH)
    found = blame(network, file, 2, statistics=usual)
    units = usual.units(network)
    x = network.prepare(file)
    probability = network.logits(x)[0].softmax(0)
    curves = knock_out(network, x, 2, units, found.scores["z"], draws=10)
    keep("shark", "resnet50", {
        "predicted": network.label(found.predicted),
        "probability": float(probability[found.predicted]),
        "of the shark": float(probability[2]),
        "loss": found.loss,
        "units above their mean": found.raised,
        "top": found.top(),
        "depth": [row for row in found.depth() if row[1] > 0],
        "curves": {
            order: {"counts": list(c.counts), "predicted": c.predicted.mean(0).tolist(),
                    "true": c.true.mean(0).tolist()}
            for order, c in curves.items()
        },
    })  # fmt: skip


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
    if not weights_file(FOLDER, "resnet18", "any").is_file():
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


def percents(values: Sequence[float]) -> str:
    """Write a mean and its interval."""
    value, low, high = (100 * v for v in values)
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def network_table(name: str, found: dict[str, Any]) -> list[str]:
    """Render what was found of one network, as far as it was measured."""
    facts, off = found["facts"], found["units off"]
    shown = [off["counts"].index(count) for count in (0, 1, 5, 10, 20, 50)]
    parts = [
        f"### {name}",
        f"{facts['statistics']['images']} images for statistics, "
        f"{facts['measured on']['images']} to measure on; {facts['units']} filters. Percent of "
        f"{off['images']} wrong answers: probability of the class that was predicted, then share "
        "of answers that become right.\n",
        "| off | " + " | ".join(f"{off['counts'][k]}" for k in shown) + " |",
        "|---|" + "---:|" * len(shown),
    ]
    for key, curve in off["curves"].items():
        for what in ("predicted", "corrected"):
            row = [percents(curve[what][k]) for k in shown]
            parts.append(f"| {key}: {what} | " + " | ".join(row) + " |")
    told = "; ".join(
        f"{order} {percents(lost['10 off'])} and {percents(lost['50 off'])}"
        for order, lost in off["right answers lost"].items()
    )
    parts.append(f"\nRight answers lost with 10 and 50 off, percent: {told}.")
    if "neighbours" in found:
        near = found["neighbours"]
        shares = "; ".join(f"{k} {percents(v)}" for k, v in near["share"].items())
        parts.append(
            f"\nOf the {near['nearest']} nearest among {near['among']} mistakes, percent that "
            f"share label and wrong answer ({near['images']} images): {shares}."
        )
    if "mending" in found:
        mend = found["mending"]
        names = list(mend["salient"])
        parts += [
            f"\nOne gradient step on {mend['units']} filters, rate {mend['rate']}, percent of "
            f"{mend['images']} wrong answers:\n",
            "| filters | " + " | ".join(names) + " |",
            "|---|" + "---:|" * len(names),
        ]
        for order in ("salient", "random", "least"):
            row = [percents(mend[order][what]) for what in names]
            parts.append(f"| {order} | " + " | ".join(row) + " |")
    return [*parts, ""]


def table(content: dict[str, Any]) -> str:
    """Render what was found as Markdown."""
    parts = []
    for name in (name for name in AMOUNTS if "units off" in content.get(name, {})):
        parts += network_table(name, content[name])
    for key in (key for key in content if key.startswith("Trojans")):
        rows = content[key]
        parts += [
            f"### {key}",
            "How many filters are off is chosen on other images. Success of the Trojan, then clean "
            "accuracy, percent, before and after; in bold where success falls by four fifths and "
            "accuracy by less than three points.\n",
            "| ranked by | " + " | ".join(rows) + " |",
            "|---|" + "---|" * len(rows),
        ]
        for way in (way for way in next(iter(rows.values())) if ", " in way):
            cells = []
            for found in rows.values():
                one = found[way]
                best = one["chosen"]
                if best is None:
                    cells.append("none found")
                    continue
                cell = (
                    f"{one['off'][best]} off: {100 * one['success'][0]:.0f} → "
                    f"{100 * one['success'][best]:.0f}, {100 * one['clean'][0]:.0f} → "
                    f"{100 * one['clean'][best]:.0f}"
                )
                cells.append(f"**{cell}**" if one["reached"] else cell)
            parts.append(f"| {way} | " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(AMOUNTS), choices=list(AMOUNTS))
    parser.add_argument("--trojans", nargs="*", default=["embedded", "resnet18"])
    parser.add_argument("--no-shark", action="store_true")
    options = parser.parse_args()
    content: dict[str, Any] = {"versions": library_versions(), "command": "make blame"}
    if RESULT.is_file():
        content |= json.loads(RESULT.read_text(encoding="utf-8"))

    def keep(part: str, name: str, value: Any) -> None:
        content.setdefault(part, {})[name] = value
        write_text(RESULT, json.dumps(content, indent=1) + "\n")
        print(part, name, flush=True)

    with stages() as progress:
        for name in options.trojans:
            judge_trojans(name, keep, progress)
        for name in options.networks:
            judge_network(name, keep, progress)
        if not options.no_shark:
            shark(keep)
    write_table(PAGE, table(content))


if __name__ == "__main__":
    main()
