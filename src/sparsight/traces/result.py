"""A trace: the weights that matter for one sample, and how far to trust them."""

from __future__ import annotations

import copy
import hashlib
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from sparsight.errors import InputError, NetworkError
from sparsight.networks import Network, checksum, overlay
from sparsight.networks.outputs import LogitsOnly
from sparsight.storage import atomic_folder, read_manifest, write_manifest
from sparsight.traces.layers import LayerTrace
from sparsight.traces.packing import pack_all, unpack_all

__all__ = ["Trace", "against_rest", "divergence"]

_SCHEMA = 2
_TRACED = ("dtype", "checksum", "rest")
_MANIFEST = "trace.json"
_TENSORS = "trace.safetensors"
# What reading a manifest and tensors can meet that were cut, edited or forged.
_DAMAGE = (
    *(SafetensorError, OSError, zlib.error, KeyError, TypeError, ValueError, RuntimeError),
    *(AttributeError, OverflowError, MemoryError),
)


def divergence(dense: Tensor, traced: Tensor) -> Tensor:
    """KL divergence of traced from dense answers in nats, from logits ``(..., classes)``.

    Examples
    --------
    >>> import torch
    >>> logits = torch.tensor([0.0, 1.0])
    >>> float(divergence(logits, logits + 3))
    0.0
    """
    before, after = dense.double().log_softmax(-1), traced.double().log_softmax(-1)
    share = before.exp()
    lost = torch.where(share == 0, 0.0, share * (before - after))  # 0 log 0 is 0
    return lost.sum(-1).clamp_min(0)


