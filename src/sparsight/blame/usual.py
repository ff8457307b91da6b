"""What is usual for each unit: saliency over a whole data set, streamed, saved, merged."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparsight.blame.moments import Moments
from sparsight.blame.saliency import SaliencyOf
from sparsight.errors import InputError, SparsightError
from sparsight.networks import Network, Units, weight_matrices
from sparsight.storage import library_versions

__all__ = ["Sample", "Statistics", "default_kinds", "fingerprint", "statistics"]

Progress = Callable[[str, int, int], None]
Sample = tuple[Image.Image | str | Path | Tensor, int | str]
"""An image and its label, a class by number or name."""

FEWEST = 5
"""Values of a unit that a tail needs at least."""

_KIND, _SCHEMA = "saliency statistics", 1
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


def fingerprint(model: nn.Module) -> str:
    """Digest of all parameters and buffers with their names."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Statistics:
    """Saliency of the units of a network over a data set.

    Attributes
    ----------
    network, fingerprint
        Which network: its name, and a digest of its weights.
    kinds, loss
        Which units, and what gradients are of.
    names, labels, predictions, losses
        Of each sample, in order.
    raw
        Moments of the saliency.
    normalised
        Moments of the saliency divided by its mean over all units of the same image: a unit's
        share, whatever the loss.
    splits
        Moments of the raw saliency of ``correct`` and ``wrong`` images, and of each ``class N``,
        where asked for.
    tail, largest
        How many of the largest saliencies of each unit are kept, and those, in decreasing order,
        ``(kept, units)``, float32.
    profiles
        All of them, ``(samples, units)``, float32, where kept.
    untouched
        Titles of groups that no gradient reached.

    Examples
    --------
    >>> import torch, sparsight
    >>> network = sparsight.load("embedded")
    >>> images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> found = statistics(network, [(image, 1) for image in images])
    >>> found.samples, found.raw.mean.shape == (len(found.units(network)),)
    (6, True)
    """

    network: str
    fingerprint: str
    kinds: tuple[str, ...]
    loss: str
    names: tuple[str, ...]
    labels: tuple[int, ...]
    predictions: tuple[int, ...]
    losses: tuple[float, ...]
    raw: Moments
    normalised: Moments
    splits: dict[str, Moments] = field(default_factory=dict)
    tail: int = 0
    largest: Tensor | None = None
    profiles: Tensor | None = None
    untouched: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=library_versions)

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.names)

    @property
    def correct(self) -> int:
        """How many are answered as labelled."""
        return sum(a == b for a, b in zip(self.labels, self.predictions, strict=True))

    def units(self, network: Network) -> Units:
        """Return the units that the numbers are of, once it is sure that the network is the same.

        Raises
        ------
        InputError
            If the network is another one.
        """
        if fingerprint(network.model) != self.fingerprint:
            raise InputError(
                f"these statistics are of {self.network!r} with other weights than "
                f"{network.spec!r}: make them anew (sparsight blame-stats)"
            )
        return Units.of(network.model, self.kinds)

    def merge(self, other: Statistics) -> Statistics:
        """Put together what two workers measured on parts of a data set.

        Raises
        ------
        InputError
            If they are of different networks, units or losses, or keep different things.
        """
        mine, theirs = self._identity(), other._identity()
        if mine != theirs:
            what = next(key for key in mine if mine[key] != theirs[key])
            raise InputError(
                f"these statistics differ in {what} ({mine[what]} and {theirs[what]}): merge "
                "parts that were made with the same settings"
            )
        splits = dict(self.splits)
        for name, moments in other.splits.items():
            splits[name] = splits[name].merge(moments) if name in splits else moments
        return replace(
            self,
            names=self.names + other.names,
            labels=self.labels + other.labels,
            predictions=self.predictions + other.predictions,
            losses=self.losses + other.losses,
            raw=self.raw.merge(other.raw),
            normalised=self.normalised.merge(other.normalised),
            splits=splits,
            largest=_keep_largest(self.largest, other.largest, self.tail),
            profiles=_below(self.profiles, other.profiles),
            untouched=tuple(name for name in self.untouched if name in other.untouched),
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "network": self.fingerprint,
            "kinds": self.kinds,
            "loss": self.loss,
            "tail": self.tail,
            "profiles": self.profiles is not None,
        }

    def save(self, file: str | Path, *, overwrite: bool = False) -> Path:
        """Write one safetensors file, whole or not at all.

        Raises
        ------
        InputError
            If the file is there already, or cannot be written.
        """
        file = Path(file)
        if file.exists() and not overwrite:
            raise InputError(
                f"{file} is there already: choose another file, or replace it with overwrite=True "
                "(--overwrite)"
            )
        _write(file, self, {})
        return file

    @classmethod
    def load(cls, file: str | Path) -> Statistics:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If there is no such file, or it holds something else.
        """
        return _read(Path(file))[0]


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
            normalised=Moments.of(_shares(measured.saliency)),
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
            _write(file, replace(found, profiles=torch.cat(kept) if profiles else None), identity)
    return replace(found, profiles=torch.cat(kept) if profiles else None)


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
        if isinstance(image, Tensor):
            values = image.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(values.numpy().tobytes())
        elif isinstance(image, Image.Image):
            digest.update(image.tobytes())
        elif Path(image).is_file():
            facts = Path(image).stat()
            digest.update(f"{facts.st_size} {facts.st_mtime_ns}".encode())
    return digest.hexdigest()


def _name(image: Any, number: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"sample {number}"


def _shares(saliency: Tensor) -> Tensor:
    """Divide by the mean over all units, image by image; nothing stays nothing."""
    mean = saliency.mean(1, keepdim=True)
    return torch.where(mean > 0, saliency / mean, 0.0)


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


def _keep_largest(a: Tensor | None, b: Tensor | None, tail: int) -> Tensor | None:
    if a is None or b is None:
        return None
    return torch.cat([a, b]).sort(0, descending=True).values[:tail]


def _below(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else torch.cat([a, b])


def _resume(file: Path, fresh: Statistics, identity: dict[str, str]) -> Statistics:
    found, other = _read(file)
    if other != identity or found._identity() != fresh._identity():
        raise InputError(
            f"{file} is the state of another pass (other network, samples or settings): delete it, "
            "or name another file"
        )
    return found


def _check(found: Statistics) -> None:
    """Raise a ValueError where the parts of statistics do not belong together."""
    samples, width = found.raw.count, len(found.raw.mean)
    text = (found.network, found.fingerprint, found.loss, *found.kinds, *found.names)
    counts = (*found.labels, *found.predictions, found.tail)
    if not all(isinstance(value, str) for value in (*text, *found.untouched)):
        raise ValueError("a name is no text")
    if not all(isinstance(value, int) for value in counts):
        raise ValueError("a class is no number")
    if not all(isinstance(value, float) for value in found.losses):
        raise ValueError("a loss is no number")
    each = (found.names, found.labels, found.predictions, found.losses)
    if any(len(values) != samples for values in each) or found.normalised.count != samples:
        raise ValueError(f"not all of it is of {samples} samples")
    moments = (found.raw, found.normalised, *found.splits.values())
    tensors = [getattr(m, name) for m in moments for name in ("mean", "m2", "m3", "m4")]
    if any(tensor.shape != (width,) for tensor in tensors):
        raise ValueError(f"not all of it is of {width} units")
    kept = ((found.largest, min(found.tail, samples)), (found.profiles, samples))
    for tensor, rows in kept:
        if tensor is not None:
            tensors.append(tensor)
            if tensor.shape != (rows, width):
                raise ValueError(f"values of shape {tuple(tensor.shape)}, not {(rows, width)}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise ValueError("it holds NaN or infinite values")


def _write(file: Path, found: Statistics, identity: dict[str, str]) -> None:
    tensors = found.raw.tensors("raw") | found.normalised.tensors("normalised")
    for name, moments in found.splits.items():
        tensors |= moments.tensors(f"split {name}")
    for name in ("largest", "profiles"):
        value = getattr(found, name)
        if value is not None:
            tensors[name] = value
    plain = ("network", "fingerprint", "kinds", "loss", "tail", "names", "labels", "predictions",
             "losses", "untouched", "versions")  # fmt: skip
    content = {name: getattr(found, name) for name in plain}
    # Not as metadata, which may not exceed 100 MB.
    tensors["about"] = torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)
    draft = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, draft, {"kind": _KIND, "schema": str(_SCHEMA), **identity})
        draft.chmod(0o644)
        os.replace(draft, file)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {file} ({reason})") from error


def _read(file: Path) -> tuple[Statistics, dict[str, str]]:
    if not file.is_file():
        raise InputError(f"no such file of statistics: {file}")
    try:
        with safe_open(file, "pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        if metadata.pop("kind", None) != _KIND or "about" not in tensors:
            raise InputError(f"{file} holds no statistics: make them with sparsight blame-stats")
        schema = metadata.pop("schema", None)
        if schema != str(_SCHEMA):
            raise InputError(
                f"{file} has schema {schema}, this version reads {_SCHEMA}: make it again"
            )
        content = json.loads(tensors.pop("about").numpy().tobytes())
        names = {key.rpartition(".")[0] for key in tensors if key.startswith("split ")}
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content.items()
        }
        found = Statistics(
            **plain,
            raw=Moments.read(tensors, "raw"),
            normalised=Moments.read(tensors, "normalised"),
            splits={name.removeprefix("split "): Moments.read(tensors, name) for name in names},
            largest=tensors.get("largest"),
            profiles=tensors.get("profiles"),
        )
        _check(found)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read as statistics ({error}): make it with sparsight blame-stats"
        ) from error
    return found, metadata
