"""Several sparsities from one recording: the traces that one after another would give."""

from __future__ import annotations

import pytest
import torch

from sparsight.errors import InputError
from sparsight.networks import load
from sparsight.traces import trace, trace_at


@pytest.mark.parametrize("solver", ["sparsegpt", "refit", "wanda"])
def test_each_is_what_trace_makes(solver: str) -> None:
    network = load("embedded")
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    asked = [0.5, {"stage3": 0.9, "fc": 0.8}, "network:0.9", {"fc": 0.5}]
    together = trace_at(network, x, asked, solver=solver, augmentations=6, seed=3)
    for sparsity, found in zip(asked, together, strict=True):
        alone = trace(network, x, sparsity=sparsity, solver=solver, augmentations=6, seed=3)
        assert found.settings == alone.settings
        assert list(found.tensors) == list(alone.tensors)
        assert all(torch.equal(found.tensors[name], alone.tensors[name]) for name in found.tensors)
        assert found.layers == alone.layers


def test_front_to_back_shares_nothing() -> None:
    with pytest.raises(InputError, match="front to back"):
        trace_at(load("embedded"), torch.zeros(1, 3, 64, 64), [0.5], solver="compensated")