def against_rest(logits: Tensor, target: int) -> Tensor:
    """Two logits, of a class and of all others together: ``(..., classes)`` to ``(..., 2)``.

    Examples
    --------
    >>> import torch
    >>> against_rest(torch.zeros(4), 2).softmax(-1)
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    wide = logits.double()
    rest = wide.clone()
    rest[..., target] = -torch.inf
    return torch.stack([wide[..., target], rest.logsumexp(-1)], -1)


@dataclass(frozen=True, eq=False)
class Trace:
    """A network pruned for one sample, kept apart from the network.

    A trace is fitted to one image and its augmentations. It says nothing about other images,
    and a weight that it drops may still matter to the network.

    Attributes
    ----------
    tensors
        Pruned parameters by name, same shape as the network's. Every zero is ``+0.0``: a sign
        that means nothing would cost more to store than the places of the kept weights.
    layers
        What became of each weight matrix, in the order in which the network uses them, and of
        other weights that multiply.
    dense_logits, traced_logits
        Answers of the dense and the traced network to the sample itself, ``(classes,)``.
    settings
        Everything that shaped the trace: solver, sparsity, augmentation, seed, damping, and
        ``weights``, what the dense network's sum up to, all and those that stay.
    versions
        Library versions.
    seconds
        Time per stage.
    """

    tensors: Mapping[str, Tensor]
    layers: tuple[LayerTrace, ...]
    dense_logits: Tensor
    traced_logits: Tensor
    settings: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unsigned = {name: value.detach() + 0.0 for name, value in self.tensors.items()}
        object.__setattr__(self, "tensors", unsigned)

    @property
    def sparsity(self) -> float:
        """Share of zero weights among all that multiply, those left dense included."""
        total = sum(layer.numel for layer in self.layers)
        return sum(layer.sparsity * layer.numel for layer in self.layers) / max(total, 1)

    @property
    def prediction(self) -> tuple[int, int]:
        """Class answered by the dense and by the traced network."""
        return int(self.dense_logits.argmax()), int(self.traced_logits.argmax())

    @property
    def agrees(self) -> bool:
        """Whether both answer the same class."""
        return self.prediction[0] == self.prediction[1]

    @property
    def confidence(self) -> tuple[float, float]:
        """Softmax probability that dense and traced network give the *dense* prediction."""
        index = self.prediction[0]
        dense, traced = (logits.softmax(-1)[index].item() for logits in self._logits())
        return dense, traced

    @property
    def kl(self) -> float:
        """KL divergence of the traced from the dense prediction, in nats."""
        return float(divergence(*self._logits()))

    def _logits(self) -> tuple[Tensor, Tensor]:
        return self.dense_logits.double(), self.traced_logits.double()

    def applied(self, model: Network | nn.Module) -> AbstractContextManager[nn.Module]:
        """Put the trace into the network for the length of a ``with`` block.

        Any code may use the network inside: captum, zennit, grad-cam, a plain backward. Dense
        weights, gradients, hooks and flags are back afterwards, also after an error.

        Parameters
        ----------
        model
            The network (or its module) that was traced, or a copy of it on another device or in
            another precision.

        Raises
        ------
        NetworkError
            If it has other parameters or buffers than the one traced, or other values in those
            that the trace leaves as they are.

        Examples
        --------
        >>> import torch, sparsight
        >>> network = sparsight.load("embedded")
        >>> x = torch.randn(1, 3, 64, 64)
        >>> found = sparsight.trace(network, x, augmentations=4)
        >>> with found.applied(network) as model:
        ...     same = torch.allclose(model(x)[0], found.traced_logits)
        >>> same
        True
        """
        self._require_traced(_module(model))
        return overlay(_module(model), self.tensors)

    @overload
    def network(self, model: Network) -> Network: ...
    @overload
    def network(self, model: nn.Module) -> nn.Module: ...
    def network(self, model: Network | nn.Module) -> Network | nn.Module:
        """Return a copy of the network with the trace written into it for good.

        Raises
        ------
        NetworkError
            If it has other parameters or buffers than the one traced, or other values in those
            that the trace leaves as they are.
        """
        self._require_traced(_module(model))
        duplicate = copy.deepcopy(_module(model))
        with overlay(duplicate, self.tensors):
            pass  # refuses what does not fit
        with torch.no_grad():
            for name, value in self.tensors.items():
                duplicate.get_parameter(name).copy_(value)
        if isinstance(model, Network):
            return Network(
                duplicate, model.preprocessing, model.labels, f"{model.spec} (traced)", model.info
            )
        return duplicate

    def _require_traced(self, model: nn.Module) -> None:
        """Refuse a network of the same form but with other weights, such as after more training.

        What the trace replaces does not count: another trace, or this one, may be in its place.
        """
        traced = self.settings.get("weights")
        if not traced or set(self.tensors) - dict(model.named_parameters()).keys():
            return
        dtype = str(next(model.parameters()).dtype)
        if dtype == traced["dtype"] and checksum(model, self.tensors) != traced["rest"]:
            raise NetworkError(
                "the network has other weights than the one that was traced: give that one, or "
                "trace this one too"
            )

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Pack the trace, exactly and small: bytes as tensors, and facts for a manifest."""
        parts, forms = pack_all(self.tensors)
        parts["dense_logits"] = self.dense_logits.detach().clone()
        parts["traced_logits"] = self.traced_logits.detach().clone()
        return parts, {
            "tensors": forms,
            "layers": [asdict(layer) for layer in self.layers],
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def unpack(
        cls, parts: Mapping[str, Tensor], facts: Mapping[str, Any], *, weights: bool = True
    ) -> Trace:
        """Undo :meth:`pack`, bit for bit; without ``weights`` all but the tensors.

        Raises
        ------
        InputError
            If the parts do not fit the facts.
        """
        try:
            tensors = unpack_all(parts, facts["tensors"] if weights else {})
            layers = tuple(LayerTrace(**layer) for layer in facts["layers"])
            for layer in layers:
                layer.require_sound(tensors if weights else None)
            _require_complete(layers, facts)
            return cls(
                tensors,
                layers,
                parts["dense_logits"],
                parts["traced_logits"],
                *(dict(facts[part]) for part in ("settings", "versions", "seconds")),
            )
        except _DAMAGE as error:
            raise InputError(f"a packed trace is damaged ({error}): make it again") from error

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the trace, exactly and small: packed masks and the values that are left.

        A trace of ResNet-50 (25.5 million weights) in float32 takes about 10 MB where 90 % of
        the weights are pruned, 5 MB at 95 %, and 46 MB at 50 %; the values make up most of it.

        Raises
        ------
        InputError
            If the folder exists and ``overwrite`` is false, or cannot be written.

        Examples
        --------
        >>> import tempfile, torch, sparsight
        >>> network = sparsight.load("embedded")
        >>> found = sparsight.trace(network, torch.randn(1, 3, 64, 64), augmentations=4)
        >>> with tempfile.TemporaryDirectory() as home:
        ...     again = Trace.load(found.save(f"{home}/found"))
        >>> all(torch.equal(again.tensors[name], value) for name, value in found.tensors.items())
        True
        """
        folder = Path(folder)
        parts, facts = self.pack()
        manifest = {"kind": "trace", "schema": _SCHEMA, **facts}
        with atomic_folder(folder, {_MANIFEST, _TENSORS}, overwrite=overwrite) as temporary:
            save_file(parts, temporary / _TENSORS)
            manifest["sha256"] = _digest((temporary / _TENSORS).read_bytes())
            write_manifest(temporary, _MANIFEST, manifest)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Trace:
        """Read a saved trace; the result is bit-identical to what was saved.

        Raises
        ------
        InputError
            If the folder holds no trace, or a damaged one.
        """
        manifest = read_manifest(folder, _MANIFEST, "trace", _SCHEMA)
        try:
            content = (Path(folder) / _TENSORS).read_bytes()
            if _digest(content) != manifest["sha256"]:
                raise ValueError(f"{_TENSORS} is not what {_MANIFEST} was written with")
            return cls.unpack(load(content), manifest)
        except (*_DAMAGE, InputError) as error:
            raise InputError(f"the trace in {folder} is damaged ({error})") from error

    def __repr__(self) -> str:
        dense, traced = self.prediction
        kept = "kept" if self.agrees else f"changed from class {dense} to {traced}"
        return (
            f"Trace({len(self.tensors)} parameters pruned, sparsity {self.sparsity:.1%}, "
            f"prediction {kept}, KL {self.kl:.3g} nats)"
        )


def _require_complete(layers: tuple[LayerTrace, ...], facts: Mapping[str, Any]) -> None:
    """Refuse facts of a trace that do not belong together.

    Raises
    ------
    ValueError
        If layers are named twice, are missing, or the weights traced are not told as they are.
    """
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        raise ValueError("it names a layer twice")
    strange = set(facts["tensors"]) - {layer.parameter for layer in layers}
    if strange:
        raise ValueError(f"the layer of {min(strange)!r} is missing")
    traced = facts["settings"].get("weights")
    if traced is not None and not all(isinstance(traced[key], str) for key in _TRACED):
        raise ValueError("it does not tell which weights were traced")


def _module(model: Network | nn.Module) -> nn.Module:
    if isinstance(model, Network):
        return model.model
    if isinstance(model, LogitsOnly):
        return model.model
    if isinstance(model, nn.Module):
        return model
    raise NetworkError(f"expected a network or a torch module, not {type(model).__name__}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
