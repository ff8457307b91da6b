"""Parts of tensors as bytes: which rows or entries, and their values; every byte counts.

A payload is a safetensors file: it can be read without trusting who sent it, and its length is what
goes over the wire. Which rows or entries a tensor's values belong to is told by one bit each or by
their numbers, whichever is shorter, and not at all where all are there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sparsight.errors import InputError

__all__ = ["Payload", "cost", "metadata_of", "pack", "unpack"]

_BITS, _NUMBERS, _FACTS = "|bits", "|numbers", "facts"
_POWERS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


@dataclass(frozen=True)
class Payload:
    """What a message carries.

    Attributes
    ----------
    values
        Tensors of full shape by name; where a mask is not true they are zero.
    masks
        Bool, of a shape that the tensor's begins with; of names that are not here all is there.
    facts
        Plain values.
    """

    values: Mapping[str, Tensor]
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def mask(self, name: str) -> Tensor:
        """Which values are there, bool, of a shape that broadcasts to the tensor's."""
        value = self.values[name]
        own = self.masks.get(name)
        if own is None:
            return torch.ones((1,) * value.ndim, dtype=torch.bool, device=value.device)
        return own.reshape(*own.shape, *(1,) * (value.ndim - own.ndim))


def _number_type(count: int) -> torch.dtype:
    return torch.uint16 if count <= 2**16 else torch.uint32


def cost(chosen: int, count: int) -> int:
    """Bytes that tell which ``chosen`` of ``count`` things are there.

    Examples
    --------
    >>> cost(64, 64), cost(2, 64), cost(20, 64)
    (0, 4, 8)
    """
    if chosen == count:
        return 0
    return min((count + 7) // 8, chosen * _number_type(count).itemsize)


def _encode(mask: Tensor) -> tuple[str, Tensor]:
    """Bits or numbers, whichever is shorter."""
    flat = mask.flatten()
    numbers = flat.nonzero()[:, 0]
    kind = _number_type(len(flat))
    if len(numbers) * kind.itemsize < (len(flat) + 7) // 8:
        return _NUMBERS, numbers.to(kind)
    bits = torch.zeros(-(-len(flat) // 8) * 8, dtype=torch.uint8)
    bits[: len(flat)] = flat
    return _BITS, (bits.view(-1, 8) * _POWERS).sum(1, dtype=torch.uint8)


def pack(payload: Payload) -> bytes:
    """Write a payload.

    Parameters
    ----------
    payload
        What is to be sent; values outside the masks are not.

    Examples
    --------
    >>> rows = Payload({"w": torch.ones(4, 100)}, {"w": torch.tensor([True, False, False, True])})
    >>> len(pack(Payload({"w": torch.ones(4, 100)}))) - len(pack(rows)) > 600
    True
    >>> unpack(pack(rows), {"w": torch.empty(4, 100)}).values["w"].sum().item()
    200.0
    """
    tensors: dict[str, Tensor] = {}
    for name, value in payload.values.items():
        value = value.detach().cpu()
        mask = payload.masks.get(name)
        if mask is None or bool(mask.all()):
            tensors[name] = value.contiguous().clone()
            continue
        mask = mask.cpu()
        suffix, told = _encode(mask)
        tensors[name] = value[mask].contiguous()
        tensors[name + suffix] = told
    found: bytes = save(tensors, {_FACTS: json.dumps(dict(payload.facts))})
    return found


def unpack(data: bytes, like: Mapping[str, Tensor], prefixes: tuple[str, ...] = ("",)) -> Payload:
    """Read a payload, and check that it fits.

    Parameters
    ----------
    data
        Made by :func:`pack`.
    like
        Tensors of the shapes, types and devices that are expected, by name.
    prefixes
        That names may have: what follows one is looked up in ``like``.

    Raises
    ------
    InputError
        If it is damaged, of another network, or not finite.
    """
    try:
        found = load(data)
        facts = json.loads(metadata_of(data)[_FACTS])
        if not isinstance(facts, dict):
            raise TypeError("its facts are none")
        values: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for name, value in found.items():
            if name.endswith((_BITS, _NUMBERS)):
                continue
            model = next(
                like[name.removeprefix(p)] for p in prefixes
                if name.startswith(p) and name.removeprefix(p) in like
            )  # fmt: skip
            mask = _decode(name, found, model.shape)
            if mask is not None:
                masks[name] = mask.to(model.device)
                whole = torch.zeros(model.shape, dtype=value.dtype)
                whole[mask] = value.reshape(-1, *model.shape[mask.ndim :])
                value = whole
            value = value.to(model.device, model.dtype)
            if value.shape != model.shape or not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} does not fit or is not finite")
            values[name] = value
    except (
        SafetensorError, KeyError, ValueError, IndexError, RuntimeError, StopIteration, TypeError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else "it has a tensor too many"
        raise InputError(
            f"a message cannot be used ({reason}): was it sent by this run?"
        ) from error
    return Payload(values, masks, facts)


def metadata_of(data: bytes) -> dict[str, str]:
    """Read what stands in the head of a safetensors file beside the tensors.

    Raises
    ------
    KeyError, ValueError
        If it is none.
    """
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return found


def _decode(name: str, found: Mapping[str, Tensor], shape: torch.Size) -> Tensor | None:
    """Bits or numbers as a mask over rows or over entries."""
    bits, numbers = found.get(name + _BITS), found.get(name + _NUMBERS)
    if bits is None and numbers is None:
        return None
    given = found[name]
    whole = tuple(shape) if given.ndim == 1 and len(shape) > 1 else tuple(shape[:1])
    count = torch.Size(whole).numel()
    mask = torch.zeros(count, dtype=torch.bool)
    if numbers is not None:
        mask[numbers.long()] = True
    elif bits is not None:
        if len(bits) != -(-count // 8):
            raise ValueError(f"{name} has {len(bits)} bytes of bits")
        mask = ((bits[:, None] & _POWERS) > 0).flatten()[:count]
    if int(mask.sum()) * shape[len(whole) :].numel() != given.numel():
        raise ValueError(f"{name} has {given.numel()} values for {int(mask.sum())} places")
    return mask.reshape(whole)
