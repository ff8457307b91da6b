"""The agent: it meets budgets, learns what is rewarded, and is read from files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from contracts import untouched
from federated.federation_kit import federation_of, network_of
from sparsight.errors import InputError
from sparsight.federated import (
    Agent,
    Episode,
    FederatedSettings,
    Memory,
    Seen,
    Setup,
    federate,
    lessons,
    teach,
)
from sparsight.federated.agent import layer_features
from sparsight.federated.lessons import reward


@pytest.fixture(scope="module")
def seen() -> Seen:
    """What a client knows after a round."""
    setup = Setup(network_of(), federation_of(), FederatedSettings.preset(rate=0.2))
    return setup.client(0).look(setup.server().message(0), Memory())


def test_shares_meet_the_budget_whatever_the_policy_says(seen: Seen) -> None:
    sizes = torch.tensor([float(v.numel()) for v in seen.after.values()])
    for budget in (0.05, 0.3, 0.9):
        for value in (torch.zeros(3), torch.tensor([3.0, -3.0, 0.0])):
            shares = torch.tensor(list(Agent().shares(seen, budget, value).values()))
            assert float((shares * sizes).sum() / sizes.sum()) == pytest.approx(budget, abs=1e-3)
    assert layer_features(seen).shape == (3, 10)
    assert bool(torch.isfinite(layer_features(seen)).all())


def test_an_untaught_agent_gives_every_layer_the_same_share(seen: Seen) -> None:
    assert list(Agent().shares(seen, 0.25).values()) == pytest.approx([0.25] * 3, abs=1e-4)


def test_it_learns_to_give_to_the_layer_that_is_rewarded(seen: Seen) -> None:
    """Only filters of the last layer count: its share must grow, and the reward with it."""
    name = list(seen.after)[-1]

    def judge(masks: dict[str, torch.Tensor]) -> float:
        return float(masks[name].float().mean())

    agent = Agent(seed=1)
    before = agent.shares(seen, 0.3)[name]
    rewards = teach(agent, [Episode(seen, judge)], 0.3, rounds=25, each=16, rate=3e-3)
    assert agent.shares(seen, 0.3)[name] > before + 0.15
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.05
    same = Agent(seed=1)
    assert teach(same, [Episode(seen, judge)], 0.3, rounds=25, each=16, rate=3e-3) == rewards


def test_the_reward_is_what_a_choice_takes_away_from_the_loss(seen: Seen) -> None:
    every = {n: torch.ones(len(v), dtype=torch.bool) for n, v in seen.after.items()}
    weights = {f"model.{name}": value for name, value in seen.before.items()}
    with untouched(seen.like.model), torch.no_grad():
        assert reward(seen, {n: ~m for n, m in every.items()}) == 0.0
        old = torch.func.functional_call(seen.classifier, weights, (seen.batch[0],))
        losses = [F.cross_entropy(x, seen.batch[1]) for x in (old, seen.classifier(seen.batch[0]))]
        assert reward(seen, every) == pytest.approx(float(losses[0] - losses[1]), abs=1e-5)


def test_lessons_come_from_rounds_and_serve_another_network(tmp_path: Path) -> None:
    setup = Setup(network_of(), federation_of(3, 60), FederatedSettings.preset(rate=0.2))
    found = lessons(setup, 3, every=2)
    assert len(found) == 6
    agent = Agent()
    teach(agent, found, 0.3, rounds=2, each=2)
    agent.save(tmp_path / "agent.safetensors")
    again = Agent.load(tmp_path / "agent.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(agent.parameters(), again.parameters(), strict=True)
    )
    used = federate(network_of(), federation_of(), rounds=1, selector="agent", agent=again)
    assert used.log[0]["up"] > 0
    (tmp_path / "agent.safetensors").write_bytes(b"noise")
    with pytest.raises(InputError, match="holds no agent"):
        Agent.load(tmp_path / "agent.safetensors")


def test_making_an_agent_draws_nothing_from_others() -> None:
    state = torch.get_rng_state()
    Agent(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
