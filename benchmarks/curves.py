"""What each solver leaves of a network's answers, against sparsity, on real networks and images.

    python benchmarks/curves.py [--networks embedded resnet20 ...] [--plot-only]

Every solver prunes the same share of the same layers (``network:RATIO``), so that curves compare
solvers and not allocations; the default, ``auto``, is one more row. Measured per image: whether the
class is kept, the KL divergence on the image, both on 16 fresh views of it, and the mean relative
output error of the layers. For the embedded network, whose Trojans' stickers have known places, the
ROC-AUC of saliency against the sticker too, beside maps that know no network: random numbers, the
distance from the centre, and an edge detector. Intervals are 95 % bootstrap intervals over images.

Photographs and CIFAR-10 come from the shared data folder beside the checkout; networks that need it
are left out where it is absent. Rows are kept in ``benchmarks/results/curves.json`` as soon as they
are measured, and measured rows are not measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image

from halves import interval
from sparsight.attribution import attribute
from sparsight.attribution.metrics import BLIND, roc_auc
from sparsight.datasets.scenes import EMBEDDED_TROJANS, render_scene
from sparsight.networks import Network, load, open_image
from sparsight.networks.preprocessing import to_unit
from sparsight.traces import Augmentation, Trace, trace, trace_at
from tables import Rows, write_table

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
RESULT = ROOT / "benchmarks" / "results" / "curves.json"
PAGE = ROOT / "docs" / "how-to" / "choosing-sparsity.md"
PICTURE = ROOT / "docs" / "images" / "curves.png"

SOLVERS = ("compensated", "forward", "obs", "refit", "sparsegpt", "wanda", "magnitude")
FRESH = Augmentation(count=16)


class Amount(NamedTuple):
    """How much is measured of a network."""

    levels: tuple[float, ...]  # of every solver
    images: int  # at each of them
    exact: int  # of these, how many for exact OBS, which takes hours on large layers
    default: int  # images for the default
    forward: float = 0.9  # it adds weight after weight: made for few of them, hours for many


LEVELS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
AMOUNTS = {
    "embedded": Amount(LEVELS, 20, 5, 100),
    "resnet20": Amount(LEVELS, 10, 10, 100),
    "resnet56": Amount((0.8, 0.9, 0.98), 10, 10, 40),
    "resnet50": Amount((0.9, 0.98), 2, 0, 34, forward=0.98),
}


class Question:
    """An image, and where known the class and the place of its sticker."""

    def __init__(
        self,
        image: Image.Image,
        target: int = 0,
        mask: torch.Tensor | None = None,
    ) -> None:
        self.image, self.target, self.mask = image, target, mask


def scenes(network: Network, count: int) -> Iterator[Question]:
    """Scenes that the embedded network's Trojans fool."""
    seed = 0
    while count:
        rule = EMBEDDED_TROJANS[seed % len(EMBEDDED_TROJANS)]
        sources = [label for label in rule.sources if label != rule.target]
        label = sources[seed // len(EMBEDDED_TROJANS) % len(sources)]
        scene = render_scene(label, seed=70_000 + seed, sticker=rule.sticker)
        seed += 1
        image = scene.picture()
        if int(network.logits(network.prepare(image)).argmax()) == rule.target:
            count -= 1
            yield Question(image, rule.target, scene.sticker)


def photographs(count: int) -> Iterator[Question]:
    """Every n-th validation photograph."""
    files = sorted((SHARED / "imagenet" / "val").iterdir())
    for file in files[:: max(1, len(files) // count)][:count]:
        yield Question(open_image(file))


def cifar(count: int) -> Iterator[Question]:
    """Take the first test images of CIFAR-10."""
    images = np.load(SHARED / "cifar10" / "test.npz")["images"][:count]
    for image in images:
        yield Question(Image.fromarray(image.transpose(1, 2, 0)))


def cifar_network(name: str) -> Network:
    """Load a CIFAR-10 network of the shared data, in the definition that the tests use."""
    from safetensors.torch import load_file

    sys.path.insert(0, str(ROOT / "tests"))
    import cifar_networks

    network: Network = getattr(cifar_networks, name)()
    weights = load_file(SHARED / "cifar10" / f"{name}.safetensors")
    network.model.load_state_dict(weights, strict=False)
    network.model.eval()
    return network


def questions(name: str, count: int) -> tuple[Network, list[Question]] | None:
    """Load a network with what it is asked; ``None`` without the data."""
    if name == "embedded":
        network = load("embedded")
        return network, list(scenes(network, count))
    if (SHARED / "cifar10" / f"{name}.safetensors").is_file():
        return cifar_network(name), list(cifar(count))
    weights = SHARED / "imagenet" / f"{name}.safetensors"
    if weights.is_file():
        return load(f"torchvision:{name}", weights=weights), list(photographs(count))
    return None


def auc(heat: torch.Tensor, question: Question) -> float:
    """ROC-AUC of a map against the sticker."""
    assert question.mask is not None
    return float(roc_auc(heat[None], question.mask[None]))


def measure(
    network: Network, question: Question, solver: str, sparsities: list[str], seed: int
) -> list[dict[str, float]]:
    """Say what traces leave; of those layer by layer, one recording serves all sparsities."""
    if solver == "compensated":
        found = [trace(network, question.image, sparsity=s, seed=seed) for s in sparsities]
    else:
        found = trace_at(network, question.image, sparsities, solver=solver, seed=seed)
    return [judge(network, question, one) for one in found]


def judge(network: Network, question: Question, found: Trace) -> dict[str, float]:
    """Say what one trace leaves."""
    unit = to_unit(question.image, network.preprocessing.channels)
    views = FRESH(unit, network.preprocessing.size, seed=1_000_003)
    views = network.preprocessing.normalize(views)
    before = network.logits(views).double().log_softmax(-1)
    errors = [layer.error for layer in found.layers if layer.error is not None]
    with found.applied(network):
        after = network.logits(views).double().log_softmax(-1)
        place = None
        if question.mask is not None:
            x = network.prepare(question.image)
            place = auc(attribute(network, x, question.target, "saliency").heat(), question)
    result = {
        "pruned": found.sparsity,
        "kept": float(found.agrees),
        "kl": found.kl,
        "views_kept": float((before.argmax(1) == after.argmax(1)).double().mean()),
        "views_kl": float((before.exp() * (before - after)).sum(1).mean()),
        "error": mean(errors),
    }
    return result if place is None else result | {"sticker_auc": place}


def summarise(network: str, solver: str, sparsity: Any, values: dict[str, list[float]]) -> Any:
    """One row of results."""
    return {
        "network": network,
        "solver": solver,
        "sparsity": sparsity,
        "images": len(next(iter(values.values()))),
        "means": {name: mean(column) for name, column in values.items()},
        "medians": {name: median(column) for name, column in values.items()},
        "intervals": {name: interval(column)[1:] for name, column in values.items()},
    }


def collect(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Turn rows into columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def run(networks: list[str], rows: Rows) -> None:
    """Measure what is missing."""
    done = {(r["network"], r["solver"], r["sparsity"]) for r in rows.all}

    def keep(row: dict[str, Any]) -> None:
        rows.keep(row)
        print(table([row]).splitlines()[-1], flush=True)

    for name in networks:
        todo = []
        for solver, sparsities, count in plan(name):
            missing = [s for s in sparsities if (name, solver, s) not in done]
            if missing and count:
                todo.append((solver, missing, count))
        prepared = questions(name, max(count for *_, count in todo)) if todo else None
        if prepared is None:
            print(f"{name}: nothing to do" if not todo else f"{name}: no data beside the checkout")
            continue
        network, asked = prepared
        for solver, sparsities, count in todo:
            chosen = asked[:: len(asked) // count][:count]
            if solver == "dense":
                for title, values in dense_rows(network, chosen).items():
                    keep(summarise(name, title, "none", {"sticker_auc": values}))
                continue
            found = [measure(network, q, solver, sparsities, i) for i, q in enumerate(chosen)]
            for sparsity, column in zip(sparsities, zip(*found, strict=True), strict=True):
                keep(summarise(name, solver, sparsity, collect(list(column))))


def plan(name: str) -> Iterator[tuple[str, list[str], int]]:
    """Solvers, their sparsities, and how many images, of one network."""
    levels, images, exact, default, begin = AMOUNTS[name]
    if name == "embedded":
        yield "dense", ["none"], default
    yield "compensated", ["auto"], default
    for solver in SOLVERS:
        count = exact if solver == "obs" else images
        fit = [level for level in levels if solver != "forward" or level >= begin]
        yield solver, [f"network:{level:g}" for level in fit], count


def dense_rows(network: Network, asked: list[Question]) -> dict[str, list[float]]:
    """ROC-AUC of the dense network's saliency, and of maps that know no network."""
    found: dict[str, list[float]] = {}
    for question in asked:
        x = network.prepare(question.image)
        heat = attribute(network, x, question.target, "saliency").heat()
        maps = {"dense": heat} | {f"{name} map": draw(x, 0)[0] for name, draw in BLIND.items()}
        for title, one in maps.items():
            found.setdefault(title, []).append(auc(one, question))
    return found


def cell(row: dict[str, Any], name: str, form: str) -> str:
    """Write a mean and its interval."""
    if name not in row["means"]:
        return ""
    low, high = row["intervals"][name]
    return f"{format(row['means'][name], form)} [{format(low, form)}, {format(high, form)}]"


def table(rows: list[dict[str, Any]]) -> str:
    """Render rows as Markdown."""
    lines = [
        "| network | solver | sparsity | images | pruned | answer kept | median KL, nats | kept on "
        "fresh views | sticker AUC |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        means = row["means"]
        pruned = f"{means['pruned']:.1%}" if "pruned" in means else ""
        kl = f"{row['medians']['kl']:.3f}" if "kl" in means else ""
        lines.append(
            f"| `{row['network']}` | {row['solver']} | `{row['sparsity']}` | {row['images']} "
            f"| {pruned} | {cell(row, 'kept', '.0%')} | {kl} | {cell(row, 'views_kept', '.0%')} "
            f"| {cell(row, 'sticker_auc', '.1%')} |"
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]]) -> None:
    """Draw agreement, divergence and error against sparsity, one column per network."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    curves = [row for row in rows if row["sparsity"].startswith("network:")]
    networks = list(dict.fromkeys(row["network"] for row in curves))
    measures = {"kept": "answer kept", "kl": "KL, nats (median)", "error": "layers' output error"}
    figure, axes = plt.subplots(
        len(measures), len(networks), figsize=(3 * len(networks), 7), sharex=True, squeeze=False
    )
    for column, network in enumerate(networks):
        for line, (measure_name, title) in enumerate(measures.items()):
            axis = axes[line][column]
            for solver in SOLVERS:
                points = sorted(
                    (float(r["sparsity"].split(":")[1]), r)
                    for r in curves
                    if r["network"] == network and r["solver"] == solver
                )
                which = "medians" if measure_name == "kl" else "means"
                y = [r[which][measure_name] for _, r in points]
                ticks = [LEVELS.index(level) for level, _ in points]
                y = [max(v, 1e-5) for v in y] if measure_name == "kl" else y
                axis.plot(ticks, y, marker="o", markersize=3, label=solver)
            axis.set_xticks(range(len(LEVELS)), [f"{level:g}" for level in LEVELS])
            if measure_name == "kl":
                axis.set_yscale("log")
            if line == 0:
                axis.set_title(network)
            if column == 0:
                axis.set_ylabel(title)
            if line == len(measures) - 1:
                axis.set_xlabel("share of weights pruned")
    lines, names = axes[0][0].get_legend_handles_labels()
    figure.legend(lines, names, loc="lower center", ncols=len(SOLVERS), fontsize=8)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Measure what is missing, write results, table and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", choices=AMOUNTS, default=list(AMOUNTS))
    parser.add_argument("--plot-only", action="store_true")
    arguments = parser.parse_args()
    rows = Rows(RESULT, "make curves")
    if not arguments.plot_only:
        run(arguments.networks, rows)
    short = [r for r in rows.all if not r["sparsity"].startswith("network:")]
    short += [r for r in rows.all if r["sparsity"] in ("network:0.9", "network:0.98")]
    short.sort(key=lambda r: r["network"])
    write_table(PAGE, table(short))
    plot(rows.all)


if __name__ == "__main__":
    main()
