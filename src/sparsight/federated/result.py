"""What came of a federation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from sparsight.errors import InputError
from sparsight.federated.client import Client
from sparsight.federated.data import ClientData
from sparsight.federated.division import Division
from sparsight.federated.memory import Memory
from sparsight.federated.packing import Payload, pack
from sparsight.federated.settings import FederatedSettings
from sparsight.networks import Network
from sparsight.networks.classifier import PixelClassifier
from sparsight.networks.state import plain_state
from sparsight.storage import atomic_folder, read_manifest, write_manifest

__all__ = ["FILES", "Federated"]

_MANIFEST, _WEIGHTS, _SCHEMA = "federated.json", "weights.safetensors", 1
_COUNTER = "num_batches_tracked"
FILES = (_MANIFEST, _WEIGHTS)
"""Files of a saved result."""


@dataclass(frozen=True)
class Federated:
    """What came of a federation.

    Attributes
    ----------
    settings
        Plain values.
    told
        How unlike clients' images are, see :func:`sparsight.federated.statistics`.
    log
        A row for each round: who answered, who failed and why, bytes up and down, seconds, mean
        loss, share of each layer that was sent, and where it was measured ``local``, ``least`` and
        ``global`` accuracy.
    shared
        The server's entries of the network.
    own
        By client, entries that stayed with it.
    versions
        Of libraries.
    """

    settings: Mapping[str, Any]
    told: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    shared: Mapping[str, Tensor]
    own: Mapping[int, Mapping[str, Tensor]]
    versions: Mapping[str, str]

    def __str__(self) -> str:
        last = self.log[-1]
        found = [f"{self.settings['algorithm']}: {len(self.log)} rounds"]
        found += [f"{name} {last[name]:.1%}" for name in ("local", "global") if name in last]
        found += [f"{self.bytes('up') / 2**20:.2f} MiB up, {self.bytes('down') / 2**20:.2f} down"]
        return ", ".join(found)

    def bytes(self, way: str, rounds: int | None = None) -> int:
        """Bytes that went ``up`` or ``down``, of the first rounds or all."""
        return sum(int(row[way]) for row in list(self.log)[:rounds])

    def until(self, accuracy: float, name: str = "local") -> int | None:
        """Count the rounds until an accuracy was measured; ``None`` if it never was.

        Parameters
        ----------
        accuracy
            In [0, 1].
        name
            ``local`` or ``global``.
        """
        for number, row in enumerate(self.log, 1):
            if row.get(name, -1.0) >= accuracy:
                return number
        return None

    def network(self, like: Network, client: int | None = None) -> Network:
        """Return a network: the server's entries, and a client's own ones if it is named.

        Parameters
        ----------
        like
            The network that the federation trained; not changed.
        client
            Number; by default what is not shared is as in ``like``.

        Raises
        ------
        InputError
            If there is no such client, or the network is another one.
        """
        entries = dict(self.shared)
        if client is not None:
            if client not in self.own:
                raise InputError(f"client {client} never trained: choose one of {sorted(self.own)}")
            entries |= self.own[client]
        made = PixelClassifier.of(like)
        state = made.model.state_dict()
        for name, value in entries.items():
            if name not in state or state[name].shape != value.shape:
                raise InputError(
                    f"the network has no {name} of this shape: give the one that was trained"
                )
            with torch.no_grad():
                state[name].copy_(value)
        known = set(self.shared).union(*self.own.values())
        strange = sorted(n for n in state if n not in known and not n.endswith(_COUNTER))
        if self.own and strange:
            raise InputError(
                f"nobody trained {strange[0]} of the network: give the one that was trained "
                "(group_norms makes one with normalisations over groups)"
            )
        title = "federated" if client is None else f"client {client}"
        return made.network(like, f"{like.spec} ({title})")

    def newcomer(self, like: Network, data: Dataset[Any]) -> Network:
        """Make a network for a client that took no part: it fits what would be its own.

        Parameters
        ----------
        like
            The network that the federation trained; not changed.
        data
            Its images, of pixels and labels, three at least. A part is set apart, as for others.

        Raises
        ------
        InputError
            If there are too few images, or the network is another one.
        """
        settings = FederatedSettings.restore(self.settings)
        parameters = dict(like.model.named_parameters())
        division = Division(
            tuple(n for n in self.shared if n in parameters),
            tuple(n for n in self.shared if n not in parameters),
            tuple(n for n in like.model.state_dict() if n not in self.shared),
        )
        message = pack(Payload(self.shared, {}, {"round": 1, "accepted": 0}))
        client = Client(0, like, ClientData.of(data, settings.seed), settings, division)
        return client.network_of(message, Memory())

    def describe(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {
            "settings": dict(self.settings), "clients": dict(self.told),
            "log": [dict(row) for row in self.log], "trained": sorted(self.own),
            "versions": dict(self.versions),
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write weights and manifest into a folder that is there."""
        tensors = {f"shared/{name}": value for name, value in self.shared.items()}
        for client, own in self.own.items():
            tensors |= {f"own/{client}/{name}": value for name, value in own.items()}
        save_file(plain_state(tensors), folder / _WEIGHTS)
        write_manifest(
            folder, _MANIFEST, {"kind": "federation", "schema": _SCHEMA, **self.describe()}
        )

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the result into a folder, whole or not at all.

        Raises
        ------
        InputError
            If the folder is not empty, or cannot be written.
        """
        with atomic_folder(folder, FILES, overwrite=overwrite) as fresh:
            self.write(fresh)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Federated:
        """Read a saved result.

        Raises
        ------
        InputError
            If it is not there, or damaged.
        """
        told = read_manifest(folder, _MANIFEST, "federation", _SCHEMA)
        try:
            held = load_file(Path(folder) / _WEIGHTS)
            shared: dict[str, Tensor] = {}
            own: dict[int, dict[str, Tensor]] = {}
            for key, value in held.items():
                kind, _, name = key.partition("/")
                if kind == "shared":
                    shared[name] = value
                else:
                    client, _, name = name.partition("/")
                    own.setdefault(int(client), {})[name] = value
            return cls(
                told["settings"], told["clients"], told["log"], shared, own, told["versions"]
            )
        except (OSError, SafetensorError, KeyError, ValueError, json.JSONDecodeError) as error:
            raise InputError(f"the federation in {folder} is damaged: make it again") from error
