"""Measure how small the sub-network is that tells two classes apart, and if it is true elsewhere.

    python benchmarks/chain_study.py [--networks resnet56 ...] [--parts pairs ...]

Chains of two-class sub-tasks, extracted from ten images of each class: on those images, on others
of the same classes, and on images of other classes, beside random, heavy and contributing units
(as many in every layer), the units that contribute most, what the chain leaves out, and one
constant answer. ImageNet photographs here are too few for each class: there, a sub-task is to tell
two groups of classes apart, such as dogs and birds. Settings were chosen on the ResNet-20. Networks
and images are those of the shared data folder beside the checkout, and two networks of rendered
scenes (``benchmarks/chain_networks.py``); what is absent is left out and said so. Each row is kept
in ``benchmarks/results/chains.json`` as soon as it is measured, and not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from chain_networks import HOME, RECIPES, network_of
from chain_table import PAGE, table
from overlap import CIFAR, IMAGENET, Labelled, cifar, imagenet
from sparsight.chains import Chain, Selection, constant_answer, controls, extract, judge
from sparsight.chains.tasks import Gated
from sparsight.datasets.scenes import SceneDataset
from sparsight.networks import Network
from tables import kept, stages, write_table
from train_embedded import TEST_SEED

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "chains.json"
PARTS = ("pairs", "sizes", "images", "stability")
EACH, HELD, OTHERS = 10, 100, 200
KEEP = 0.05
SIZES = (0.02, 0.1, 0.2, 0.4)
IMAGES = (1, 2, 5, 20)
SEEDS = 3
IMAGENETS = ("resnet18", "resnet50")
GROUPS = {
    "birds": ((7, 24), (80, 100), (127, 146)),
    "dogs": ((151, 268),),
    "reptiles": ((33, 68),),
    "insects": ((300, 326),),
    "monkeys": ((365, 384),),
    "cats": ((281, 293),),
    "hoofed": ((339, 357),),
}


@dataclass(frozen=True)
class Amounts:
    """How much is measured on a network."""

    pairs: int
    few: int  # pairs for the other parts
    steps: int


AMOUNTS = {
    "resnet56": Amounts(45, 2, 150),
    "vit_encoder": Amounts(12, 2, 150),
    "resnet18": Amounts(3, 0, 150),
    "resnet50": Amounts(1, 0, 150),
    "scenes_vgg19": Amounts(12, 2, 150),
    "scenes_vit": Amounts(12, 2, 150),
}

Keep = Callable[[str, str, Any], None]
Progress = Callable[[str, int, int], None]


def scenes(name: str, most: int) -> tuple[Network, list[Labelled]]:
    """One of the networks of scenes, and scenes that it was not trained on."""
    data = SceneDataset(most, seed=TEST_SEED + 50_000)
    rendered = (data.scene(number) for number in range(most))
    return network_of(name), [(scene.picture(), scene.label) for scene in rendered]


CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip


class Pool:
    """Images of a network by class, or by group of classes."""

    def __init__(self, name: str) -> None:
        if name in IMAGENETS:
            self.network, self.pairs = imagenet(name, 1000)
            self.names = list(GROUPS)
            self.groups = [
                [i for low, high in ranges for i in range(low, high + 1)]
                for ranges in GROUPS.values()
            ]
        else:
            self.network, self.pairs = scenes(name, 2000) if name in RECIPES else cifar(name, 5000)
            self.names = list(self.network.labels if name in RECIPES else CIFAR_CLASSES)
            self.groups = [[label] for label in range(len(self.names))]
        self.of_group = [
            [number for number, (_, label) in enumerate(self.pairs) if label in group]
            for group in self.groups
        ]

    def images(self, numbers: Iterable[int]) -> Tensor:
        """Prepare images."""
        return torch.cat([self.network.prepare(self.pairs[number][0]) for number in numbers])


@dataclass(frozen=True)
class Task:
    """Two groups, and numbers of images: to extract from, of the same groups, of others."""

    groups: tuple[int, int]
    given: list[int]
    held: list[int]
    others: list[int]


def sub_task(pool: Pool, groups: tuple[int, int], each: int = EACH, draw: int = 0) -> Task:
    """Draw the images of a sub-task; those held out do not depend on how many are given."""
    generator = torch.Generator().manual_seed(1000 * groups[0] + groups[1] + 10_007 * draw)
    given, held = [], []
    for group in groups:
        numbers = pool.of_group[group]
        order = [numbers[i] for i in torch.randperm(len(numbers), generator=generator)]
        reserved = 2 * EACH if len(numbers) > 100 else EACH
        given += order[:each]
        held += order[reserved : reserved + HELD]
    rest = [n for g, own in enumerate(pool.of_group) if g not in groups for n in own]
    chosen = torch.randperm(len(rest), generator=generator)[:OTHERS]
    return Task(groups, given, held, [rest[i] for i in chosen])


def reader(pool: Pool, groups: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Give each of two groups a logit, and all other classes together one."""
    members = [torch.tensor(pool.groups[group]) for group in groups]

    def read(logits: Tensor) -> Tensor:
        rest = torch.ones(logits.shape[1], dtype=torch.bool)
        for own in members:
            rest[own] = False
        parts = [*(logits[:, own] for own in members), logits[:, rest]]
        return torch.stack([part.logsumexp(1) for part in parts], 1)

    return read if any(len(own) > 1 for own in members) else (lambda logits: logits)


