"""Units cut out: the smaller network answers as the one with zeros does."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from blame.reference import network_of
from chains.test_gates import residual
from contracts import untouched
from sparsight.chains import cut, extract
from sparsight.errors import InputError, UnsupportedError
from sparsight.networks import load


@pytest.mark.parametrize(
    "spec", ["embedded", "torchvision:resnet18", "torchvision:mobilenet_v2", "torchvision:vgg11"]
)
@pytest.mark.parametrize("keep", [0.1, 0.5])
def test_the_smaller_network_answers_as_the_chain(spec, keep):
    network = load(spec, weights=None if spec == "embedded" else "random")
    x = torch.randn(2, 3, *network.preprocessing.size)
    chain = extract(network, x, selector="random", keep=keep)
    with untouched(network.model):
        found = cut(network, chain, x)
    torch.testing.assert_close(found.network.logits(x), chain.chain_logits, rtol=1e-4, atol=1e-5)
    assert found.weights < 0.8 * found.before
    assert 0 < found.cut <= found.gone


def test_what_torch_pruning_cannot_cut_is_said_in_a_line():
    network = load("torchvision:regnet_y_400mf", weights="random")
    x = torch.randn(2, 3, *network.preprocessing.size)
    chain = extract(network, x, selector="random", keep=0.3)
    with untouched(network.model), pytest.raises(UnsupportedError, match="or use gates"):
        cut(network, chain, x)


@pytest.mark.parametrize("seed", range(3))
def test_channels_of_a_stream_go_only_if_nobody_keeps_them(seed):
    gated = residual("batch", seed)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    chain = extract(gated.network, x, selector="random", keep=0.4, seed=seed)
    closed = replace(
        chain, open=torch.zeros(2, dtype=torch.bool), kept=chain.kept & (~gated.within.any(0))
    )
    for one in (chain, closed):
        found = cut(gated.network, one, x)
        wanted = gated.logits(x, *one.gates(2))
        torch.testing.assert_close(found.network.logits(x), wanted, rtol=1e-9, atol=1e-12)
    stem = chain.kept[:6] | chain.kept[6:12] | chain.kept[20:26]
    left = cut(gated.network, chain, x).network.model.stem.out_channels
    assert left == max(1, int(stem.sum()))


def test_a_frozen_network_is_cut_and_stays_frozen():
    network = load("embedded")
    network.model.requires_grad_(False)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = cut(network, extract(network, x, selector="random", keep=0.5), x)
    assert not any(p.requires_grad for p in found.network.model.parameters())


def test_a_normalisation_over_channels_is_refused():
    class Layered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.norm(self.conv(x).mean((2, 3))))

    torch.manual_seed(0)
    network = network_of(Layered())
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    chain = extract(network, x, selector="random", keep=0.5)
    with pytest.raises(UnsupportedError, match="use gates instead"):
        cut(network, chain, x)


def test_without_torch_pruning_it_is_named(monkeypatch):
    network = load("embedded")
    x = torch.randn(1, 3, 64, 64)
    chain = extract(network, x, selector="random", keep=0.5)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(InputError, match=r"pip install 'sparsight\[slice\]'"):
        cut(network, chain, x)
