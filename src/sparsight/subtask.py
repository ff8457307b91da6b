"""The bridge for one sub-task: what chains finds becomes what reports shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sparsight.chains import (
    Chain,
    ChainGraph,
    Selection,
    chain_graph,
    constant_answer,
    controls,
    extract,
    judge,
)
from sparsight.errors import InputError
from sparsight.mistake import weights_kept
from sparsight.networks import Network
from sparsight.reports.blame import BlameReport
from sparsight.reports.chain import ChainAnswer, ChainReport, Drawn, Line, Score
from sparsight.reports.text import percent, plain_number
from sparsight.traces import Trace
from sparsight.traces.result import divergence
from sparsight.visualization import channel, top_examples

__all__ = ["SubTask", "describe_chain", "divide", "follow"]

Progress = Callable[[str, int, int], None]

SETS = ("the images it was extracted from", "other images of these classes", "other classes")
_CROPS = 3
_OTHER = "another answer"


@dataclass(frozen=True)
class SubTask:
    """Images of a sub-task.

    Attributes
    ----------
    classes
        Numbers of its classes.
    given
        Those that a chain is extracted from, with their classes.
    held
        Others of the same classes.
    others
        Images of other classes.
    labelled
        Whether the classes are known, and not the network's own answers.
    """

    classes: tuple[int, ...]
    given: tuple[tuple[Path, int], ...]
    held: tuple[tuple[Path, int], ...]
    others: tuple[tuple[Path, int], ...]
    labelled: bool = True


def divide(
    samples: Sequence[tuple[Path, int]],
    classes: Sequence[int],
    *,
    each: int = 10,
    most: int = 100,
    seed: int = 0,
    name: Callable[[int], str] = str,
) -> SubTask:
    """Draw the images of a sub-task.

    Parameters
    ----------
    samples
        Files and their classes.
    classes
        Of the sub-task.
    each
        Images of each class to extract from.
    most
        Other images to measure on, of these and of other classes.
    seed
        Of the draw.
    name
        Tells what a class is called.

    Raises
    ------
    InputError
        Fewer than two classes, the same twice, or a class without images.

    Examples
    --------
    >>> samples = [(Path(f"{i}.png"), i % 3) for i in range(12)]
    >>> found = divide(samples, [0, 1], each=2)
    >>> len(found.given), len(found.held), len(found.others)
    (4, 4, 4)
    """
    if len(set(classes)) < 2 or len(set(classes)) < len(classes):
        raise InputError("a sub-task tells two or more classes apart: give different ones")
    generator = torch.Generator().manual_seed(seed)
    drawn = [samples[i] for i in torch.randperm(len(samples), generator=generator).tolist()]
    given: list[tuple[Path, int]] = []
    held: list[tuple[Path, int]] = []
    for wanted in classes:
        own = [sample for sample in drawn if sample[1] == wanted]
        if not own:
            raise InputError(f"no image shows {name(wanted)!r}: give images of every class")
        given += own[:each]
        held += own[each:]
    others = [sample for sample in drawn if sample[1] not in classes]
    mixed = [held[i] for i in torch.randperm(len(held), generator=generator).tolist()]
    return SubTask(tuple(classes), tuple(given), tuple(mixed[:most]), tuple(others[:most]))


def describe_chain(
    network: Network,
    chain: Chain,
    task: SubTask,
    *,
    most: int = 6,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> tuple[ChainReport, ChainGraph]:
    """Measure a chain on images of its sub-task and others, and draw it up.

    Parameters
    ----------
    network
        That the chain is of; not changed.
    chain
        The chain.
    task
        Its images.
    most
        Units drawn of each layer.
    seed
        Of the random units that it is compared with.
    progress
        Called with stage, steps done and steps in all.

    Returns
    -------
    tuple
        What a page shows, and the graph.
    """
    given = _prepared(network, task.given)
    gated = chain.gated(network, given)
    free = extract(
        network, given, selector="contribution", keep=max(chain.share, 1 / len(chain.kept)),
        kinds=chain.settings["kinds"],
    )  # fmt: skip
    selections: Mapping[str, Selection | Chain] = {
        "chain": chain,
        **{_NAMES[k]: v for k, v in controls(network, chain, given, seed=seed).items()},
        "those that contribute most": free,
    }
    constant = constant_answer(chain.dense_logits)
    scores = []
    for name, samples in zip(SETS, (task.given, task.held, task.others), strict=True):
        if not samples:
            continue
        found = judge(
            gated, selections, _prepared(network, samples), task.classes,
            labels=torch.tensor([label for _, label in samples]) if task.labelled else None,
            constant=constant,
            progress=progress,
        )  # fmt: skip
        for key, row in found.items():
            shown = {"whole": "everything", "constant": "one constant answer"}.get(key, key)
            scores.append(
                Score(shown, name, row.kl, row.agreement, row.among, row.accuracy, row.into)
            )
    answers = chain.dense_logits.argmax(1).tolist()
    names = _names(network, task.classes)
    groups = [names.get(answer, _OTHER) for answer in answers]
    graph = chain_graph(network, chain, given, groups=groups, most=most)
    crops = _crops(network, graph, [file for file, _ in task.given], progress)
    drawn = _drawn(network, chain, task.classes, graph, crops)
    report = replace(
        drawn,
        scores=scores,
        images=[
            (f"{file.name}, {network.label(label)}", _shown(network, x))
            for (file, label), x in zip(task.given, given, strict=True)
        ],
    )
    return report, graph


def follow(
    network: Network,
    chain: Chain,
    image: Image.Image | str | Path | Tensor,
    trace: Trace,
    *,
    blamed: BlameReport | None = None,
    most: int = 6,
) -> ChainAnswer:
    """Run one image through a chain.

    Parameters
    ----------
    network
        That the chain is of; not changed.
    chain
        The chain.
    image
        As :meth:`sparsight.networks.Network.prepare` takes it.
    trace
        Of the network for the image: which of the chain's weights it kept is told.
    blamed
        Who is to blame for the answer: how many of these are in the chain is told.
    most
        Units drawn of each layer.

    Raises
    ------
    NetworkError
        If the chain is of another network.
    """
    x = network.prepare(image)
    gated = chain.gated(network, x)
    whole = network.logits(x)
    units, branches = (gate.to(x.device) for gate in chain.gates())
    alone = gated.answers(x, units, branches, 1)
    before, after = (logits[0].double().softmax(0) for logits in (whole, alone))
    answers = int(before.argmax()), int(after.argmax())
    told = dict.fromkeys([*answers, *chain.settings["classes"]])
    graph = chain_graph(network, chain, x, groups=[network.label(answers[0])], most=most)
    crops = _crops(network, graph, [image], lambda stage, done, total: None)
    weights = weights_kept(network, trace, gated.units)
    count = None
    if blamed is not None:
        layers, kept = {title for title, _ in chain.layers}, set(chain.units())
        able = [(unit.layer, unit.number) for unit in blamed.units if unit.layer in layers]
        count = sum(unit in kept for unit in able), len(able), chain.share
    return ChainAnswer(
        _drawn(network, chain, chain.settings["classes"], graph, crops),
        [(network.label(c), float(before[c]), float(after[c])) for c in told],
        float(divergence(whole, alone)),
        answers[0] == answers[1],
        (float(weights[chain.kept].mean()), float(weights.mean())),
        count,
    )


def _names(network: Network, classes: Sequence[int]) -> dict[int, str]:
    """Name classes, with their numbers where two are called the same or as nothing else."""
    labels = {number: network.label(number) for number in classes}
    taken = [*labels.values(), _OTHER]
    return {
        number: name if taken.count(name) == 1 else f"{name} ({number})"
        for number, name in labels.items()
    }


def _drawn(
    network: Network,
    chain: Chain,
    classes: Sequence[int],
    graph: ChainGraph,
    crops: Mapping[int, list[NDArray[np.floating[Any]]]],
) -> ChainReport:
    """Say what a chain is, and draw it."""
    nodes = [
        Drawn(node.layer, node.title, node.number, node.weights, crops.get(number, ()), node.direct)
        for number, node in enumerate(graph.nodes)
    ]
    notes = []
    hidden = sum(kept for _, kept, _ in graph.layers) - len(nodes)
    if hidden:
        notes.append(f"{hidden} units that contribute less are left out.")
    return ChainReport(
        classes=[network.label(number) for number in classes],
        network=network.spec,
        kept=int(chain.kept.sum()),
        units=len(chain.kept),
        closed=int((~chain.open).sum()),
        branches=len(chain.open),
        layers=chain.counts(),
        groups=graph.groups,
        columns=[title for title, _, _ in graph.layers],
        nodes=nodes,
        edges=[Line(edge.source, edge.target, edge.weights) for edge in graph.edges],
        facts=_facts(chain),
        notes=notes,
    )


_NAMES = {
    "random": "random, as many in each layer",
    "magnitude": "heaviest, as many in each layer",
    "contribution": "most contributing, as many in each layer",
    "inverted": "everything else",
}


def _prepared(network: Network, samples: Sequence[tuple[Path, int]]) -> Tensor:
    return torch.cat([network.prepare(file) for file, _ in samples])


def _shown(network: Network, x: Tensor) -> NDArray[np.floating[Any]]:
    unit = network.preprocessing.denormalize(x.float().cpu()).clamp(0, 1)
    found: NDArray[np.floating[Any]] = unit.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return found


def _crops(
    network: Network,
    graph: ChainGraph,
    images: Sequence[Image.Image | str | Path | Tensor],
    progress: Progress,
) -> dict[int, list[NDArray[np.floating[Any]]]]:
    """Find where in the images each drawn unit answers most; heads have no such place."""
    searched = {
        number: channel(node.title.removesuffix(" neurons"), node.number)
        for number, node in enumerate(graph.nodes)
        if not node.title.endswith(" heads")
    }
    if not searched:
        return {}
    found = top_examples(network, list(searched.values()), images, count=_CROPS, progress=progress)
    return {
        number: [np.asarray(one.picture().convert("RGB"), np.float32) / 255 for one in examples]
        for number, examples in zip(searched, found, strict=True)
    }


def _facts(chain: Chain) -> list[tuple[str, str]]:
    settings = chain.settings
    facts = [
        ("selector", str(settings["selector"])),
        ("images", str(len(chain.dense_logits))),
        ("divergence on them", f"{plain_number(chain.kl)} nats"),
        ("the same with gates as learnt", f"{plain_number(chain.scaled_kl)} nats"),
        ("seed", str(settings["seed"])),
    ]
    if len(chain.losses):
        facts += [
            ("steps", f"{len(chain.losses)}, rate {settings['rate']:g}"),
            ("temperature", " to ".join(f"{t:g}" for t in settings["temperature"])),
            ("random views of each image", str(settings["views"])),
        ]
    if settings["keep"] is None:
        facts += [
            ("penalty", f"{settings['penalty']:g}, branches {settings['layer_penalty']:g}"),
            ("threshold", percent(settings["threshold"])),
        ]
    return facts