def judged(pool: Pool, gated: Gated, task: Task, steps: int, **options: Any) -> dict[str, Any]:
    """Extract the chain of a sub-task and compare it with everything."""
    given = pool.images(task.given)
    members = [number for group in task.groups for number in pool.groups[group]]
    chain = extract(pool.network, given, classes=members, steps=steps, **options)
    keep = options["keep"]
    contributing = extract(pool.network, given, selector="contribution", keep=keep)
    selections: dict[str, Selection | Chain] = {
        "gates": chain, "contribution, free": contributing,
        **controls(pool.network, chain, given, seed=1000 * task.groups[0] + task.groups[1]),
    }  # fmt: skip
    constant = constant_answer(chain.dense_logits)
    read = reader(pool, task.groups)
    grouped = any(len(pool.groups[group]) > 1 for group in task.groups)
    classes = [0, 1] if grouped else list(task.groups)
    found: dict[str, Any] = {
        "share": chain.share,
        "closed": float((~chain.open).double().mean()) if len(chain.open) else 0.0,
        "kl of gates as learnt": chain.scaled_kl,
    }
    for name, numbers in (("given", task.given), ("held", task.held), ("others", task.others)):
        labels = [pool.pairs[number][1] for number in numbers]
        if grouped:
            of = {c: k for k, group in enumerate(task.groups) for c in pool.groups[group]}
            labels = [of.get(label, 2) for label in labels]
        rows = judge(
            gated, selections, pool.images(numbers), classes, labels=torch.tensor(labels),
            constant=constant, read=read,
        )  # fmt: skip
        found[name] = {key: asdict(row) for key, row in rows.items()}
    return found


def all_pairs(pool: Pool, most: int) -> list[tuple[int, int]]:
    """Pairs of groups, in an order that does not favour any."""
    pairs = list(combinations(range(len(pool.groups)), 2))
    generator = torch.Generator().manual_seed(7)
    return [pairs[i] for i in torch.randperm(len(pairs), generator=generator)[:most]]


def overlap_of(pool: Pool, groups: tuple[int, int], steps: int) -> dict[str, float]:
    """How alike chains are over seeds, over draws of images, and between two sub-tasks."""
    same = pool.images(sub_task(pool, groups).given)
    seeds = [extract(pool.network, same, keep=KEEP, steps=steps, seed=s) for s in range(SEEDS)]
    draws = [
        extract(
            pool.network, pool.images(sub_task(pool, groups, draw=d).given), keep=KEEP, steps=steps
        )
        for d in range(SEEDS)
    ]
    far = tuple((g + 5) % len(pool.groups) for g in groups)
    other = extract(
        pool.network, pool.images(sub_task(pool, (far[0], far[1])).given), keep=KEEP, steps=steps
    )
    among = {
        "seeds": [a.overlap(b) for a, b in combinations(seeds, 2)],
        "images": [a.overlap(b) for a, b in combinations(draws, 2)],
        "another sub-task": [chain.overlap(other) for chain in seeds],
        "chance": [KEEP / (2 - KEEP)],
    }
    return {name: mean(values) for name, values in among.items()}


def needed(name: str) -> Path:
    """Tell what there must be to measure a network."""
    if name in RECIPES:
        return HOME / f"{name}.safetensors"
    return IMAGENET if name in IMAGENETS else CIFAR


def measure(
    name: str, parts: Sequence[str], kept: dict[str, Any], keep: Keep, progress: Progress
) -> None:
    """Measure what is missing of a network."""
    need = needed(name)
    if not need.exists():
        print(f"{name}: left out, as {need} is not there")
        return
    amounts, pool = AMOUNTS[name], Pool(name)
    gated = Gated.of(pool.network, pool.images([0]))
    steps = amounts.steps
    jobs: list[tuple[str, Callable[[], Any]]] = []
    for number, groups in enumerate(all_pairs(pool, amounts.pairs)):
        title = " or ".join(pool.names[g] for g in groups)
        few = number < amounts.few

        def pair(groups: tuple[int, int] = groups, each: int = EACH, **options: Any) -> Any:
            options.setdefault("keep", KEEP)
            return judged(pool, gated, sub_task(pool, groups, each), steps, **options)

        if "pairs" in parts:
            jobs.append((f"pairs|{title}", pair))
        if few and "sizes" in parts:
            jobs += [(f"sizes|{title}|{s}", partial(pair, keep=s)) for s in SIZES]
        if few and "images" in parts:
            jobs += [(f"images|{title}|{n}", partial(pair, each=n)) for n in IMAGES]
        if few and "stability" in parts:
            jobs.append((f"stability|{title}", partial(overlap_of, pool, groups, steps)))
    for number, (title, job) in enumerate(jobs):
        progress(name, number, len(jobs))
        if title not in kept.get(name, {}):
            keep(name, title, job())


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(AMOUNTS), choices=list(AMOUNTS))
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--result", type=Path, default=RESULT, help="File to keep rows in.")
    options = parser.parse_args()
    content, write = kept(options.result, "make chains")
    torch.set_flush_denormal(True)

    def keep(network: str, title: str, value: Any) -> None:
        content.setdefault(network, {})[title] = value
        write()

    with stages() as progress:
        for name in options.networks:
            measure(name, options.parts, content, keep, progress)
    if options.result == RESULT:
        write_table(PAGE, table(content))


if __name__ == "__main__":
    main()
