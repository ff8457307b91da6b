"""A chain: the few units and branches that keep a network's answers to some images."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparsight.chains.tasks import Gated
from sparsight.errors import InputError, NetworkError, UnsupportedError
from sparsight.networks import Network, overlay
from sparsight.networks.gates import switched_at
from sparsight.storage import atomic_folder, read_manifest, write_manifest
from sparsight.traces.result import divergence

__all__ = ["TENSORS", "Chain"]

_SCHEMA = 1
_MANIFEST, TENSORS = "chain.json", "chain.safetensors"
_EQUAL = 1e-3  # of the largest logit, between gates and weights set to zero
_DAMAGE = (
    *(SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError),
)


@dataclass(frozen=True, eq=False)
class Chain:
    """The filters, heads, neurons and residual branches that a sub-task needs.

    They are copies: what is kept has the network's own weights, what is not is zero. A chain is
    found on a few images and for them; it says nothing about others until it is measured there.

    Attributes
    ----------
    layers
        Title and number of units of each layer, in the network's order.
    kept
        ``(units,)``, bool: numbered through all layers; none of a closed branch.
    scores
        ``(units,)``: what units were chosen by.
    branches
        Names of the residual branches.
    open
        ``(branches,)``, bool.
    dense_logits, chain_logits
        Answers of the network and of the chain, gates 0 or 1, to the images, ``(N, classes)``.
    scaled_logits
        Answers with gates as they were learnt, which rescale and so are no copy; of selectors that
        learn no gates the same as ``chain_logits``.
    losses
        ``(steps,)``.
    settings, versions
        What shaped it.
    seconds
        How long it took, with all chains extracted beside it.
    """

    layers: tuple[tuple[str, int], ...]
    kept: Tensor
    scores: Tensor
    branches: tuple[str, ...]
    open: Tensor
    dense_logits: Tensor
    chain_logits: Tensor
    scaled_logits: Tensor
    losses: Tensor
    settings: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """Share of units kept."""
        return float(self.kept.double().mean())

    @property
    def kl(self) -> float:
        """Mean KL divergence from the network's answers to the images, in nats."""
        return float(divergence(self.dense_logits, self.chain_logits).mean())

    @property
    def scaled_kl(self) -> float:
        """The same with gates as they were learnt."""
        return float(divergence(self.dense_logits, self.scaled_logits).mean())

    @property
    def agreement(self) -> float:
        """Share of the images that the chain answers as the network does."""
        same = self.dense_logits.argmax(1) == self.chain_logits.argmax(1)
        return float(same.double().mean())

    def units(self) -> list[tuple[str, int]]:
        """Title of the layer and number of every unit that is kept."""
        pieces = self.kept.split([count for _, count in self.layers])
        return [
            (title, number)
            for (title, _), own in zip(self.layers, pieces, strict=True)
            for number in own.nonzero()[:, 0].tolist()
        ]

    def counts(self) -> list[tuple[str, int, int]]:
        """Title, units kept and units, of every layer."""
        pieces = self.kept.split([count for _, count in self.layers])
        return [
            (title, int(own.sum()), count)
            for (title, count), own in zip(self.layers, pieces, strict=True)
        ]

    def overlap(self, other: Chain) -> float:
        """Units that both chains keep, in shares of those that either keeps.

        Raises
        ------
        InputError
            If the chains are of networks with other units.
        """
        self._require_same(other)
        either = int((self.kept | other.kept).sum())
        return int((self.kept & other.kept).sum()) / either if either else 1.0

    def without(self, other: Chain) -> list[tuple[str, int]]:
        """Units of this chain that another does not keep, see :meth:`units`.

        Raises
        ------
        InputError
            If the chains are of networks with other units.
        """
        self._require_same(other)
        shared = set(other.units())
        return [unit for unit in self.units() if unit not in shared]

    def _require_same(self, other: Chain) -> None:
        if self.layers != other.layers:
            raise InputError("the chains are of different networks: compare chains of one network")

    def gates(self, images: int = 1) -> tuple[Tensor, Tensor]:
        """Gates of units and of branches, 0 or 1, for so many images."""
        return (
            self.kept.float().expand(images, -1),
            self.open.float().expand(images, -1),
        )

    def tensors(self, gated: Gated) -> dict[str, Tensor]:
        """Parameters of the network with zeros where the chain has nothing.

        Raises
        ------
        NetworkError
            If the chain is of another network.
        UnsupportedError
            If zeros alone do not make the chain, for example where what follows a closed branch
            adds something of its own.
        """
        self.require_of(gated)
        network = gated.network
        parameters = dict(network.model.named_parameters())
        found: dict[str, Tensor] = {}

        def zero(name: str, lines: Tensor) -> None:
            if name not in parameters:
                return
            target = found.setdefault(name, parameters[name].detach().clone())
            target[lines.to(target.device)] = 0

        for group, own in gated.units.pieces(self.kept):
            part = switched_at(group)
            if part is None or own.all():
                continue
            matrix, off = part.matrix, ~own.repeat_interleave(part.size)
            norm = gated.plan.normalised.get(matrix.name) if part.axis == "rows" else None
            lines = torch.zeros(
                matrix.columns if part.axis == "columns" else matrix.units, dtype=torch.bool
            )
            lines[part.start : part.start + len(off)] = off
            if norm:  # what it gives is zero; what goes into it may be counted by it
                zero(f"{norm}.weight", lines)
                zero(f"{norm}.bias", lines)
                continue
            weight = found.setdefault(
                matrix.parameter, parameters[matrix.parameter].detach().clone()
            )
            packed = matrix.pack(weight).clone()
            flat = packed.flatten(0, 1)
            if part.axis == "columns":
                flat[:, lines] = 0
            else:
                flat[lines] = 0
                zero(f"{matrix.name}.bias", lines)
            matrix.write(weight, packed)
        for branch, is_open in zip(self.branches, self.open.tolist(), strict=True):
            if not is_open:
                for parameter in gated.parameters_of(branch):
                    found[parameter] = torch.zeros_like(parameters[parameter].detach())
        return found

    def applied(self, network: Network | Gated, x: Tensor) -> AbstractContextManager[nn.Module]:
        """Put the chain into the network for the length of a ``with`` block.

        Parameters
        ----------
        network
            The network that the chain is of, not changed after the block.
        x
            ``(N, C, H, W)``, normalised: images on which the copy is checked against gates.

        Raises
        ------
        NetworkError
            If the chain is of another network.
        UnsupportedError
            If zeros alone do not make the chain.

        Examples
        --------
        >>> import torch, sparsight
        >>> from sparsight.chains import extract
        >>> network = sparsight.load("embedded")
        >>> x = torch.rand(2, 3, 64, 64)
        >>> chain = extract(network, x, selector="contribution", keep=0.5)
        >>> with chain.applied(network, x) as model:
        ...     print(bool(torch.allclose(model(x), chain.chain_logits, atol=1e-4)))
        True
        """
        gated = network if isinstance(network, Gated) else self.gated(network, x)
        tensors = self.tensors(gated)
        units, branches = self.gates(len(x))
        with torch.no_grad():
            wanted = gated.logits(x, units.to(x.device), branches.to(x.device))
            with overlay(gated.network.model, tensors):
                got = gated.network(x)
        if float((wanted - got).abs().max()) > _EQUAL * float(wanted.abs().max()):
            raise UnsupportedError(
                f"network {gated.network.spec!r} is no chain with zeros for weights: something "
                "after a closed gate adds values of its own; use gates instead"
            )
        return overlay(gated.network.model, tensors)

    def gated(self, network: Network, x: Tensor) -> Gated:
        """Prepare the network that the chain is of, with an image.

        Raises
        ------
        NetworkError
            If the chain is of another network.
        """
        found = Gated.of(network, x[:1], self.settings["kinds"])
        self.require_of(found)
        return found

    def require_of(self, gated: Gated) -> None:
        """Refuse a network with other units or branches.

        Raises
        ------
        NetworkError
            If it has.
        """
        if self.layers != gated.layers or self.branches != gated.names:
            raise NetworkError(
                f"the chain has {len(self.kept)} units in {len(self.layers)} layers, network "
                f"{gated.network.spec!r} has others: give the network that it was extracted from"
            )

    def describe(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {
            "units": len(self.kept),
            "kept": int(self.kept.sum()),
            "share": self.share,
            "branches": dict(zip(self.branches, self.open.tolist(), strict=True)),
            "images": len(self.dense_logits),
            "kl": self.kl,
            "scaled_kl": self.scaled_kl,
            "agreement": self.agreement,
            "settings": dict(self.settings),
            "seconds": self.seconds,
        }

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the chain.

        Raises
        ------
        InputError
            If the folder exists and ``overwrite`` is false, or cannot be written.
        """
        folder = Path(folder)
        with atomic_folder(folder, {_MANIFEST, TENSORS}, overwrite=overwrite) as temporary:
            tensors = {
                name: getattr(self, name).detach().cpu().contiguous().clone() for name in _HELD
            }
            save_file(tensors, temporary / TENSORS)
            manifest = {
                "kind": "chain",
                "schema": _SCHEMA,
                "layers": [list(layer) for layer in self.layers],
                "branch_names": list(self.branches),
                "versions": dict(self.versions),
                **self.describe(),
            }
            write_manifest(temporary, _MANIFEST, manifest)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Chain:
        """Read a saved chain.

        Raises
        ------
        InputError
            If the folder holds none, or a damaged one.
        """
        manifest = read_manifest(folder, _MANIFEST, "chain", _SCHEMA)
        try:
            held = load_file(Path(folder) / TENSORS)
            layers = tuple((str(title), int(count)) for title, count in manifest["layers"])
            branches = tuple(manifest["branch_names"])
            found = cls(
                layers=layers, branches=branches, settings=manifest["settings"],
                versions=manifest["versions"], seconds=manifest["seconds"],
                **{name: held[name] for name in _HELD},
            )  # fmt: skip
            _require_sound(found)
        except _DAMAGE as error:
            raise InputError(f"the chain in {folder} is damaged ({error})") from error
        return found

    def __repr__(self) -> str:
        closed = int((~self.open).sum())
        return (
            f"Chain({int(self.kept.sum())} of {len(self.kept)} units kept ({self.share:.1%}), "
            f"{closed} of {len(self.open)} branches closed, agreement {self.agreement:.0%}, "
            f"KL {self.kl:.3g} nats)"
        )


def _require_sound(chain: Chain) -> None:
    """Refuse parts that do not go together.

    Raises
    ------
    ValueError
        If there are any.
    """
    units, (images, classes) = sum(n for _, n in chain.layers), chain.dense_logits.shape
    shapes = {
        "kept": (units,), "scores": (units,), "open": (len(chain.branches),),
        "chain_logits": (images, classes), "scaled_logits": (images, classes),
        "losses": (len(chain.losses),),
    }  # fmt: skip
    settings = chain.settings
    kinds, told = settings["kinds"], settings["classes"]
    sound = (
        all(count > 0 for _, count in chain.layers)
        and all(tuple(getattr(chain, name).shape) == shape for name, shape in shapes.items())
        and chain.kept.dtype == chain.open.dtype == torch.bool
        and all(isinstance(name, str) for name in (*chain.branches, *(kinds or ())))
        and (kinds is None or isinstance(kinds, list))
        and isinstance(told, list)
        and all(isinstance(number, int) and 0 <= number < classes for number in told)
        and isinstance(chain.versions, dict)
        and isinstance(chain.seconds, int | float)
    )
    if not sound:
        raise ValueError(f"{TENSORS} and {_MANIFEST} do not go together")


_HELD = ("kept", "scores", "open", "dense_logits", "chain_logits", "scaled_logits", "losses")
