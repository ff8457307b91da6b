"""Masks: exactly so many, gradients straight through, budgets, exact copies."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.parametrize as parametrize
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparsight
from sparsight.errors import InputError, UnsupportedError
from sparsight.networks.classifier import PixelClassifier
from sparsight.robust.layers import channel_groups, layer_costs, prunable_weights
from sparsight.robust.masked import Masked, bake
from sparsight.robust.masks import Scores, TopK, top_mask
from sparsight.robust.rates import allocate_rates, kept_of


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 60))
def test_exactly_the_largest_are_kept(values, count):
    magnitudes = torch.tensor(values, dtype=torch.float32)
    count = min(count, len(values))
    mask = top_mask(magnitudes, count)
    assert int(mask.sum()) == count
    assert magnitudes[mask].min() >= (magnitudes[~mask].max() if count < len(values) else 0)


def test_gradients_go_straight_through_and_add_up_for_the_rate():
    scores = Scores(torch.randn(30), 0.57, 0.01)
    weight, upstream = torch.randn(30), torch.randn(30)
    mask = scores.mask()
    assert int(mask.sum()) == kept_of(float(scores.rate.detach()), 30)
    (weight * mask * upstream).sum().backward()
    pull = weight * upstream
    assert torch.allclose(scores.scores.grad, pull * scores.scores.sign())
    rate = scores.rate
    (slope,) = torch.autograd.grad(rate, scores.quota)
    assert torch.allclose(scores.quota.grad, pull.sum() * slope)
    magnitudes = torch.rand(8, requires_grad=True)
    rate = torch.tensor(0.4, requires_grad=True)
    TopK.apply(magnitudes, rate).backward(torch.arange(8.0))
    assert torch.equal(magnitudes.grad, torch.arange(8.0))
    assert float(rate.grad) == 28.0


class Small(nn.Module):
    """Convolutions, a normalisation, a residual sum and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.two, self.three = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.one(x)))
        x = x + self.three(F.relu(self.two(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 4).flatten(1))


def classifier(model: nn.Module | None = None) -> PixelClassifier:
    torch.manual_seed(0)
    made = (model or Small()).eval()
    return PixelClassifier(made, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)).eval()


X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_loss_of_the_budget_is_nine_at_a_tenth_for_a_hundredth():
    masked = Masked(classifier(), "weights", 0.01, X, start=0.1)
    assert float(masked.over_budget().detach()) == pytest.approx(9.0, rel=1e-4)
    assert float(Masked(classifier(), "weights", 0.5, X, start=0.1).over_budget().detach()) == 0.0


def test_the_budget_pulls_on_large_layers_most():
    masked = Masked(classifier(), "weights", 0.01, X)
    masked.over_budget().backward()
    sizes = {name: scores.scores.numel() for name, scores in masked.layers.items()}
    pulls = {name: float(scores.quota.grad) for name, scores in masked.layers.items()}
    assert sorted(sizes, key=sizes.get) == sorted(pulls, key=pulls.get)


@pytest.mark.parametrize("target", [0.01, 0.05, 0.37])
@pytest.mark.parametrize("start", [0.1, "uniform", "global", "lamp", "erk"])
def test_weights_are_kept_exactly(target, start):
    masked = Masked(classifier(), "weights", target, X, start=start)
    made, kept = masked.fixed()
    total = sum(one.size for one in kept)
    assert sum(one.kept for one in kept) == round(target * total)
    plain = bake(made)
    for one in kept:
        weight = plain.model.get_parameter(one.name)
        assert int((weight != 0).sum()) == one.kept
        assert one.kept >= 1


