"""Attacks stay in their ball and in [0, 1]; objectives against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsight.errors import InputError
from sparsight.robust import Attack, carlini_wagner, choose_objective, fgsm, margin, pgd
from sparsight.robust.attacks import ATTACK_LOSSES, STARTS


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(6 * 36, 4),
    ).eval()  # fmt: skip


def given_images(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(count, 3, 8, 8, generator=generator).mul(1.4).sub(0.2).clamp(0, 1)
    return x, torch.arange(count) % 4


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.001, 1), st.floats(0.001, 1), st.integers(1, 4), st.sampled_from(ATTACK_LOSSES),
    st.sampled_from(STARTS), st.integers(1, 2),
)  # fmt: skip
def test_an_attack_stays_in_the_ball_and_the_range(epsilon, step, steps, loss, start, restarts):
    x, y = given_images()
    moved = Attack(epsilon, step, steps, restarts, loss, start)(small(), x, y)
    assert float((moved - x).abs().max()) <= epsilon + 1e-6
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert not moved.requires_grad


def test_an_attack_raises_its_loss():
    x, y = given_images(40)
    model = small()
    before = F.cross_entropy(model(x), y)
    for attack in (fgsm(0.05), pgd(0.05), pgd(0.05, 50, 2)):
        assert F.cross_entropy(model(attack(model, x, y)), y) > before
    moved = carlini_wagner(0.05)(model, x, y)
    assert margin(model(moved), y).mean() > margin(model(x), y).mean()


def test_one_step_is_the_sign_of_the_gradient():
    x, y = given_images()
    model = small()
    x.requires_grad_()
    (pull,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    wanted = (x + 0.1 * pull.sign()).clamp(0, 1).detach()
    assert torch.allclose(fgsm(0.1)(model, x.detach(), y), wanted)


def test_the_margin_is_its_definition():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 200.0, 1.0]])
    assert margin(logits, torch.tensor([0, 0])).tolist() == [-1.0, 50.0]


def test_modes_and_gradients_of_the_model_are_as_before():
    x, y = given_images()
    model = small().train()
    model[1].eval()
    running = model[1].running_mean.clone()
    pgd()(model, x, y)
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert torch.equal(model[1].running_mean, running)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_same_generator_starts_alike():
    x, y = given_images()
    once, again, other = (
        pgd()(small(), x, y, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epsilon": 8}, "8/255"),
        ({"step": 0}, "8/255"),
        ({"steps": 0}, "1 or more"),
        ({"loss": "luck"}, "cannot raise"),
        ({"start": "there"}, "no start"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        Attack(**options)


def test_objectives_are_their_definitions():
    x, y = given_images()
    model = small()
    moved = pgd(0.1)(model, x, y)
    clean, attacked = model(x), model(moved)
    attack = Attack()
    assert torch.allclose(
        choose_objective("natural", attack).loss(model, x, x, y), F.cross_entropy(clean, y)
    )
    assert torch.allclose(
        choose_objective("pgd", attack).loss(model, x, moved, y), F.cross_entropy(attacked, y)
    )
    p, q = clean.softmax(1), attacked.softmax(1)
    apart = (p * (p.log() - q.log())).sum(1)
    assert torch.allclose(
        choose_objective("trades", attack).loss(model, x, moved, y),
        F.cross_entropy(clean, y) + 6 * apart.mean(), atol=1e-5,
    )  # fmt: skip
    own = q.gather(1, y[:, None])[:, 0]
    other = q.scatter(1, y[:, None], 0).amax(1)
    boosted = -(own.log() + (1 - other).log()).mean()
    unsure = 1 - p.gather(1, y[:, None])[:, 0]
    assert torch.allclose(
        choose_objective("mart", attack).loss(model, x, moved, y),
        boosted + 5 * (apart * unsure).mean(), atol=1e-5,
    )  # fmt: skip


def test_objectives_attack_as_they_should():
    x, y = given_images()
    model = small()
    assert choose_objective("natural", Attack()).attacked(model, x, y) is x
    assert choose_objective("trades", Attack()).attack.loss == "divergence"
    assert choose_objective("free", Attack(), replays=3).replays == 3
    with pytest.raises(InputError, match="no objective"):
        choose_objective("luck", Attack())
    with pytest.raises(InputError, match="replays"):
        choose_objective("free", Attack(), replays=0)
