"""Saliency of units: the published values, a naive loop, and what must not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from timm.layers import Mlp
from timm.models import SwinTransformer, VisionTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.models import vit_b_16

from blame.reference import network_of, slow_saliency
from contracts import untouched
from sparsight.blame import LOSSES, SaliencyOf, input_map, score, statistics, weight_gradients
from sparsight.blame.inputmap import BACKWARD, FORWARD, boosted_match
from sparsight.errors import InputError, NetworkError, NumericalError, UnsupportedError
from sparsight.networks import KINDS, Units


class Golden(nn.Module):
    """The network of the golden file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.softplus(self.bn1(self.conv1(x)))
        x = F.softplus(self.bn2(self.conv2(x)))
        return self.fc(F.softplus(self.conv3(x)).mean((2, 3)))


@pytest.fixture
def golden(shared: Path) -> dict[str, Tensor]:
    return load_file(shared / "golden" / "parameter_saliency_dev.safetensors")


def golden_network(golden):
    model = Golden()
    model.load_state_dict({k[6:]: v for k, v in golden.items() if k.startswith("state.")})
    return network_of(model, size=16, classes=10)


def close(found: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    assert (found - expected).abs().max() <= relative * expected.abs().max()


def test_saliency_and_scores_are_the_published_ones(golden):
    network = golden_network(golden)
    images = golden["images"].double()
    units = Units.of(network.model, ["filter"])
    close(SaliencyOf(network, units)(images, golden["labels"]).saliency, golden["filter_saliency"])
    usual = statistics(
        network, list(zip(images, golden["labels"].tolist(), strict=True)), kinds=["filter"]
    )
    close(usual.raw.mean, golden["mean"])
    close(usual.raw.std, golden["std"])
    close(score("z", golden["filter_saliency"][:4], usual), golden["standardised"])


def test_the_gradient_of_every_parameter_is_the_published_one(golden):
    network = golden_network(golden)
    loss = F.cross_entropy(network(golden["images"][:1].double()), golden["labels"][:1])
    found = torch.autograd.grad(loss, list(network.model.parameters()))
    flat = torch.cat([g.abs().flatten() for g in found])
    close(flat, golden["parameter_saliency_0"])


def test_maps_are_the_published_ones(golden):
    network = golden_network(golden)
    units = Units.of(network.model, ["filter"])
    std = golden["std"].double()
    for number in range(4):
        z = golden["standardised"][number].double()
        slopes = boosted_match(z, z.topk(10).indices) / std
        x, label = golden["images"][number : number + 1].double(), int(golden["labels"][number])
        found = input_map(network, x, label, units, slopes)
        assert found.computed == FORWARD
        close(found.gradient, golden["input_saliency"][number])


class Odd(nn.Module):
    """Grouped, strided, dilated and reused layers, a dead unit and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.group_norm = nn.GroupNorm(2, 8)
        self.line = nn.Conv1d(8, 6, 3, stride=2)
        self.fc = nn.Linear(6, 5)
        self.unused = nn.Linear(3, 4)
        with torch.no_grad():
            self.stem.bias[0] = -1e3  # its ReLU never opens

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.norm(self.grouped(x)), inplace=True)
        x = self.group_norm(self.twice(F.relu(self.twice(x))))
        return self.fc(F.relu(self.line(x.flatten(2))).mean(2))


class Columns(nn.Module):
    """Tokens first, then images: attention as torch does it by default."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(9, 12)
        self.attention = nn.MultiheadAttention(12, 3)
        self.norm = nn.LayerNorm(12)
        self.mlp = Mlp(12, 20)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(F.unfold(x[:, :1], 3, stride=3).permute(2, 0, 1))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head((x + self.mlp(self.norm(x))).mean(0))


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    vit = {"img_size": 12, "num_classes": 5, "embed_dim": 12}
    return {
        "odd": Odd(),
        "columns": Columns(),
        "vit": VisionTransformer(patch_size=4, depth=2, num_heads=3, **vit),
        "swin": SwinTransformer(
            patch_size=2, depths=(2, 2), num_heads=(2, 2), window_size=3, **vit
        ),
    }


def batch(number: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(number, 3, 12, 12, generator=generator, dtype=torch.float64)
    return images, torch.randint(5, (number,), generator=generator)


@pytest.mark.parametrize("name", list(models()))
@pytest.mark.parametrize("kinds", [[kind] for kind in KINDS] + [list(KINDS)], ids="-".join)
def test_saliency_equals_a_naive_loop(name, kinds):
    network = network_of(models()[name])
    units = Units.of(network.model, kinds)
    if not len(units):
        return
    images, labels = batch()
    with untouched(network.model):
        measure = SaliencyOf(network, units)
        found = measure(images, labels).saliency
    assert torch.allclose(found, slow_saliency(network, images, labels, units), atol=1e-14)
    if name == "odd" and "row" in kinds:
        assert "unused" in measure.untouched


@pytest.mark.parametrize("together", [1, 3000, 10**9])
def test_however_many_images_are_convolved_together(together, monkeypatch):
    monkeypatch.setattr(weight_gradients, "_TOGETHER", together)
    network = network_of(models()["odd"])
    units = Units.of(network.model, ["filter"])
    images, labels = batch()
    found = SaliencyOf(network, units)(images, labels).saliency
    assert torch.allclose(found, slow_saliency(network, images, labels, units), atol=1e-14)


def test_heads_and_neurons_are_found_by_structure():
    for name, heads, neurons in (
        ("vit", 6, 2 * 48),
        ("swin", 8, 2 * 48 + 2 * 96),
        ("columns", 3, 20),
    ):
        model = models()[name]
        assert len(Units.of(model, ["head"])) == heads, name
        assert len(Units.of(model, ["neuron"])) == neurons, name
    assert not len(Units.of(models()["odd"], ["head", "neuron"]))


@given(st.integers(0, 10**6), st.integers(1, 7))
@settings(max_examples=10, deadline=None)
def test_neither_batch_size_nor_company_matters(seed, size):
    network = network_of(models()["odd"])
    measure = SaliencyOf(network, Units.of(network.model))
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(7, 3, 12, 12, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (7,), generator=generator)
    whole = measure(images, labels).saliency
    parts = [
        measure(x, y).saliency for x, y in zip(images.split(size), labels.split(size), strict=True)
    ]
    assert torch.allclose(torch.cat(parts), whole, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_every_loss_has_the_gradient_that_it_says(loss):
    network = network_of(models()["odd"])
    units = Units.of(network.model, ["filter"])
    images, labels = batch(1)
    value = {
        "label": lambda z: -z.log_softmax(1)[0, labels[0]],
        "prediction": lambda z: -z.log_softmax(1).amax(),
        "logit": lambda z: z[0, labels[0]],
        "difference": lambda z: (
            z[0, [i for i in range(5) if i != labels[0]]].amax() - z[0, labels[0]]
        ),
    }[loss]
    weight = network.model.twice.weight
    expected = torch.autograd.grad(value(network(images)), weight)[0].abs().mean((1, 2, 3))
    found = SaliencyOf(network, units, loss)(images, labels)
    assert torch.allclose(units.split(found.saliency[0])["twice"], expected, atol=1e-14)


@pytest.mark.parametrize("name", ["odd", "columns", "vit", "swin"])
def test_maps_equal_the_gradient_of_a_gradient(name):
    network = network_of(models()[name])
    units = Units.of(network.model, ["row", "filter", "norm"])
    images, labels = batch(1)
    slopes = torch.randn(len(units), dtype=torch.float64)
    with untouched(network.model):
        found = input_map(network, images, int(labels[0]), units, slopes)

    x = images.clone().requires_grad_()
    parameters = dict(network.model.named_parameters())
    with sdpa_kernel(SDPBackend.MATH):
        loss = F.cross_entropy(network(x), labels)
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), create_graph=True, allow_unused=True
    )
    by_name = dict(zip(parameters, gradients, strict=True))
    total = torch.zeros((), dtype=torch.float64)
    start = 0
    for group in units.groups:
        own = slopes[start : start + group.count]
        start += group.count
        if group.kind == "norm":
            both = [by_name[f"{group.name}.{k}"].abs().flatten() for k in ("weight", "bias")]
            total = total + (own * torch.stack(both).mean(0)).sum()
        else:
            (part,) = group.parts
            gradient = by_name[part.matrix.parameter]
            if gradient is not None:
                rows = part.matrix.pack(gradient.abs()).flatten(0, 1).mean(1)
                total = total + (own * rows).sum()
    (expected,) = torch.autograd.grad(total, x)
    assert torch.allclose(found.gradient, expected[0], rtol=1e-8, atol=1e-12)


class NoForwardRule(torch.autograd.Function):
    """Doubles, and cannot be differentiated forward."""

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def test_without_a_forward_rule_maps_go_backward_twice_and_say_so():
    class After(Golden):
        def forward(self, x: Tensor) -> Tensor:
            return NoForwardRule.apply(super().forward(x))

    torch.manual_seed(0)
    plain, after = Golden(), After()
    after.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    network = network_of(after, size=16, classes=10)
    units = Units.of(network.model, ["filter"])
    slopes = torch.randn(len(units), dtype=torch.float64)
    found = input_map(network, x, 3, units, slopes, "logit")
    assert found.computed == BACKWARD
    same = input_map(network_of(plain, size=16, classes=10), x, 3, units, slopes, "logit")
    assert torch.allclose(found.gradient, 2 * same.gradient, rtol=1e-9)


def test_what_cannot_be_measured_is_refused():
    network = network_of(models()["odd"])
    units = Units.of(network.model)
    images, labels = batch()
    with pytest.raises(InputError, match="no loss is called"):
        SaliencyOf(network, units, "hinge")
    with pytest.raises(InputError, match="no such units"):
        SaliencyOf(network, Units.of(network.model, ["head"]))
    with pytest.raises(InputError, match="no kind of unit"):
        Units.of(network.model, ["hat"])
    with pytest.raises(NumericalError, match="NaN"):
        SaliencyOf(network, units)(images * float("nan"), labels)
    network.model.train()
    with pytest.raises(NetworkError, match="training mode"):
        SaliencyOf(network, units)


def test_heads_of_torchvision_are_counted_once():
    assert len(Units.of(vit_b_16(), ["head"])) == 144
    assert len(Units.of(vit_b_16(), ["neuron"])) == 12 * 3072


class Queries(nn.Module):
    """A learnt query asks the tokens: no image leads to its projection. A norm without a shift."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.query = nn.Linear(9, 12), nn.Parameter(torch.randn(1, 2, 12))
        self.pool = nn.MultiheadAttention(12, 3, batch_first=True)
        self.norm, self.head = nn.LayerNorm(12, bias=False), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(F.unfold(x[:, :1], 3, stride=3).mT)
        asked = self.pool(self.query.expand(len(x), -1, -1), x, x, need_weights=False)[0]
        return self.head(self.norm(asked).mean(1))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kinds", [["row"], ["head"], ["norm"]], ids="-".join)
def test_layers_that_no_image_leads_to_are_measured(kinds, frozen):
    network = network_of(Queries())
    units = Units.of(network.model, kinds)
    images, labels = batch()
    expected = slow_saliency(network, images, labels, units)
    for parameter in network.model.parameters():
        parameter.requires_grad_(not frozen)
    with untouched(network.model):
        measure = SaliencyOf(network, units)
        found = measure(images, labels).saliency
    assert torch.allclose(found, expected, atol=1e-14)
    assert not measure.untouched


class Sides(nn.Module):
    """Both sides of all images in one batch, the sides outermost."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        both = self.conv(torch.cat([x, x.flip(3)])).mean((2, 3))
        return self.fc(both.reshape(2, len(x), -1).sum(0))


def test_a_network_that_mixes_its_images_is_refused():
    network = network_of(Sides())
    units = Units.of(network.model, ["filter"])
    images, labels = batch()
    with pytest.raises(UnsupportedError, match="one at a time"):
        SaliencyOf(network, units)(images, labels)
    alone = SaliencyOf(network, units)(images[:1], labels[:1]).saliency
    assert torch.allclose(alone, slow_saliency(network, images[:1], labels[:1], units), atol=1e-14)


class OldStyle(torch.autograd.Function):
    """Squares, written as before there was setup_context."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def test_old_functions_go_backward_twice():
    class Squared(Golden):
        def forward(self, x: Tensor) -> Tensor:
            return OldStyle.apply(super().forward(x))

    network = network_of(Squared(), size=16, classes=10)
    units = Units.of(network.model, ["filter"])
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    found = input_map(network, x, 3, units, torch.randn(len(units), dtype=torch.float64))
    assert found.computed == BACKWARD
    assert bool(found.map.any())


def test_inputs_overwritten_in_place_are_refused():
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1
            out = self.conv(x)
            with torch.no_grad():
                x.zero_()
            return self.fc(out.mean((2, 3)))

    network = network_of(Overwriting())
    for parameter in network.model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(UnsupportedError, match="overwritten in place"):
        SaliencyOf(network, Units.of(network.model))(*batch())


def test_a_network_without_gradients_is_refused():
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 144, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1)).detach()

    network = network_of(Rounded())
    with pytest.raises(UnsupportedError, match="no gradient"):
        SaliencyOf(network, Units.of(network.model))(*batch())
