"""Gates on units and branches: what is found by structure, exactness, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from blame.reference import network_of
from sparsight.chains.tasks import Gated
from sparsight.networks import load
from sparsight.networks.branches import branches_of


class Residual(nn.Module):
    """A stem, a branch in place, one that is added to the left, a parallel sum, a classifier."""

    def __init__(self, normalisation: str = "batch") -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.one = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), norm(normalisation))
        self.two = nn.ModuleDict({"up": nn.Conv2d(6, 8, 1), "down": nn.Conv2d(8, 6, 1)})
        self.left, self.right = nn.Conv2d(6, 5, 1), nn.Conv2d(6, 5, 1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        out = self.one(x)
        out += x
        x = F.relu(out, inplace=True)
        x = x + self.two["down"](F.relu(self.two["up"](x)))
        x = self.left(x) + self.right(x)
        return self.fc(x.mean((2, 3)))


def norm(kind: str) -> nn.Module:
    if kind == "group":
        return nn.GroupNorm(2, 6)
    found = nn.BatchNorm2d(6)
    nn.init.normal_(found.weight)
    nn.init.normal_(found.bias)
    nn.init.normal_(found.running_mean)
    return found


def residual(kind: str = "batch", seed: int = 0) -> Gated:
    torch.manual_seed(seed)
    model = Residual(kind).double().eval()
    network = network_of(model)
    return Gated.of(network, torch.randn(1, 3, 12, 12, dtype=torch.float64))


def test_branches_are_found_by_structure():
    gated = residual()
    assert gated.names == ("one.0", "two")
    assert [b.layers for b in gated.branches] == [("one.0",), ("two.up", "two.down")]
    inside = {
        title: own.all(1).nonzero()[:, 0].tolist()
        for title, own in gated.units.split(gated.within).items()
    }
    assert inside == {
        "stem": [], "one.0": [0], "two.up": [1], "two.down": [1], "left": [], "right": []
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "count", "first"),
    [
        ("torchvision:resnet18", 8, "layer1.0"),
        ("torchvision:mobilenet_v2", 10, "features.3.conv"),
        ("torchvision:vgg11", 0, None),
        ("timm:vit_tiny_patch16_224", 24, "blocks.0.attn"),
        ("torchvision:swin_t", 24, "features.1.0.attn"),
        ("timm:test_resnet.r160_in1k", 4, None),
    ],
)
def test_branches_of_known_networks(spec, count, first):
    network = load(spec, weights="random")
    found = branches_of(network, torch.randn(1, 3, *network.preprocessing.size))
    assert len(found) == count
    assert len({branch.name for branch in found}) == count
    assert first is None or found[0].name == first


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_open_gates_change_nothing(kind):
    gated = residual(kind)
    x = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    units, branches = gated.ones(3)
    plain = gated.network.model(x)
    assert torch.equal(gated.logits(x, units, branches), plain)
    learnt = gated.logits(x, units.clone().requires_grad_(), branches.clone().requires_grad_())
    assert torch.equal(learnt, plain)


@pytest.mark.parametrize("branch", [0, 1])
def test_a_closed_branch_is_not_added(branch):
    gated = residual()
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    units, branches = gated.ones(2)
    branches[1, branch] = 0
    found = gated.logits(x, units, branches)
    model = gated.network.model
    y = F.relu(model.stem(x))
    y = F.relu(y + (model.one(y) if branch else 0))
    y = y + (0 if branch else model.two["down"](F.relu(model.two["up"](y))))
    wanted = model.fc((model.left(y) + model.right(y)).mean((2, 3)))
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-12, atol=0)
    assert torch.equal(found[0], model(x)[0]), "each image has gates of its own"


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_gates_are_after_the_normalisation(kind):
    """A gate of one half gives half of what the normalisation gives, shift included."""
    gated = residual(kind)
    x = torch.randn(1, 3, 12, 12, dtype=torch.float64)
    units, branches = gated.ones(1)
    gated.units.split(units)["one.0"][:] = 0.5
    model = gated.network.model
    y = F.relu(model.stem(x))
    y = F.relu(y + model.one(y) / 2)
    y = y + model.two["down"](F.relu(model.two["up"](y)))
    wanted = model.fc((model.left(y) + model.right(y)).mean((2, 3)))
    torch.testing.assert_close(gated.logits(x, units, branches), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_gradients_of_gates(kind):
    gated = residual(kind)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    units = torch.rand(2, len(gated.units), generator=generator, dtype=torch.float64)
    branches = torch.rand(2, 2, generator=generator, dtype=torch.float64)
    leaves = units.requires_grad_(), branches.requires_grad_()
    assert torch.autograd.gradcheck(lambda u, b: gated.logits(x, u, b), leaves)


def test_gradients_of_gates_of_heads_and_neurons():
    torch.manual_seed(0)
    network = load("timm:vit_tiny_patch16_224", weights="random")
    network.model.double()
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    gated = Gated.of(network, x)
    assert {group.kind for group in gated.units.groups} == {"filter", "head", "neuron"}
    units, branches = (one.double() for one in gated.ones(1))
    units.requires_grad_()
    branches.requires_grad_()
    pull = torch.autograd.grad(gated.logits(x, units, branches)[0, 0], [units, branches])
    step = 1e-5
    for number in (0, 200, 800, len(gated.units) - 1):
        moved = [units.detach().clone() for _ in range(2)]
        moved[0][0, number] += step
        moved[1][0, number] -= step
        up, down = (gated.logits(x, one, branches.detach())[0, 0] for one in moved)
        torch.testing.assert_close(
            (up - down) / (2 * step), pull[0][0, number], rtol=1e-4, atol=1e-9
        )


class Nested(nn.Module):
    """A branch that holds nothing but a branch and a layer, and is scaled where it is added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.last = (nn.Conv2d(n, 6, 1) for n in (3, 6, 6))
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        body = x + F.relu(self.inner(x))
        x = x + 0.2 * self.last(body)
        x = torch.add(x, self.inner(x), alpha=0.1)
        return self.fc(x.mean((2, 3)))


def test_units_are_in_all_branches_around_them():
    torch.manual_seed(0)
    network = network_of(Nested())
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    gated = Gated.of(network, x[:1])
    assert gated.names == ("inner", "inner (2)"), "an addition with a factor is no branch"
    units, branches = (one.double() for one in gated.ones(2))
    assert torch.equal(gated.logits(x, units, branches), network.model(x))
    gates = torch.tensor([[0.5, 0.25]])
    found = gated.units.split(gated.effective(units[:1], gates.double()))
    assert {title: own[0, 0].item() for title, own in found.items()} == {
        "stem": 1.0, "inner": 0.125, "last": 0.25
    }  # fmt: skip
