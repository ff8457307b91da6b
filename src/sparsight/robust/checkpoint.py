"""The state of a hardening between epochs, so that an interrupted one can go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparsight.errors import InputError
from sparsight.storage import atomic_folder, read_manifest, write_manifest

__all__ = ["read_state", "write_state"]

_MANIFEST, _STATE = "state.json", "state.safetensors"
_KIND, _SCHEMA = "hardening", 1


def write_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    best: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Keep the state, whole or not at all, in the place of the former one."""
    tensors = {f"model/{name}": value for name, value in _values(model).items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    entries = {} if optimizer is None else optimizer.state_dict()["state"]
    for number, own in entries.items():
        for name, value in own.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{number}/{name}"] = value
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic_folder(folder, {_MANIFEST, _STATE}, overwrite=True) as fresh:
        save_file(plain, fresh / _STATE)
        write_manifest(fresh, _MANIFEST, {"kind": _KIND, "schema": _SCHEMA, **facts})


def _values(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those that are held twice once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: value.detach() for name, value in named}


def read_facts(folder: Path) -> dict[str, Any] | None:
    """Read how far a hardening is, if the folder holds one.

    Raises
    ------
    InputError
        If it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    return read_manifest(folder, _MANIFEST, _KIND, _SCHEMA)


def read_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> dict[str, Tensor]:
    """Put a model and its optimizer into the state that is kept; the best state so far.

    Raises
    ------
    InputError
        If it is damaged.
    """
    try:
        tensors = load_file(folder / _STATE)
        with torch.no_grad():
            for name, value in _values(model).items():
                value.copy_(tensors[f"model/{name}"])
        state: dict[int, dict[str, Any]] = {}
        best: dict[str, Tensor] = {}
        for key, value in tensors.items():
            kind, _, rest = key.partition("/")
            if kind == "best":
                best[rest] = value
            if kind == "optimizer":
                number, _, name = rest.partition("/")
                state.setdefault(int(number), {})[name] = value
        if optimizer is not None:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the hardening in {folder} is damaged ({reason}): delete it and start again"
        ) from error
    return best
