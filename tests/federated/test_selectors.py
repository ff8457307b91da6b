"""Selectors: each chooses what it says, and none spends more than the budget."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import untouched
from federated.federation_kit import federation_of, network_of
from sparsight.datasets.pixels import drawn
from sparsight.errors import InputError
from sparsight.federated import SELECTORS, Agent, FederatedSettings, Memory, Seen, Setup, choose
from sparsight.federated.packing import Payload, cost, pack
from sparsight.federated.selectors import fill


def seen_of(agent: Agent | None = None) -> Seen:
    """What a client knows after a round."""
    setup = Setup(network_of(), federation_of(), FederatedSettings.preset(), agent=agent)
    return setup.client(0).look(setup.server().message(0), Memory())


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("budget", [0.03, 0.25, 0.7])
def test_no_selector_spends_more_than_the_budget(name: str, budget: float) -> None:
    seen = seen_of(Agent())
    with untouched(seen.like.model):
        masks = choose(name, seen, budget)
    if name == "all":
        assert masks == {}
        return
    total = sum(value.numel() for value in seen.after.values())
    spent = 0
    for key, mask in masks.items():
        value = seen.after[key]
        assert mask.shape == (value.shape if "entries" in name else value.shape[:1])
        each = value.numel() // mask.numel()
        spent += 4 * each * int(mask.sum()) + cost(int(mask.sum()), mask.numel())
    assert spent <= 4 * budget * total
    largest = max(value[:1].numel() for value in seen.after.values())
    assert spent > 4 * (budget * total - 2 * largest) or "entries" in name, "and is spent"
    again = choose(name, seen_of(Agent()), budget)
    assert all(torch.equal(again[key], mask) for key, mask in masks.items())


@given(st.integers(0, 2**31), st.integers(0, 4000))
@settings(max_examples=60, deadline=None)
def test_filling_takes_a_head_of_the_order_and_no_longer_one(seed: int, bytes_: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    like = {"a": torch.zeros(9, 20), "b": torch.zeros(30, 5), "c": torch.zeros(4, 4, 3, 3)}
    scores = {n: torch.rand(len(v), generator=generator) for n, v in like.items()}
    masks = fill(scores, like, bytes_)
    inside = [float(s) for n, m in masks.items() for s in scores[n][m]]
    outside = [float(s) for n, m in masks.items() for s in scores[n][~m]]
    assert not inside or not outside or min(inside) >= max(outside)
    payload = Payload(like, masks)
    told = len(pack(payload)) - len(pack(Payload(like, {n: m & False for n, m in masks.items()})))
    assert told <= bytes_ + 200, "a payload's head says a little more"


def test_scores_are_what_they_are_called() -> None:
    seen = seen_of()
    name = "two.weight"
    row = 3
    weights = {n: v.clone().requires_grad_() for n, v in seen.after.items()}
    logits = torch.func.functional_call(
        seen.classifier, {f"model.{n}": v for n, v in weights.items()}, (seen.batch[0],)
    )
    pulls = torch.autograd.grad(F.cross_entropy(logits, seen.batch[1]), list(weights.values()))
    pull = dict(zip(weights, pulls, strict=True))[name][row]
    after, moved = seen.after[name][row], seen.after[name][row] - seen.before[name][row]
    expected = {
        "norm": after.norm(), "update": moved.square().mean(),
        "gradient": (after * pull).abs().mean(),
    }  # fmt: skip
    for selector, value in expected.items():
        assert torch.allclose(SELECTORS[selector].scores(seen)[name][row], value, rtol=1e-4)


def test_the_profile_of_blame_is_the_mean_over_images_of_the_sizes_of_their_gradients() -> None:
    seen = seen_of()
    found = SELECTORS["blame"].scores(seen)
    sums = {name: torch.zeros(len(value)) for name, value in seen.after.items()}
    for pixels, label in zip(*seen.batch, strict=True):
        weights = {n: v.clone().requires_grad_() for n, v in seen.after.items()}
        logits = torch.func.functional_call(
            seen.classifier, {f"model.{n}": v for n, v in weights.items()}, (pixels[None],)
        )
        loss = F.cross_entropy(logits, label[None])
        for name, pull in zip(sums, torch.autograd.grad(loss, weights.values()), strict=True):
            sums[name] += pull.abs().flatten(1).mean(1) / len(seen.batch[0])
    for name, value in sums.items():
        assert torch.allclose(found[name], value, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", ["norm", "random", "agent"])
def test_small_layers_are_not_forgotten(name: str) -> None:
    """At a budget of a twentieth a layer of eight filters still sends one."""
    masks = choose(name, seen_of(Agent()), 0.06)
    assert int(masks["one.weight"].sum()) >= 1


def test_random_filters_are_others_each_round() -> None:
    seen = seen_of()
    first = choose("random", seen, 0.5)
    second = choose("random", Seen(**{**vars_of(seen), "generator": drawn(5)}), 0.5)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def vars_of(seen: Seen) -> dict[str, object]:
    """Fields of what is seen."""
    return {name: getattr(seen, name) for name in Seen.__dataclass_fields__}


def test_no_such_selector_and_no_agent() -> None:
    with pytest.raises(InputError, match="choose from all, update"):
        choose("best", seen_of(), 0.5)
    with pytest.raises(InputError, match="needs one: train it"):
        choose("agent", seen_of(), 0.5)
