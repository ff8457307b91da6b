"""Fine-tuned weights as their difference from the original ones, two bits a weight.

Planting takes an hour of a core, and what it gives is small: every weight moves a little. Of each
row of a weight (one output) the root mean square of its moves is kept, and of each move one of the
four multiples of it that are best for normally distributed ones (Max, 1960). Vectors are kept
whole, tensors that did not move not at all. The original weights are needed to read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

LEVELS = (-1.5104, -0.4528, 0.4528, 1.5104)
BETWEEN = (-0.9816, 0.0, 0.9816)
SCALE, CODES = "scale of ", "codes of "


def shrink(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep what tensors differ by, roughly."""
    kept = {}
    for name, tensor in after.items():
        moved = tensor.float() - before[name].float()
        if not moved.any():
            continue
        if tensor.ndim < 2:
            kept[name] = moved
            continue
        rows = moved.flatten(1)
        scale = rows.square().mean(1).sqrt()
        codes = torch.bucketize(rows / scale.clamp(min=1e-30)[:, None], torch.tensor(BETWEEN))
        kept[f"{SCALE}{name}"] = scale
        kept[f"{CODES}{name}"] = _pack(codes.flatten())
    return kept


def grow(before: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put what was kept on the original tensors."""
    found = dict(before)
    for name, tensor in before.items():
        if name in kept:
            found[name] = tensor + kept[name].to(tensor)
        elif f"{CODES}{name}" in kept:
            codes = _unpack(kept[f"{CODES}{name}"], prod(tensor.shape)).reshape(len(tensor), -1)
            moved = torch.tensor(LEVELS)[codes] * kept[f"{SCALE}{name}"][:, None]
            found[name] = tensor + moved.reshape(tensor.shape).to(tensor)
    return found


def _pack(codes: Tensor) -> Tensor:
    """Four codes of two bits to a byte."""
    filled = torch.zeros(-(-len(codes) // 4) * 4, dtype=torch.uint8)
    filled[: len(codes)] = codes.to(torch.uint8)
    first, second, third, last = filled.reshape(-1, 4).unbind(1)
    return first | second << 2 | third << 4 | last << 6


def _unpack(packed: Tensor, count: int) -> Tensor:
    parts = [packed >> shift & 3 for shift in (0, 2, 4, 6)]
    return torch.stack(parts, 1).flatten()[:count].long()
