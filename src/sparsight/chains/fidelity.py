"""How true a chain is to its network on any images, beside what chance or habit would give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.chains.extract import extract
from sparsight.chains.result import Chain
from sparsight.chains.tasks import Gated
from sparsight.errors import InputError
from sparsight.networks import Network
from sparsight.traces.result import divergence

__all__ = [
    "CONTROLS",
    "Fidelity",
    "Selection",
    "constant_answer",
    "controls",
    "fidelity",
    "judge",
]

_OTHER = 1_000_003  # a random control is not the random chain of the same seed

CONTROLS = ("random", "magnitude", "contribution", "inverted")
"""What a chain is compared with: as many units in every layer, drawn, heavy or contributing; and
everything that it leaves out."""


@dataclass(frozen=True, eq=False)
class Selection:
    """Units and branches: ``(units,)`` and ``(branches,)``, bool."""

    kept: Tensor
    open: Tensor


@dataclass(frozen=True)
class Fidelity:
    """How true answers are to a network's.

    Attributes
    ----------
    images
        How many.
    kl
        Mean KL divergence from the network's answers, in nats.
    agreement
        Share of images with the network's answer.
    among
        The same if only the classes of the sub-task can be answered.
    accuracy
        Share of images with the right answer; none without labels.
    into
        Share of images that are answered with a class of the sub-task: on images of other classes,
        those that collapse onto it.
    """

    images: int
    kl: float
    agreement: float
    among: float
    accuracy: float | None
    into: float


def fidelity(
    answers: Tensor, logits: Tensor, classes: Sequence[int], labels: Tensor | None = None
) -> Fidelity:
    """Compare answers ``(N, classes)`` with a network's.

    Parameters
    ----------
    answers, logits
        Of the network, and of what is judged.
    classes
        Of the sub-task.
    labels
        ``(N,)``.

    Raises
    ------
    InputError
        If there are no images or classes, or a class out of range.

    Examples
    --------
    >>> import torch
    >>> full, chain = torch.tensor([[3.0, 2.0, 9.0]]), torch.tensor([[3.0, 1.0, 0.0]])
    >>> found = fidelity(full, chain, [0, 1])
    >>> found.agreement, found.among, found.into
    (0.0, 1.0, 1.0)
    """
    if not len(answers) or not len(classes):
        raise InputError("nothing to compare: give an image and a class at least")
    if not all(0 <= number < answers.shape[1] for number in classes):
        raise InputError(f"classes {list(classes)}: give numbers from 0 to {answers.shape[1] - 1}")
    own = torch.tensor(sorted(set(classes)), device=answers.device)
    first, second = answers.argmax(1), logits.argmax(1)
    same = answers[:, own].argmax(1) == logits[:, own].argmax(1)
    right = None if labels is None else float((second == labels).double().mean())
    return Fidelity(
        len(answers),
        float(divergence(answers, logits).mean()),
        float((first == second).double().mean()),
        float(same.double().mean()),
        right,
        float(torch.isin(second, own).double().mean()),
    )


def constant_answer(answers: Tensor) -> Tensor:
    """Make of answers ``(N, classes)`` the one that is best for all of them, as logits.

    Examples
    --------
    >>> import torch
    >>> constant_answer(torch.tensor([[0.0, 9.0], [9.0, 0.0]])).softmax(0)
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    return answers.double().softmax(1).mean(0).clamp_min(1e-30).log()


def controls(
    network: Network, chain: Chain, images: Tensor, *, seed: int = 0
) -> dict[str, Selection]:
    """Make up what a chain is compared with.

    Parameters
    ----------
    network
        That the chain is of; not changed.
    chain
        The chain.
    images
        ``(N, C, H, W)``, normalised: those that the chain was extracted from.
    seed
        Of the random units.

    Returns
    -------
    dict
        By name of :data:`CONTROLS`. Branches are open as in the chain, in ``inverted`` all are.

    Raises
    ------
    NetworkError
        If the chain is of another network.
    """
    if not len(images):
        raise InputError("no images: controls need those that the chain was extracted from")
    chain.gated(network, images)
    sizes = [count for _, count in chain.layers]
    kept = [int(own.sum()) for own in chain.kept.split(sizes)]
    found = {}
    for name in CONTROLS[:-1]:
        kinds = chain.settings["kinds"]
        scores = extract(
            network, images, selector=name, keep=1.0, kinds=kinds, seed=seed + _OTHER
        ).scores
        parts = []
        for own, count in zip(scores.split(sizes), kept, strict=True):
            chosen = torch.zeros(len(own), dtype=torch.bool)
            chosen[own.argsort(descending=True, stable=True)[:count]] = True
            parts.append(chosen)
        found[name] = Selection(torch.cat(parts), chain.open)
    found["inverted"] = Selection(~chain.kept, torch.ones_like(chain.open))
    return found


def judge(
    gated: Gated,
    selections: Mapping[str, Selection | Chain],
    images: Tensor,
    classes: Sequence[int],
    *,
    labels: Tensor | None = None,
    constant: Tensor | None = None,
    read: Callable[[Tensor], Tensor] = lambda logits: logits,
    chunk: int = 64,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, Fidelity]:
    """Measure how true chains and controls are to their network.

    Parameters
    ----------
    gated
        The network, see :meth:`Chain.gated`.
    selections
        Chains, and what they are compared with, by name.
    images, labels
        ``(N, C, H, W)``, normalised, and ``(N,)``.
    classes
        Of the sub-task.
    constant
        Logits ``(classes,)`` to give to every image, as ``constant``.
    read
        Makes of logits what is compared, for example one logit for a group of classes; ``classes``
        and ``labels`` are of what it gives.
    chunk
        Images at a time.
    progress
        Called with stage, selections done and selections in all.

    Returns
    -------
    dict
        :class:`Fidelity` by name; ``whole`` is the network itself.

    Raises
    ------
    InputError
        No images, no classes, or classes out of range.
    NetworkError
        If a chain is of another network.
    """
    if not len(images) or chunk < 1:
        raise InputError(
            f"{len(images)} images, {chunk} at a time, cannot be judged by: give 1 or more"
        )
    if labels is not None and len(labels) != len(images):
        raise InputError(f"{len(labels)} labels for {len(images)} images: give each image its own")
    sizes = len(gated.units), len(gated.branches)
    for name, selection in selections.items():
        if isinstance(selection, Chain):
            selection.require_of(gated)
        own = len(selection.kept), len(selection.open)
        if own != sizes:
            raise InputError(
                f"{name} selects from {own[0]} units and {own[1]} branches, the network has "
                f"{sizes[0]} and {sizes[1]}: select from those"
            )
    network = gated.network
    answers = read(torch.cat([network.logits(part) for part in images.split(chunk)]))
    given = None if labels is None else labels.to(answers.device)
    found = {"whole": fidelity(answers, answers, classes, given)}
    for number, (name, selection) in enumerate(selections.items()):
        progress("fidelity", number, len(selections))
        kept = selection.kept.to(images.device, torch.float32)
        opened = selection.open.to(images.device, torch.float32)
        every = len(images), -1
        logits = gated.answers(images, kept.expand(every), opened.expand(every), chunk)
        found[name] = fidelity(answers, read(logits), classes, given)
    progress("fidelity", len(selections), len(selections))
    if constant is not None:
        logits = read(constant.to(answers)[None]).expand(len(answers), -1)
        found["constant"] = fidelity(answers, logits, classes, given)
    return found
