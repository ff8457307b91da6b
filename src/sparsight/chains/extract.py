"""From a few images to the chain that answers them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sparsight.chains.result import Chain
from sparsight.chains.selectors import choose_selector, choose_units
from sparsight.chains.settings import ChainSettings
from sparsight.chains.tasks import Tasks
from sparsight.errors import InputError
from sparsight.networks import Network
from sparsight.storage import library_versions

__all__ = ["extract", "extract_many"]

Images = Tensor | Sequence[str | Path | Image.Image | Tensor]


def extract(
    network: Network,
    images: Images,
    *,
    classes: Sequence[int] | None = None,
    selector: str = "gates",
    settings: ChainSettings | None = None,
    kinds: Iterable[str] | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    **options: Any,
) -> Chain:
    """Extract the chain of a sub-task.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    images
        Of the sub-task: files, PIL images, or normalised tensors ``(N, C, H, W)``. Ten of each
        class are enough, five too few, according to the paper.
    classes
        That the sub-task tells apart; by default those that the network answers.
    selector
        One of :data:`sparsight.chains.SELECTORS`.
    settings
        How; the paper's are :data:`sparsight.chains.PUBLISHED`.
    kinds
        Of units; filters, attention heads and neurons by default.
    progress
        Called with stage, steps done and steps in all.
    **options
        Fields of :class:`ChainSettings` to replace, such as ``keep`` and ``steps``.

    Returns
    -------
    Chain

    Raises
    ------
    InputError
        No images, unreadable ones, no such selector, or settings out of range.
    UnsupportedError
        A network without units to gate, or one that mixes the images of a batch.
    NumericalError
        If the loss becomes NaN.

    Examples
    --------
    >>> import torch, sparsight
    >>> network = sparsight.load("embedded")
    >>> chain = extract(network, torch.rand(4, 3, 64, 64), keep=0.25, steps=4, views=0)
    >>> round(chain.share, 2)
    0.25
    """
    chains = extract_many(
        network, [images], classes=[classes], selector=selector, settings=settings, kinds=kinds,
        progress=progress, **options,
    )  # fmt: skip
    return chains[0]


def extract_many(
    network: Network,
    tasks: Sequence[Images],
    *,
    classes: Sequence[Sequence[int] | None] | None = None,
    selector: str = "gates",
    settings: ChainSettings | None = None,
    kinds: Iterable[str] | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    **options: Any,
) -> list[Chain]:
    """Extract chains of several sub-tasks in one batch: gates of their own, weights shared.

    Each chain is what :func:`extract` finds alone, but for rounding.

    Parameters
    ----------
    network, selector, settings, kinds, progress, options
        See :func:`extract`.
    tasks, classes
        Images, and classes, of each sub-task.
    """
    settings = _options(settings or ChainSettings(), options)
    choose = choose_selector(selector)
    wanted = None if kinds is None else list(kinds)
    start = time.perf_counter()
    if classes is not None and len(classes) != len(tasks):
        raise InputError(
            f"{len(classes)} lists of classes for {len(tasks)} sub-tasks: give each one"
        )
    prepared = [_prepare(network, images) for images in tasks]
    together = Tasks.of(network, prepared, wanted, classes)
    scores = choose(together, settings, progress)
    if settings.keep is None and not scores.gates:
        raise InputError(f"selector {selector!r} learns no gates: give the share of units to keep")
    kept, branches = choose_units(together.gated, scores, settings)
    gates = kept.float(), branches.float()
    answers = together.answered(*gates, settings.chunk)
    scaled = answers
    if scores.gates:
        scaled = together.answered(scores.units.clamp(0, 1), scores.branches, settings.chunk)
    seconds, versions = time.perf_counter() - start, library_versions()
    found = []
    for number in range(len(together)):
        own = together.task == number
        losses = scores.losses[number]
        told = together.among[number].nonzero()[:, 0].tolist()
        shaped = {
            "selector": selector, "kinds": wanted, "classes": told, **settings.describe()
        }  # fmt: skip
        found.append(
            Chain(
                together.gated.layers, kept[number].cpu(), scores.units[number].float().cpu(),
                together.gated.names, branches[number].cpu(), together.answers[own].cpu(),
                answers[own].cpu(), scaled[own].cpu(), losses[~losses.isnan()], shaped, versions,
                seconds,
            )
        )  # fmt: skip
    return found


def _options(settings: ChainSettings, options: dict[str, Any]) -> ChainSettings:
    unknown = sorted(set(options) - set(settings.describe()))
    if unknown:
        known = ", ".join(settings.describe())
        raise InputError(f"chains have no option {unknown[0]!r}: choose from {known}")
    return replace(settings, **options)


def _prepare(network: Network, images: Images) -> Tensor:
    """Bring the images of a sub-task into the network's input frame."""
    if isinstance(images, str | Path | Image.Image):
        raise InputError("one image is no list of images: give a list, also of one")
    prepared = [network.prepare(image) for image in images]
    return torch.cat(prepared) if prepared else torch.zeros(0)
