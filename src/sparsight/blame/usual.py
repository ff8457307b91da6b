"""What is usual for each unit: statistics of saliency, merged, saved and checked when read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparsight.blame.moments import Moments
from sparsight.errors import InputError
from sparsight.networks import Network, Units
from sparsight.storage import library_versions, replacing

__all__ = ["FEWEST", "Statistics", "fingerprint", "read_statistics", "write_statistics"]

FEWEST = 5
"""Values of a unit that a tail needs at least."""

_KIND, _SCHEMA = "saliency statistics", 1


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
    >>> from sparsight.blame import statistics
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
        write_statistics(file, self, {})
        return file

    @classmethod
    def load(cls, file: str | Path) -> Statistics:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If there is no such file, or it holds something else.
        """
        return read_statistics(Path(file))[0]


def _keep_largest(a: Tensor | None, b: Tensor | None, tail: int) -> Tensor | None:
    if a is None or b is None:
        return None
    return torch.cat([a, b]).sort(0, descending=True).values[:tail]


def _below(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else torch.cat([a, b])


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


def write_statistics(file: Path, found: Statistics, identity: dict[str, str]) -> None:
    """Write statistics whole or not at all; ``identity`` tells what an unfinished pass is of."""
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
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            save_file(tensors, draft, {"kind": _KIND, "schema": str(_SCHEMA), **identity})
            draft.chmod(0o644)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {file} ({reason})") from error


def read_statistics(file: Path) -> tuple[Statistics, dict[str, str]]:
    """Read statistics and the identity that they were written with, checked to be whole."""
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
