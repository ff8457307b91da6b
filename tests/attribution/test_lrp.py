"""LRP against the textbook formula, against zennit, and conserving where others explode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, ResNet
from zennit.attribution import Gradient
from zennit.composites import LayerMapComposite, layer_map_base
from zennit.core import Composite
from zennit.rules import Epsilon, Gamma, ZPlus
from zennit.torchvision import ResNetCanonizer
from zennit.types import Convolution

from attribution.small import ALL, Plain, Residual, picture, seeded
from sparsight.attribution import attribute
from sparsight.errors import InputError, UnsupportedError

TINY = 1e-12


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("first", "spatial"), [("flat", "zplus"), ("gamma", "gamma"), ("epsilon", "epsilon")]
)
def test_conserves_on_every_kind_of_network(name, spatial, first):
    model = seeded(ALL[name]())
    result = attribute(model, picture(), 3, "lrp", first=first, spatial=spatial, epsilon=TINY)
    assert result.gap < 1e-7
    assert result.gap_of == "conservation"


def _dense(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """An affine layer as matrix and bias."""
    matrix = jacobian(lambda t: layer(t[None])[0], x).reshape(layer(x[None]).numel(), -1)
    return matrix, layer(torch.zeros_like(x)[None]).flatten().detach()


def _textbook(w: Tensor, b: Tensor, a: Tensor, r: Tensor, rule: str) -> Tensor:
    """Relevance of inputs, one output and one input at a time."""
    result = torch.zeros_like(a)
    for j in range(len(w)):
        contributions = [float(w[j, i] * a[i]) for i in range(len(a))]
        z = sum(contributions) + float(b[j])
        sign = 1 if z > 0 else -1

        def part(value: float, sign: int = sign) -> float:
            return value if value * sign > 0 else 0.0

        if rule == "flat":
            shares = [1.0 if w[j, i] != 0 else 0.0 for i in range(len(a))]
            total = sum(shares)
        else:
            plain, matched = {"epsilon": (1, 0), "gamma": (1, 0.25), "zplus": (0, 1)}[rule]
            shares = [plain * c + matched * part(c) for c in contributions]
            total = sum(shares) + plain * float(b[j]) + matched * part(float(b[j]))
        for i, share in enumerate(shares):
            result[i] += share / total * r[j] if total else 0.0
    return result


@pytest.mark.parametrize(
    ("first", "spatial"),
    [("flat", "zplus"), ("zplus", "gamma"), ("gamma", "epsilon"), ("epsilon", "zplus")],
)
def test_equals_the_textbook_formula(first, spatial):
    model = seeded(
        nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, stride=2),
            nn.SiLU(),
            nn.Conv2d(3, 4, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, 3),
        )
    )
    x = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(3)).double()
    a0, a1 = x, model[:2](x[None])[0].detach()
    a2 = model[:5](x[None])[0].detach()
    r = torch.zeros(3).double()
    r[1] = model(x[None])[0, 1].detach()
    r = _textbook(*_dense(model[5], a2), a2, r, "epsilon")
    r = _textbook(*_dense(model[2], a1), a1.flatten(), r, spatial)
    r = _textbook(*_dense(model[0], a0), a0.flatten(), r, first)
    result = attribute(model, x, 1, "lrp", first=first, spatial=spatial, epsilon=TINY)
    torch.testing.assert_close(result.map.flatten(), r.float(), rtol=1e-5, atol=1e-7)


def _zennit(model: nn.Module, x: Tensor, composite: Composite) -> Tensor:
    seed = torch.zeros_like(model(x[None])).detach()
    seed[0, 2] = model(x[None])[0, 2].detach()
    with Gradient(model=model, composite=composite) as attributor:
        return attributor(x[None], seed)[1][0].detach().float()


def _composite(rule: object, canonizers: list[object] | None = None) -> Composite:
    layers = [(Convolution, rule), (nn.Linear, Epsilon(epsilon=TINY))]
    return LayerMapComposite(layer_map_base(stabilizer=TINY) + layers, canonizers=canonizers)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("epsilon", Epsilon(epsilon=TINY)),
        ("gamma", Gamma(gamma=0.25, stabilizer=TINY)),
        ("zplus", ZPlus(stabilizer=TINY)),
    ],
)
def test_equals_zennit_on_a_plain_cnn(name, rule):
    model, x = seeded(Plain()), picture()
    ours = attribute(model, x, 2, "lrp", first=name, spatial=name, epsilon=TINY)
    torch.testing.assert_close(ours.map, _zennit(model, x, _composite(rule)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "rule"), [("epsilon", Epsilon(epsilon=TINY)), ("gamma", Gamma(gamma=0.25))]
)
def test_equals_zennit_with_its_canonizer_on_a_resnet(name, rule):
    model = seeded(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5))
    x = picture(32)
    ours = attribute(model, x, 2, "lrp", first=name, spatial=name, epsilon=TINY).map
    theirs = _zennit(model, x, _composite(rule, [ResNetCanonizer()]))
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-3


def test_batch_norm_is_merged():
    model = seeded(Residual())
    fused = seeded(Residual())
    fused.stem, fused.bn = fuse_conv_bn_eval(model.stem, model.bn), nn.Identity()
    fused.c1, fused.b1 = fuse_conv_bn_eval(model.c1, model.b1), nn.Identity()
    fused.c2, fused.b2 = fuse_conv_bn_eval(model.c2, model.b2), nn.Identity()
    a, b = (attribute(m.eval(), picture(), 2, "lrp").map for m in (model, fused))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


def test_no_share_exceeds_the_whole_in_deep_networks():
    blocks = [m for _ in range(12) for m in (nn.Conv2d(6, 6, 3, padding=1), nn.GELU())]
    model = seeded(nn.Sequential(nn.Conv2d(3, 6, 1), *blocks, nn.Flatten(), nn.Linear(6 * 64, 3)))
    result = attribute(model, picture(8), 0, "lrp")
    contributions = model[-1].weight[0].detach() * model[:-1](picture(8)[None])[0].detach()
    assert result.map.abs().sum() <= 1.001 * contributions.abs().sum()


def test_what_biases_absorb_is_named():
    notes = attribute(seeded(Residual()), picture(), 1, "lrp").notes
    assert any("biases and constants account for" in note for note in notes)
    bare = seeded(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 196, 2, bias=False),
        )
    )
    assert not any("biases" in note for note in attribute(bare, picture(), 1, "lrp").notes)


@pytest.mark.parametrize("build", [Plain, Residual])
def test_biases_can_hand_their_share_to_the_inputs(build):
    model = seeded(build())
    result = attribute(model, picture(), 1, "lrp", biases="share", epsilon=TINY)
    logit = model(picture()[None])[0, 1].detach().float()
    assert result.gap < 1e-7
    torch.testing.assert_close(result.map.sum(), logit, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="'keep'"):
        attribute(model, picture(), 1, "lrp", biases="keep")


def test_probabilities_are_refused():
    model = nn.Sequential(seeded(Plain()), nn.Softmax(-1)).eval()
    with pytest.raises(UnsupportedError, match="explain logits"):
        attribute(model, picture(), 1, "lrp")


def test_unknown_rules_are_refused():
    with pytest.raises(InputError, match="no rule 'flat' for spatial"):
        attribute(seeded(Plain()), picture(), 1, "lrp", spatial="flat")
    with pytest.raises(InputError, match="choose one of epsilon, zplus, gamma, flat"):
        attribute(seeded(Plain()), picture(), 1, "lrp", first="w2")


def test_a_network_that_copies_its_image_first_is_ruled_as_without():
    class Copied(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.clone().to(torch.float64).contiguous())

    plain = seeded(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)))
    x = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(3)).double()
    maps = [attribute(model, x, 1, "lrp").map for model in (plain, Copied(plain).eval())]
    assert torch.equal(*maps)
