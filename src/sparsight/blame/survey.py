"""One pass over a data set: the saliency of every unit, streamed, interrupted, gone on with."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from sparsight.blame.moments import Moments
from sparsight.blame.saliency import SaliencyOf
from sparsight.blame.scores import shares_of
from sparsight.blame.usual import (
    FEWEST,
    Statistics,
    fingerprint,
    read_statistics,
    write_statistics,
)
from sparsight.datasets.pixels import bytes_of
from sparsight.errors import InputError, SparsightError
from sparsight.networks import Network, Units, weight_matrices

__all__ = ["Sample", "default_kinds", "statistics"]

Progress = Callable[[str, int, int], None]
Sample = tuple[Image.Image | str | Path | Tensor, int | str]
"""An image and its label, a class by number or name."""

_BATCH = 8
_SAVE_EVERY = 30.0  # seconds between states that an interrupted pass goes on from
_SPLITS = ("correct", "class")


def default_kinds(model: nn.Module) -> tuple[str, ...]:
    """Choose which units to blame: filters, or heads and neurons where convolutions are few.

    Examples
    --------
    >>> from torchvision.models import resnet18
    >>> default_kinds(resnet18())
    ('filter',)
    """
    matrices = weight_matrices(model)
    convolved = sum(m.numel for m in matrices if m.kind == "conv")
    if 2 * convolved >= sum(m.numel for m in matrices):
        return ("filter",)
    found = {group.kind for group in Units.of(model, ["head", "neuron"]).groups}
    return ("head", "neuron") if found == {"head", "neuron"} else ("row",)


def statistics(
    network: Network,
    samples: Iterable[Sample],
    *,
    kinds: Sequence[str] | None = None,
    loss: str = "label",
    split: Sequence[str] = (),
    tail: int = 0,
    profiles: bool = False,
    batch: int = _BATCH,
    state: str | Path | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Measure the saliency of every unit over a data set, in batches.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    samples
        Images with their labels. Sums do not depend on the batch size, but for rounding.
    kinds
        Which units, see :data:`sparsight.networks.KINDS`; :func:`default_kinds` by default.
    loss
        One of :data:`sparsight.blame.LOSSES`.
    split
        ``correct``, ``class``, or both: moments of parts of the data set too.
    tail
        Keep so many of the largest values of each unit, for tail probabilities.
    profiles
        Keep every value, for percentiles and for images that fail for the same reason: 4 bytes for
        each image and unit.
    batch
        Images per pass.
    state
        A file to keep what has been measured in, every 30 seconds; the same call goes on from it,
        with the result that it would have had uninterrupted. Delete it when the result is saved.
    progress
        Called as ``progress("statistics", done, total)``.

    Raises
    ------
    InputError
        No samples, an unusable image or label (named), or a state of something else.
    NetworkError
        A network in training mode.
    NumericalError
        A loss of NaN or infinity.

    References
    ----------
    Levin et al., "Where do models go wrong? Parameter-space saliency maps for explainability",
    NeurIPS 2022.
    """
    chosen = list(samples)
    if not chosen:
        raise InputError("no samples: give images with their labels")
    if batch < 1:
        raise InputError(f"batches of {batch} images: give 1 or more")
    if 0 < tail < FEWEST:
        raise InputError(f"a tail of {tail} values tells nothing: keep {FEWEST} or more, or 0")
    for name in split:
        if name not in _SPLITS:
            raise InputError(f"no split is called {name!r}: choose from {', '.join(_SPLITS)}")
    wanted = default_kinds(network.model) if kinds is None else tuple(kinds)
    measure = SaliencyOf(network, Units.of(network.model, wanted), loss)
    width, file = len(measure.units), None if state is None else Path(state)
    names = tuple(_name(image, number) for number, (image, _) in enumerate(chosen))
    labels = [
        _named(name, network.class_index, label)
        for name, (_, label) in zip(names, chosen, strict=True)
    ]
    found = Statistics(
        network.spec, fingerprint(network.model), wanted, loss, (), (), (), (),
        Moments.none(width), Moments.none(width),
        tail=tail,
        largest=torch.zeros(0, width) if tail else None,
        profiles=torch.zeros(0, width) if profiles else None,
        untouched=tuple(group.title for group in measure.units.groups),
    )  # fmt: skip
    identity = {
        "data": _data_digest(chosen, names, labels),
        "settings": json.dumps([tail, batch, sorted(split)]),
    }
    if file is not None and file.exists():
        found = _resume(file, found, identity)
    kept: list[Tensor] = [] if found.profiles is None else [found.profiles]

    def whole() -> Statistics:
        return replace(found, profiles=torch.cat(kept) if profiles else None)

    saved = time.monotonic()
    for start in range(found.samples, len(chosen), batch):
        if progress is not None:
            progress("statistics", start, len(chosen))
        some = slice(start, start + batch)
        images = torch.cat(
            [
                _named(name, network.prepare, image)
                for name, (image, _) in zip(names[some], chosen[some], strict=True)
            ]
        )
        own = torch.tensor(labels[some], device=images.device)
        measured = _named(f"{names[start]} and after", measure, images, own)
        piece = replace(
            found,
            names=names[some],
            labels=tuple(labels[some]),
            predictions=tuple(measured.logits.argmax(1).tolist()),
            losses=tuple(measured.loss.tolist()),
            raw=Moments.of(measured.saliency),
            normalised=Moments.of(shares_of(measured.saliency)),
            splits=_split(measured.saliency, measured.logits, own, split),
            largest=measured.saliency.float().cpu() if tail else None,
            profiles=None,
            untouched=tuple(measure.untouched),
        )
        if profiles:
            kept.append(measured.saliency.float().cpu())
        found = replace(found, profiles=None).merge(piece)
        if file is not None and time.monotonic() - saved > _SAVE_EVERY:
            saved = time.monotonic()
            write_statistics(file, whole(), identity)
    return whole()


def _named(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """Do something for a sample, and name it in an error."""
    try:
        return work(*arguments)
    except SparsightError as error:
        raise type(error)(f"sample {name.removeprefix('sample ')}: {error}") from error


def _data_digest(samples: Sequence[Sample], names: Sequence[str], labels: Sequence[int]) -> str:
    """Tell one data set from another: by files and their times, or by what is in tensors."""
    digest = hashlib.sha256(json.dumps([names, labels]).encode())
    for image, _ in samples:
        if not isinstance(image, str | Path):
            digest.update(bytes_of(image))
        elif Path(image).is_file():
            facts = Path(image).stat()
            digest.update(f"{facts.st_size} {facts.st_mtime_ns}".encode())
    return digest.hexdigest()


def _name(image: Any, number: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"sample {number}"


def _split(
    saliency: Tensor, logits: Tensor, labels: Tensor, split: Sequence[str]
) -> dict[str, Moments]:
    parts: dict[str, Tensor] = {}
    if "correct" in split:
        right = logits.argmax(1) == labels
        parts |= {"correct": right, "wrong": ~right}
    if "class" in split:
        parts |= {f"class {label}": labels == label for label in labels.unique().tolist()}
    return {name: Moments.of(saliency[part]) for name, part in parts.items() if part.any()}


def _resume(file: Path, fresh: Statistics, identity: dict[str, str]) -> Statistics:
    found, other = read_statistics(file)
    if other != identity or found._identity() != fresh._identity():
        raise InputError(
            f"{file} is the state of another pass (other network, samples or settings): delete it, "
            "or name another file"
        )
    return found
