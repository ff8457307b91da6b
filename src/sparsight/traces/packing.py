"""Sparse tensors in few bytes, and back bit for bit.

Which weights are kept is one bit per weight; what they are is their bytes, most significant ones
together. Neither repeats itself, but some bytes are commoner than others: Huffman codes alone
come within a few percent of the entropy of a mask, faster than a search for repetitions. That
search pays for masks with structure, such as channels that are dropped whole, so both are tried.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["pack", "pack_all", "unpack", "unpack_all"]

_STRATEGIES = (zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY)
_MOST_MEMORY = 9
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}


def _deflate(content: bytes) -> bytes:
    """Compress in each way, and keep the shortest."""
    packed = []
    for strategy in _STRATEGIES:
        coder = zlib.compressobj(
            zlib.Z_BEST_SPEED, zlib.DEFLATED, zlib.MAX_WBITS, _MOST_MEMORY, strategy
        )
        packed.append(coder.compress(content) + coder.flush())
    return min(packed, key=len)


def _inflate(content: bytes, size: int) -> bytes:
    """Undo :func:`_deflate`, never making more than the bytes that there must be."""
    coder = zlib.decompressobj()
    found = coder.decompress(content, size + 1)
    if len(found) != size or not coder.eof or coder.unused_data:
        raise ValueError(f"a part does not unpack to {size} bytes")
    return found


def pack(tensor: Tensor) -> tuple[bytes, bytes]:
    """Pack a tensor with many zeros: which elements are not zero, and what they are.

    Parameters
    ----------
    tensor
        Of any floating type and shape. The sign of a zero is not kept.

    Returns
    -------
    mask, values : bytes
        For :func:`unpack`.

    Examples
    --------
    >>> sparse = torch.tensor([[0.0, 1.5, 0.0], [0.0, 0.0, -2.0]])
    >>> torch.equal(unpack(*pack(sparse), sparse.shape, sparse.dtype), sparse)
    True
    """
    flat = tensor.detach().cpu().reshape(-1)
    kept = flat != 0
    values = flat[kept].view(torch.uint8).reshape(int(kept.sum()), flat.element_size())
    mask = np.packbits(kept.numpy())
    return _deflate(mask.tobytes()), _deflate(values.t().contiguous().numpy().tobytes())


def unpack(mask: bytes, values: bytes, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Undo :func:`pack`.

    Parameters
    ----------
    mask, values
        What :func:`pack` returned.
    shape, dtype
        Of the tensor. Nothing larger is ever unpacked, whatever the bytes claim.

    Returns
    -------
    Tensor

    Raises
    ------
    ValueError, zlib.error
        If the bytes do not fit the shape and type.
    """
    size = prod(shape)
    bits = np.frombuffer(_inflate(mask, -(-size // 8)), np.uint8)
    kept = np.unpackbits(bits, count=size).view(bool)
    count, width = int(kept.sum()), dtype.itemsize
    planes = np.frombuffer(_inflate(values, count * width), np.uint8).reshape(width, count)
    flat = torch.zeros(size, width, dtype=torch.uint8)
    flat[torch.from_numpy(kept)] = torch.from_numpy(planes.T.copy())
    return flat.view(dtype).reshape(tuple(shape))


def pack_all(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Pack tensors by name: parts for a safetensors file, shapes and types for a manifest."""
    parts = {}
    forms = {}
    for name, tensor in tensors.items():
        for part, content in zip(("mask", "values"), pack(tensor), strict=True):
            parts[f"{part}:{name}"] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dtype = str(tensor.dtype).removeprefix("torch.")
        forms[name] = {"shape": list(tensor.shape), "dtype": dtype}
    return parts, forms


def unpack_all(parts: Mapping[str, Tensor], forms: Mapping[str, Any]) -> dict[str, Tensor]:
    """Undo :func:`pack_all`.

    Raises
    ------
    KeyError, TypeError, ValueError, zlib.error
        If the parts do not fit the forms.
    """
    tensors = {}
    for name, form in forms.items():
        mask, values = (parts[f"{part}:{name}"].numpy().tobytes() for part in ("mask", "values"))
        tensors[name] = unpack(mask, values, form["shape"], _DTYPES[form["dtype"]])
    return tensors
