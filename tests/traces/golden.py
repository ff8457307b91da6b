"""What the published solvers computed, entry by entry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor


class Entry(NamedTuple):
    """One published result: weights are ``(1, rows, columns)``."""

    weight: Tensor
    moment: Tensor
    expected: Tensor
    facts: dict[str, Any]
    inputs: Tensor
    convolution: bool

    def damping(self, dead: float) -> float:
        """Relative damping of ours that is as large as the published one.

        The published mean diagonal counts each dead input as ``dead``; ours leaves it out.
        """
        diagonal = self.moment[0].diagonal()
        published = torch.where(diagonal == 0, dead, diagonal).mean()
        return self.facts["damp"] * float(published / diagonal[diagonal > 0].mean())

    def check(self, found: Tensor) -> None:
        """Masks equal, weights within 1e-4 relative."""
        assert torch.equal(found != 0, self.expected != 0), self.facts["key"]
        distance = (found - self.expected).norm()
        assert distance <= 1e-4 * self.expected.norm(), self.facts["key"]


def entries(shared: Path, solver: str) -> Iterator[Entry]:
    """All results of one published solver."""
    folder = shared / "golden"
    tensors = load_file(folder / "solvers_dev.safetensors")
    for tag, entry in json.loads((folder / "solvers_dev.json").read_text()).items():
        dense = tensors[f"{tag}.weight"]
        weight = dense.reshape(1, dense.shape[0], -1)
        for facts in entry["results"]:
            if facts["solver"] == solver:
                yield Entry(
                    weight,
                    tensors[f"{tag}.hessian_times_scale"][None],
                    tensors[facts["key"]].reshape(weight.shape),
                    facts,
                    tensors[f"{tag}.input"],
                    dense.ndim == 4,
                )
