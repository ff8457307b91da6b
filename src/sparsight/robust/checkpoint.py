"""The state of a hardening between epochs, so that an interrupted one can go on.

It is one file, put in the place of the former one at once: a kill at any moment leaves one of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sparsight.errors import InputError
from sparsight.networks.state import write_tensors

__all__ = ["read_facts", "read_state", "write_state"]

_STATE, _FACTS = "state.safetensors", "hardening"
_NEEDED = {"stage", "epoch", "score", "frozen", "log", "digest", "scaler"}
_DAMAGE = (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError)


def write_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Keep the state in the place of the former one.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    tensors = {f"model/{name}": value for name, value in _values(model).items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    for number, own in optimizer.state_dict()["state"].items():
        for name, value in own.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{number}/{name}"] = value
    write_tensors(folder / _STATE, tensors, {_FACTS: json.dumps(dict(facts))})


def _values(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those that are held twice once."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: value.detach() for name, value in named}


def read_facts(folder: Path) -> dict[str, Any] | None:
    """Read how far a hardening is, if the folder holds one.

    Raises
    ------
    InputError
        If it is damaged.
    """
    if not (folder / _STATE).exists():
        return None
    try:
        with safe_open(folder / _STATE, "pt") as held:
            facts = json.loads(held.metadata()[_FACTS])
        if not isinstance(facts, dict) or not set(facts) >= _NEEDED:
            raise ValueError("it does not say how far it is")
    except _DAMAGE as error:
        raise _damaged(folder, error) from error
    return facts


def read_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Put a model and its optimizer into the state that is kept; the best state so far.

    Raises
    ------
    InputError
        If it is damaged.
    """
    try:
        with safe_open(folder / _STATE, "pt") as held:
            tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
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
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    except _DAMAGE as error:
        raise _damaged(folder, error) from error
    return best


def _damaged(folder: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"the hardening in {folder} is damaged ({reason}): delete it and start again")