@pytest.mark.parametrize("how", ["global", "erk", "lamp"])
def test_rates_that_are_given_stay_as_they_are(how):
    given = {"learn_scores": False, "learn_rates": False}
    made = classifier()
    wanted = allocate_rates(prunable_weights(made.model), 0.3, how)
    masked = Masked(made, "weights", 0.3, X, start=how, **given)
    _, kept = masked.fixed()
    for one in kept:
        assert one.kept == pytest.approx(max(1, wanted[one.name] * one.size), abs=1.01), one.name
    if how == "global":
        _, kept = masked.fixed()
        weights = prunable_weights(classifier().model)
        every = torch.cat([w.abs().flatten() for w in weights.values()])
        threshold = every.sort(descending=True).values[round(0.3 * len(every)) - 1]
        for one in kept:
            assert one.kept == int((weights[one.name].abs() >= threshold).sum())


def test_a_target_below_one_weight_a_layer_is_refused():
    with pytest.raises(InputError, match="keeps one in each"):
        Masked(classifier(), "weights", 1e-4, X).fixed()


@pytest.mark.parametrize("mode", ["weights", "channels"])
def test_fixed_and_baked_are_what_was_masked(mode):
    masked = Masked(classifier(), mode, 0.3, X, start=0.4)
    images = torch.rand(4, 3, 8, 8)
    for scores in masked.layers.values():
        scores.scores.data.uniform_(-1, 1)
    made, kept = masked.fixed()
    counts = {one.name: one.kept for one in kept}
    for name, scores in masked.layers.items():
        rate = torch.tensor((counts[name] - 0.5) / scores.scores.numel())
        inner = ((rate - scores.least) / (1 - scores.least)).clamp(1e-6, 1 - 1e-6)
        scores.quota.data = torch.logit(inner)
        assert kept_of(float(scores.rate.detach()), scores.scores.numel()) == counts[name]
    with torch.no_grad():
        wanted, held = masked.classifier(images), made(images)
        assert torch.equal(wanted, held)
        assert torch.equal(bake(made)(images), wanted)
    assert not any("parametrizations" in name for name, _ in made.named_parameters())


def test_channels_meet_the_budget_from_below_and_keep_one_each():
    masked = Masked(classifier(), "channels", 0.25, X, start=0.5)
    made, kept = masked.fixed()
    assert {one.name for one in kept} == {"one", "two"}
    assert all(one.kept >= 1 for one in kept)
    costs = layer_costs(Small().eval(), X)
    share = {one.name: one.kept / one.size for one in kept}
    products = (
        costs["one.weight"] * share["one"]
        + costs["two.weight"] * share["one"] * share["two"]
        + costs["three.weight"] * share["two"] * share["one"]
        + costs["fc.weight"] * share["one"]
    )
    total = sum(costs.values())
    assert products / total <= 0.25
    one_more = (share["one"] + 1 / 8) / share["one"]
    assert products * one_more / total > 0.25, "not one channel more fits"
    assert made.model.fc.weight.shape == (5, 128)
    with pytest.raises(InputError, match="larger target"):
        Masked(classifier(), "channels", 0.001, X).fixed()


def test_channels_begin_with_the_norms_of_what_reads_them():
    made = classifier()
    masked = Masked(made, "channels", 0.5, X)
    two, fc = made.model.two, made.model.fc

    def scaled(weight: torch.Tensor) -> torch.Tensor:
        bound = (6 / weight[0].numel()) ** 0.5
        return bound * weight.abs() / weight.abs().max()

    originals = masked.originals()
    squares = torch.stack([
        scaled(originals["two.weight"])[:, c].square().sum()
        + scaled(originals["fc.weight"]).reshape(5, 8, 16)[:, c].square().sum()
        for c in range(8)
    ])  # fmt: skip
    assert set(masked.layers) == {"one", "two"}
    assert two.weight.shape == (12, 8, 1, 1)
    assert fc.weight.shape == (5, 128)
    wanted = squares.sqrt() / squares.sqrt().max()
    assert torch.allclose(masked.layers["one"].scores, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "mobilenet_v2"])
