"""Guided backpropagation against captum, and its refusals."""

from __future__ import annotations

import pytest
import torch
from captum.attr import GuidedBackprop
from torch import nn

from attribution.small import ALL, Plain, picture, seeded
from sparsight.attribution import attribute
from sparsight.errors import UnsupportedError


def test_equals_captum_where_captum_works():
    model, x = seeded(Plain()), picture()
    expected = GuidedBackprop(model).attribute(x[None].requires_grad_(), 2)[0]
    torch.testing.assert_close(attribute(model, x, 2, "guided_backprop").map, expected.float())


def _net(activation: nn.Module) -> nn.Module:
    return seeded(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), activation, nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * 144, 3)
        )
    )


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.Hardtanh(0, 6), nn.Threshold(0, 0)])
def test_other_spellings_of_relu(activation):
    result = attribute(_net(activation), picture(), 0, "guided_backprop")
    expected = attribute(_net(nn.ReLU()), picture(), 0, "guided_backprop")
    torch.testing.assert_close(result.map, expected.map)  # nothing reaches 6 here


def test_a_capped_relu_is_closed_where_it_saturates():
    model = nn.Sequential(nn.ReLU6(), nn.Flatten(), nn.Linear(2, 1, bias=False)).eval()
    nn.init.ones_(model[2].weight)
    result = attribute(model, torch.tensor([[[3.0, 7.0]]]), 0, "guided_backprop")
    assert result.map.tolist() == [[[1.0, 0.0]]]


@pytest.mark.parametrize(
    "activation",
    [
        nn.GELU(),
        nn.SiLU(),
        nn.Hardswish(),
        nn.LeakyReLU(0.1),
        nn.ELU(),
        nn.Mish(),
        nn.Softplus(),
        nn.PReLU(),
    ],
)
@pytest.mark.parametrize("method", ["guided_backprop", "guided_grad_cam"])
def test_other_rectifiers_are_refused(activation, method):
    with pytest.raises(UnsupportedError, match=r"ReLU.*use saliency"):
        attribute(_net(activation), picture(), 0, method)


def test_sigmoid_gates_do_not_disturb():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            y = self.a(x).relu()
            return self.head((y * torch.sigmoid(y.mean((2, 3), keepdim=True))).mean((2, 3)))

    assert attribute(seeded(Gated()), picture(), 0, "guided_backprop").map.any()


def test_no_relu_at_all_is_refused():
    with pytest.raises(UnsupportedError, match="has none"):
        attribute(_net(nn.Tanh()), picture(), 0, "guided_backprop")
    with pytest.raises(UnsupportedError, match="gelu"):
        attribute(seeded(ALL["Attention"]()), picture(), 0, "guided_backprop")
