"""DeepLIFT against captum, against its definition, and complete where captum is not."""

from __future__ import annotations

import pytest
import torch
from captum.attr import DeepLift
from torch import nn

from attribution.small import ALL, Functional, Plain, Reused, picture, seeded
from sparsight.attribution import attribute
from sparsight.errors import UnsupportedError


def test_equals_captum_where_captum_is_right():
    plain = Plain()
    plain.pool = nn.AvgPool2d(2)
    model, x, x0 = seeded(plain), picture(), picture(seed=2)
    expected, delta = DeepLift(model).attribute(
        x[None].clone().requires_grad_(), x0[None], 2, return_convergence_delta=True
    )
    assert abs(float(delta)) < 1e-9
    ours = attribute(model, x, 2, "deep_lift", baseline=x0)
    torch.testing.assert_close(ours.map, expected[0].float(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("x", "x0", "expected"),
    [
        ([1.0, 2.0, 3.0, 0.0], [0.0, 0.5, 0.0, 0.0], [0.0, 0.0, 2.5, 0.0]),
        ([-1.0, -2.0, -3.0, -4.0], [0.0, 0.1, 0.0, 0.0], [0.0, -1.1, 0.0, 0.0]),
        ([1.0, 2.0, 0.5, 0.0], [0.0, 1.0, 4.0, 0.0], [0.0, 0.0, -2.0, 0.0]),
    ],
)
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(1)])
def test_the_higher_maximum_explains_a_pool(pool, x, x0, expected):
    model = nn.Sequential(pool, nn.Flatten(), nn.Linear(1, 1, bias=False)).eval()
    nn.init.ones_(model[2].weight)
    image, baseline = (torch.tensor(values).reshape(1, 2, 2) for values in (x, x0))
    result = attribute(model, image, 0, "deep_lift", baseline=baseline)
    torch.testing.assert_close(result.map.flatten(), torch.tensor(expected))


@pytest.mark.parametrize("other", [Reused, Functional])
@pytest.mark.parametrize("method", ["deep_lift", "lrp", "guided_backprop", "saliency"])
def test_reused_in_place_and_functional_activations_change_nothing(other, method):
    plain = seeded(Plain())
    twin = other()
    twin.load_state_dict(plain.state_dict())
    a = attribute(plain, picture(), 1, method)
    b = attribute(twin.double().eval(), picture(), 1, method)
    torch.testing.assert_close(a.map, b.map, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_complete_on_every_kind_of_network(name, baseline):
    model = seeded(ALL[name]())
    result = attribute(model, picture(), 3, "deep_lift", baseline=baseline)
    assert result.gap < 1e-9
    x0 = torch.full((1, 3, 16, 16), baseline).double()
    difference = (model(picture()[None]) - model(x0))[0, 3]
    torch.testing.assert_close(result.map.sum(), difference.float(), rtol=1e-4, atol=1e-5)


def test_rescale_rule_by_hand():
    w1 = torch.tensor([[1.0, 2.0], [-1.0, 1.0]])
    w2 = torch.tensor([[3.0, -2.0]])
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1)).eval()
    model.load_state_dict(
        {
            "1.weight": w1,
            "1.bias": torch.tensor([0.1, 0.2]),
            "3.weight": w2,
            "3.bias": torch.zeros(1),
        }
    )
    x, x0 = torch.tensor([0.5, -1.0]), torch.tensor([-0.5, 0.25])
    h, h0 = w1 @ x + model[1].bias, w1 @ x0 + model[1].bias
    slope = (nn.GELU()(h) - nn.GELU()(h0)) / (h - h0)
    expected = ((w2 * slope) @ w1)[0] * (x - x0)
    result = attribute(model, x.reshape(1, 1, 2), 0, "deep_lift", baseline=x0.reshape(1, 1, 2))
    torch.testing.assert_close(result.map.flatten(), expected.detach())


def test_equal_baseline_explains_nothing():
    model, x = seeded(ALL["Attention"]()), picture()
    assert not attribute(model, x, 0, "deep_lift", baseline=x).map.any()


class _Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head((1 + x.mean((2,))).prod(2))


def test_an_operation_without_a_rule_is_named_and_refused():
    model = seeded(_Product())
    with pytest.raises(UnsupportedError, match=r"no rescale rule for 1 x prod.*tolerance"):
        attribute(model, picture(), 0, "deep_lift")
    result = attribute(model, picture(), 0, "deep_lift", tolerance=1e9)
    assert result.gap > 0.05
    assert "prod" in result.notes[0]


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        if x.mean() > 0:
            x = x * 2
        return self.head(x.mean((2, 3)))


def test_branches_on_values_are_followed_or_refused_and_gradients_still_work():
    model, x = seeded(_Branching()), picture()
    assert attribute(model, x, 0, "saliency").map.any()
    try:
        assert attribute(model, x, 0, "lrp").map.any()
    except UnsupportedError as refusal:
        assert "recorded" in str(refusal)  # noqa: PT017
