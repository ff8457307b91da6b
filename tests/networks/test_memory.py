"""Networks that want their features in the usual memory layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsight.attribution import attribute
from sparsight.attribution.metrics import insertion
from sparsight.blame import SaliencyOf
from sparsight.networks import Network, Preprocessing, Units, memory_layout
from sparsight.traces import trace


class Viewing(nn.Module):
    """Flattens by ``view``, as many tutorials do, which channels-last features refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.last = nn.Linear(8 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.last(x.view(x.size(0), -1))


class Flattening(Viewing):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).relu()).relu().flatten(1))


def both() -> tuple[Network, Network]:
    torch.manual_seed(0)
    viewing, flattening = Viewing().eval(), Flattening().eval()
    flattening.load_state_dict(viewing.state_dict())
    frame, labels = Preprocessing((16, 16), None), tuple("abcd")
    return Network(viewing, frame, labels), Network(flattening, frame, labels)


def test_the_layout_is_the_one_that_the_network_takes() -> None:
    viewing, flattening = both()
    x = torch.rand(1, 3, 16, 16)
    assert memory_layout(viewing, x) == torch.contiguous_format
    assert memory_layout(flattening, x) == torch.channels_last


def test_another_failure_is_not_taken_for_a_matter_of_layout() -> None:
    def fails(batch: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        memory_layout(fails, torch.rand(1, 3, 4, 4))


def test_a_network_that_flattens_by_view_is_traced_explained_blamed_and_judged() -> None:
    """It crashed: ``view size is not compatible with input tensor's size and stride``."""
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = []
    for network in both():
        made = [
            trace(network, x, sparsity=0.5, augmentations=4, solver=solver).tensors["last.weight"]
            for solver in ("compensated", "sparsegpt")
        ]
        heat = attribute(network, x, 1, "lime", samples=32).heat()
        measure = SaliencyOf(network, Units.of(network.model, ["filter"]))
        blamed = measure(x.expand(3, -1, -1, -1), torch.tensor([0, 1, 2])).saliency
        curve = insertion(network, x, 1, heat[None], steps=8).values
        found.append([*made, heat, blamed, curve])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
