"""Weights from files and to files: never unpickled, never half-matched, never half-written."""

from __future__ import annotations

import os
import pickle
import zlib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparsight.errors import InputError, NetworkError, NumericalError

__all__ = ["checksum", "hash_state", "load_weights", "plain_state", "read_state", "write_tensors"]

_PREFIXES = ("module.", "_orig_mod.", "model.", "network.")
_NESTED = ("state_dict", "model_state_dict", "model", "net")
_SHOWN = 6


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the processor, each in memory of its own, as safetensors wants them.

    Examples
    --------
    >>> plain_state({"w": torch.ones(2, 3, requires_grad=True).T})["w"].is_contiguous()
    True
    """
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def checksum(model: nn.Module, without: Container[str] = ()) -> str:
    """Sum up parameters and buffers, bit for bit: the same for the same weights, on any device.

    Parameters
    ----------
    model
        What holds them. Buffers that a file of its weights would not hold do not count.
    without
        Names that are left out.

    Returns
    -------
    str
        Eight hexadecimal digits (CRC-32), that tell mistakes apart, not forgeries.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> before, bias = checksum(layer), checksum(layer, without={"weight"})
    >>> with torch.no_grad():
    ...     _ = layer.weight[0, 0].add_(1)
    >>> checksum(layer) == before, checksum(layer, without={"weight"}) == bias
    (False, True)
    """
    found = 0
    for name, value in (*model.named_parameters(), *_kept_buffers(model)):
        if name not in without:
            found = zlib.crc32(_as_bytes(value).data, zlib.crc32(name.encode(), found))
    return f"{found:08x}"


def _kept_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, module in model.named_modules():
        for name, value in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, value


def _as_bytes(value: Tensor) -> np.ndarray[Any, Any]:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def hash_state(found: Any, state: Mapping[str, Tensor]) -> None:
    """Add names and bytes of tensors to a digest, one of :mod:`hashlib`."""
    for name, value in state.items():
        found.update(name.encode())
        found.update(_as_bytes(value))


def write_tensors(file: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write a safetensors file in the place of the former one: a kill leaves one of them.

    Parameters
    ----------
    file
        Where; its folder is made.
    tensors
        On any device.
    facts
        Texts that stand in the file's head.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    fresh = file.with_name(f".{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(plain_state(tensors), fresh, dict(facts))
        with fresh.open("rb+") as stream:
            os.fsync(stream.fileno())
        fresh.replace(file)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write {file.parent} ({error}): make room, and run it again"
        ) from error


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors``, ``.pt``, ``.pth`` or ``.bin``.

    Pickled files are read with ``weights_only=True``: tensors yes, code no.

    Raises
    ------
    NetworkError
        If the file is missing, corrupt, of another kind, or wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise NetworkError(f"no such weights file: {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        if path.suffix not in {".pt", ".pth", ".bin"}:
            raise NetworkError(
                f"{path} is no weights file: give a .safetensors file or a .pt/.pth state dict"
            )
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise NetworkError(
            f"{path} is corrupt or holds more than tensors and was not unpickled: save "
            "model.state_dict() and give that"
        ) from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NetworkError(f"{path} cannot be read as weights ({reason})") from error
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise NetworkError(f"{path} holds no state dict: save model.state_dict() and give that")
    return content


def _without_prefixes(state: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    stripped = True
    while stripped and not wanted & set(state):
        stripped = False
        for prefix in _PREFIXES:
            if state and all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
                stripped = True
    return state


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a weights file into a model; every key must match.

    Prefixes of wrappers (``module.``, ``_orig_mod.``, ``model.``) are taken off where all keys
    carry one; ``num_batches_tracked`` may be absent; half-precision values are cast.

    Raises
    ------
    NetworkError
        With the missing, unexpected and misshapen keys, if any; nothing is loaded then.
    NumericalError
        If a tensor holds NaN or infinite values.
    """
    wanted = model.state_dict()
    state = _without_prefixes(read_state(path), set(wanted))
    optional = {key for key in wanted if key.endswith("num_batches_tracked")}
    missing = sorted(set(wanted) - set(state) - optional)
    unexpected = sorted(set(state) - set(wanted))
    shapes = sorted(
        f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in set(state) & set(wanted)
        if state[key].shape != wanted[key].shape
    )
    problems = [
        f"{len(keys)} {what}: {_some(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen", shapes))
        if keys
    ]
    if problems:
        raise NetworkError(f"the weights in {path} do not fit the model; " + "; ".join(problems))
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise NumericalError(f"weights {path} are corrupt: {key!r} holds NaN or infinity")
    model.load_state_dict(state, strict=False)