def test_real_architectures_can_lose_channels(name):
    model = torchvision.models.get_model(name, num_classes=4).eval()
    x = torch.rand(1, 3, 64, 64)
    masked = Masked(
        PixelClassifier(model, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)),
        "channels",
        0.25,
        x,
        start="uniform",
    )
    assert float(masked.share().detach()) == pytest.approx(0.25, rel=1e-3)
    made, kept = masked.fixed()
    assert sum(one.kept for one in kept) < 0.75 * sum(one.size for one in kept)
    with torch.no_grad():
        assert torch.isfinite(made(x)).all()


def test_only_scores_and_quotas_learn_under_a_mask():
    masked = Masked(classifier(), "weights", 0.2, X)
    for weight in masked.originals().values():
        weight.requires_grad_(False)
    with masked.cached():
        loss = masked.classifier(X).sum()
        loss.backward()
    assert all(scores.scores.grad is not None for scores in masked.layers.values())
    assert all(weight.grad is None for weight in masked.originals().values())
    fixed = Masked(classifier(), "weights", 0.2, X, learn_scores=False, learn_rates=False)
    assert not any(s.scores.requires_grad or s.quota.requires_grad for s in fixed.layers.values())


def test_scores_alone_really_reach_their_target():
    masked = Masked(classifier(), "weights", 0.01, X, start="uniform", learn_rates=False)
    kept = sum(int(mask.sum()) for mask in masked.masks().values())
    total = sum(scores.scores.numel() for scores in masked.layers.values())
    assert kept / total == pytest.approx(0.01, abs=len(masked.layers) / total)


def test_a_mask_is_computed_once_in_its_block(monkeypatch):
    masked = Masked(classifier(), "weights", 0.2, X)
    made = []
    real = Scores.mask
    monkeypatch.setattr(Scores, "mask", lambda self: made.append(1) or real(self))
    with masked.cached():
        for _ in range(5):
            masked.classifier(X)
    assert len(made) == len(masked.layers)


def test_attention_can_be_masked_too():
    model = torchvision.models.VisionTransformer(16, 8, 1, 2, 12, 24, num_classes=4).eval()
    x = torch.rand(2, 3, 16, 16)
    masked = Masked(
        PixelClassifier(model, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)).eval(), "weights", 0.2, x
    )
    made, kept = masked.fixed()
    assert any(one.name.endswith("in_proj_weight") for one in kept)
    with torch.no_grad():
        held = made(x)
        assert torch.allclose(bake(made)(x), held, atol=1e-6)


def test_tied_weights_are_refused():
    model = Small()
    model.two.weight = nn.Parameter(torch.randn(12, 8, 1, 1))
    model.four = nn.Conv2d(8, 12, 1)
    model.four.weight = model.two.weight
    with pytest.raises(UnsupportedError, match="one weight"):
        prunable_weights(model)


def test_joined_channels_are_refused():
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.fc = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.cat([self.one(x), self.two(x)], 1).mean((2, 3)))

    with pytest.raises(UnsupportedError, match="prune weights instead"):
        channel_groups(Joined().eval(), X)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "heads"}, "weights or channels"),
        ({"target": 0.0}, r"in \(0, 1\)"),
        ({"target": 1.0}, r"in \(0, 1\)"),
        ({"scores": "luck"}, "no scores are called"),
        ({"start": 0.0}, "begin with a rate"),
        ({"least": 2.0}, "smallest rate"),
        ({"mode": "channels", "start": "lamp"}, "no allocation"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    given = {"mode": "weights", "target": 0.1} | options
    with pytest.raises(InputError, match=words):
        Masked(classifier(), x=X, **given)


def test_normalisation_is_inside_and_the_network_is_untouched():
    network = sparsight.load("embedded")
    before = {name: p.clone() for name, p in network.model.named_parameters()}
    made = PixelClassifier.of(network)
    Masked(made, "weights", 0.05, torch.rand(1, 3, 64, 64))
    assert not parametrize.is_parametrized(network.model)
    for name, parameter in network.model.named_parameters():
        assert torch.equal(parameter, before[name])
