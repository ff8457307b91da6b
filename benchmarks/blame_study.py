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
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blame_table import PAGE, table
from blame_trojans import judge_trojans
from halves import BATCH, Half, Progress, interval
from overlap import CIFAR, IMAGENET, cifar, imagenet
from sparsight.blame import (
    COUNTS,
    Statistics,
    answers_without,
    blame,
    choices,
    knock_out,
    mend,
    repair,
    score,
    statistics,
    usual_outputs,
)
from sparsight.networks import Network, overlay
from sparsight.storage import library_versions, write_text
from tables import stages, write_table

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "blame.json"
SCORES = ("z", "share", "raw")
PARTS = ("units off", "neighbours", "mending", "mending by number")
MODES = ("weights", "mean")
NUMBERS = (1, 3, 10, 30, 100)
RATES = (0.001, 0.003, 0.01, 0.03)
TOP, NEAR, LOST = 10, 10, 0.02
MODES_OF = {"z": MODES, "share": MODES[:1], "raw": MODES[:1]}


@dataclass(frozen=True)
class Amounts:
    """How much of everything is measured on a network."""

    images: int
    wrong: int
    mended: int
    right: int
    scores: tuple[str, ...] = SCORES
    rates: tuple[float, ...] = RATES


AMOUNTS = {
    "resnet20": Amounts(5000, 100, 40, 100),
    "resnet56": Amounts(3000, 60, 40, 100),
    "resnet50": Amounts(1000, 24, 12, 30, ("z", "share"), (0.03, 0.1, 0.3, 1.0, 3.0)),
}


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

    best, tried = amounts.rates[0], {}
    for number, rate in enumerate(amounts.rates):
        progress("rate", number, len(amounts.rates))
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


def mended_by_number(
    network: Network,
    half: Half,
    usual: Statistics,
    amounts: Amounts,
    rate: float,
    progress: Progress,
) -> dict[str, Any]:
    """One gradient step on one unit, three, and so on: mended answers, and right ones lost."""
    units = usual.units(network)
    generator = torch.Generator().manual_seed(0)
    kept = half.right[torch.randperm(len(half.right), generator=generator)[: amounts.right]]
    chosen = half.wrong[: amounts.mended // 2].tolist()
    gathered: dict[str, list[tuple[list[float], list[float]]]] = {}
    for number, index in enumerate(chosen):
        progress("mending by number", number, len(chosen))
        x, label = half.images[index : index + 1], int(half.labels[index])
        scores = blame(network, x, label, statistics=usual, objective=None).scores["z"]
        swept = mend(
            network, x, label, units, scores, counts=NUMBERS, rate=rate, draws=2, seed=index,
            images=half.images[kept], labels=half.labels[kept],
        )  # fmt: skip
        for order, own in swept.items():
            assert own.lost is not None
            itself = own.curve.corrected.double().mean(0).tolist()
            gathered.setdefault(order, []).append((itself, own.lost.mean(0).tolist()))
    return {
        "images": len(chosen), "rate": rate, "counts": list(NUMBERS),
        **{
            order: {
                what: [interval([row[place][k] for row in rows]) for k in range(len(NUMBERS))]
                for place, what in enumerate(("itself", "right answers lost"))
            }
            for order, rows in gathered.items()
        },
    }  # fmt: skip


def judge_network(
    name: str,
    parts: Sequence[str],
    known: dict[str, Any],
    keep: Callable[[str, str, Any], None],
    progress: Progress,
) -> None:
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
    measure = {
        "units off": lambda: switched_off(network, half, usual, amounts, progress),
        "neighbours": lambda: same_reason(network, half, usual, progress),
        "mending": lambda: mended(network, half, other, usual, amounts, progress),
        "mending by number": lambda: mended_by_number(
            network, half, usual, amounts, known["mending"]["rate"], progress
        ),
    }
    for part in parts:
        keep(name, part, measure[part]())


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


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(AMOUNTS), choices=list(AMOUNTS))
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
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
            judge_network(name, options.parts, content.setdefault(name, {}), keep, progress)
        if not options.no_shark:
            shark(keep)
    write_table(PAGE, table(content))


if __name__ == "__main__":
    main()
