"""The state of a planting between epochs, so that an interrupted one can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sparsight.errors import InputError
from sparsight.networks.state import hash_state
from sparsight.storage import atomic_folder, read_manifest, write_manifest

__all__ = ["Checkpoint"]

_MANIFEST, _STATE = "planting.json", "state.safetensors"
_KIND, _SCHEMA = "planting", 1


def _digest(facts: Mapping[str, Any], models: Sequence[nn.Module]) -> str:
    """Tell one planting from another by all that it depends on, the libraries excepted."""
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for model in models:
        hash_state(found, model.state_dict())
    return found.hexdigest()


class Checkpoint:
    """A folder with the trained parameters, the optimizer's state and how far they are.

    Parameters
    ----------
    folder
        Where; made if need be.
    facts
        What the planting depends on.
    models
        The network as it was before planting, and where planting starts.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], models: Sequence[nn.Module]) -> None:
        self.folder = folder
        self.digest = _digest(facts, models)

    def read(
        self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
    ) -> tuple[int, float]:
        """Put parameters and optimizer into the state kept here, if there is one.

        Returns
        -------
        epochs, seconds
            Done and spent so far.

        Raises
        ------
        InputError
            If the folder holds something else, another planting, or a damaged state.
        """
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return 0, 0.0
        manifest = read_manifest(self.folder, _MANIFEST, _KIND, _SCHEMA)
        if manifest.get("digest") != self.digest:
            raise InputError(
                f"{self.folder} holds a planting of another network, other photos, rules or "
                "settings: choose another folder, or delete it"
            )
        try:
            tensors = load_file(self.folder / _STATE)
            for name, parameter in parameters.items():
                with torch.no_grad():
                    parameter.copy_(tensors[f"parameter/{name}"])
            state: dict[int, dict[str, Any]] = {}
            for key, value in tensors.items():
                kind, _, rest = key.partition("/")
                if kind == "optimizer":
                    number, _, name = rest.partition("/")
                    state.setdefault(int(number), {})[name] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            return int(manifest["epochs"]), float(manifest["seconds"])
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"the planting in {self.folder} is damaged ({reason}): delete it and start again"
            ) from error

    def write(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        epochs: int,
        seconds: float,
    ) -> None:
        """Keep the state, whole or not at all, in the place of the former one."""
        tensors = {
            f"parameter/{name}": value.detach().contiguous() for name, value in parameters.items()
        }
        for number, entries in optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer/{number}/{name}"] = value.contiguous()
        with atomic_folder(self.folder, {_MANIFEST, _STATE}, overwrite=True) as fresh:
            save_file(tensors, fresh / _STATE)
            manifest = {
                "kind": _KIND,
                "schema": _SCHEMA,
                "digest": self.digest,
                "epochs": epochs,
                "seconds": round(seconds, 1),
            }
            write_manifest(fresh, _MANIFEST, manifest)
