"""Without optimisation: the places in real images that a neuron answers to most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sparsight.errors import InputError
from sparsight.networks import Network
from sparsight.visualization.layers import Layer, list_layers
from sparsight.visualization.objectives import Objective, Term
from sparsight.visualization.watch import Watch

__all__ = ["Example", "receptive_field", "top_examples"]

Progress = Callable[[str, int, int], None]
Box = tuple[int, int, int, int]
_KINDS = ("channel", "neuron", "logit")


@dataclass(frozen=True, eq=False)
class Example:
    """One image that a neuron answers to.

    Attributes
    ----------
    source
        Which image: its path, or its number.
    score
        What the neuron says; for a channel, at the place where it says most.
    place
        Number of that place; 0 for a class.
    box
        ``(left, top, right, bottom)`` in the input frame: what the neuron looks at there, see
        :func:`receptive_field`.
    image
        ``(C, H, W)`` in [0, 1]: the whole input frame.
    """

    source: str
    score: float
    place: int
    box: Box
    image: Tensor

    def picture(self) -> Image.Image:
        """Return what is in the box."""
        left, top, right, bottom = self.box
        pixels = (self.image[:, top:bottom, left:right] * 255).round().byte()
        shown = pixels.permute(1, 2, 0).numpy()
        return Image.fromarray(shown if shown.shape[2] == 3 else shown[:, :, 0])


def receptive_field(gradient: Tensor, share: float = 0.9) -> Box:
    """Return the box that holds a share of a gradient's energy: the effective receptive field.

    After Luo et al., *Understanding the Effective Receptive Field*, NeurIPS 2016. Rows and columns
    are cut by the same share from both ends.

    Parameters
    ----------
    gradient
        Of a neuron by the image, ``(C, H, W)``.
    share
        Of the squared gradient, in each direction, in (0, 1].

    Returns
    -------
    tuple
        ``(left, top, right, bottom)``; the whole frame if the gradient is nothing.

    Raises
    ------
    InputError
        If the share is out of range.

    Examples
    --------
    >>> gradient = torch.zeros(3, 8, 8)
    >>> gradient[:, 2:5, 6] = 1
    >>> receptive_field(gradient, 1.0)
    (6, 2, 7, 5)
    """
    if not 0 < share <= 1:
        raise InputError(f"share {share} of a receptive field must lie in (0, 1]: 0.9 is usual")
    energy = gradient.detach().double().square().sum(0)
    if not energy.any():
        return 0, 0, energy.shape[1], energy.shape[0]
    (left, right), (top, bottom) = (_ends(energy.sum(axis), share) for axis in (0, 1))
    return left, top, right, bottom


def _ends(energy: Tensor, share: float) -> tuple[int, int]:
    cut = (1 - share) / 2 * energy.sum()
    inner = (energy.cumsum(0) > cut) & (energy.flip(0).cumsum(0).flip(0) > cut)
    places = inner.nonzero()[:, 0]
    return int(places[0]), int(places[-1]) + 1


def top_examples(
    network: Network,
    objectives: Objective | Sequence[Objective],
    images: Iterable[Image.Image | str | Path | Tensor],
    *,
    count: int = 9,
    share: float = 0.9,
    chunk: int = 32,
    progress: Progress | None = None,
) -> list[list[Example]]:
    """Find the images, and the places in them, that neurons answer to most.

    One pass over the images serves all objectives, and only the best are held.

    Parameters
    ----------
    network
        In evaluation mode; not changed. For what a trace answers to, give
        ``trace.network(network)``.
    objectives
        Single channels, neurons or classes.
    images
        As :meth:`sparsight.networks.network.Network.prepare` takes them.
    count
        How many examples for each objective; fewer if there are fewer images.
    share
        Of the gradient's energy that a box holds.
    chunk
        Images per pass.
    progress
        Called as ``progress("searching", done, total)`` where the number of images is known.

    Returns
    -------
    list of list of Example
        By objective, the best first; of equal ones the earlier.

    Raises
    ------
    InputError
        No image, an objective of another kind or that the network does not have.

    Examples
    --------
    >>> from sparsight.datasets.scenes import render_scene
    >>> from sparsight.networks import load
    >>> from sparsight.visualization import channel
    >>> scenes = [render_scene(label, seed=label).picture() for label in range(4)]
    >>> (found,) = top_examples(load("embedded"), channel("stage3.1", 7), scenes, count=2)
    >>> [example.source for example in found], found[0].score >= found[1].score
    (['image 1', 'image 2'], True)
    """
    asked = [objectives] if isinstance(objectives, Objective) else list(objectives)
    if count < 1 or chunk < 1:
        raise InputError(f"count {count} and chunk {chunk} must be 1 or more: 9 and 32 are usual")
    terms = [_single(one) for one in asked]
    known = list_layers(network)
    layers = [term.check(network, known) for term in terms]
    watch = Watch(network, [term.layer for term in terms])
    best: list[list[Example]] = [[] for _ in terms]
    total = len(images) if isinstance(images, Sequence) else 0
    done = 0
    waiting: list[tuple[str, Tensor]] = []

    def settle() -> None:
        x = torch.cat([frame for _, frame in waiting])
        with torch.no_grad():
            seen = watch(x)
        for number, (term, layer) in enumerate(zip(terms, layers, strict=True)):
            scores, places = _most(seen[term.layer], term, layer)
            for row, (source, frame) in enumerate(waiting):
                found = Example(source, float(scores[row]), int(places[row]), (0, 0, 0, 0), frame)
                best[number].append(found)
            best[number].sort(key=lambda example: -example.score)
            del best[number][count:]
        waiting.clear()

    for number, image in enumerate(images):
        source = str(image) if isinstance(image, str | Path) else f"image {number}"
        waiting.append((source, network.prepare(image)))
        done += 1
        if len(waiting) == chunk:
            settle()
            if progress is not None and total:
                progress("searching", done, total)
    if waiting:
        settle()
    if not done:
        raise InputError("no image to search: name a folder that holds some")
    return [
        [_boxed(network, watch, example, term, layer, share) for example in found]
        for found, term, layer in zip(best, terms, layers, strict=True)
    ]


def _single(objective: Objective) -> Term:
    kinds = [term.kind for term in objective.terms]
    if len(kinds) != 1 or kinds[0] not in _KINDS or objective.terms[0].network is not None:
        raise InputError(
            f"examples of {objective.describe() or 'nothing'!r} cannot be searched: give one "
            "channel, neuron or class"
        )
    return replace(objective.terms[0], weight=1.0)


def _most(output: Tensor, term: Term, known: Layer | None) -> tuple[Tensor, Tensor]:
    """Return each image's score and the place of it."""
    if known is None:
        scores = output[:, term.index]
        return scores, torch.zeros(len(scores), dtype=torch.long)
    units = known.first(output)[:, term.index]
    if term.kind == "neuron":
        place = known.centre if term.place is None else term.place
        return units[:, place], torch.full((len(units),), place)
    found = units.max(1)
    return found.values, found.indices


def _boxed(
    network: Network, watch: Watch, example: Example, term: Term, known: Layer | None, share: float
) -> Example:
    x = example.image.detach().clone().requires_grad_()
    output = watch(x)[term.layer]
    unit = output[0, term.index] if known is None else known.first(output)[0, term.index]
    (gradient,) = torch.autograd.grad(unit if known is None else unit[example.place], x)
    return replace(
        example,
        box=receptive_field(gradient[0], share),
        image=network.preprocessing.denormalize(x.detach())[0].float().cpu(),
    )
