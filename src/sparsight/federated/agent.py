"""An agent that shares a budget out among layers: a graph encoder, taught by reward (PPO)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparsight.datasets.pixels import drawn
from sparsight.errors import InputError

if TYPE_CHECKING:
    from sparsight.federated.selectors import Seen

__all__ = ["Agent", "Episode", "layer_features", "teach"]

_FEATURES, _WIDTH = 10, 32
_CLIP, _INNER, _RATE = 0.2, 10, 3e-4  # of PPO, as published
_OURS = Path(__file__).parent / "agent.safetensors"
_LEAST = 0.02  # share of a layer


def layer_features(seen: Seen) -> Tensor:
    """Describe each layer to the agent, ``(layers, 10)``: its shape, its weights, their update.

    Nothing of it depends on how many layers there are or what they are called, so one agent serves
    all networks.
    """
    rows: list[list[float]] = []
    sizes = [value.numel() for value in seen.after.values()]
    count = len(sizes)
    for place, (name, value) in enumerate(seen.after.items()):
        flat = value.flatten(1).float()
        norms, moves = flat.norm(dim=1), seen.updates[name].flatten(1).float().norm(dim=1)
        tiny = 1e-12
        rows.append(
            [
                place / max(1, count - 1),
                float(torch.log10(torch.tensor(float(flat.shape[0])))) / 3,
                float(torch.log10(torch.tensor(float(flat.shape[1])))) / 4,
                float(value.ndim == 4),
                sizes[place] / sum(sizes),
                float(norms.std(correction=0) / (norms.mean() + tiny)),
                float(moves.std(correction=0) / (moves.mean() + tiny)),
                float(moves.max() / (moves.mean() + tiny)) / 10,
                float(torch.log10(moves.mean() / (norms.mean() + tiny) + 1e-6)) / 6,
                float(torch.log10(norms.mean() + 1e-6)) / 6,
            ]
        )
    return torch.tensor(rows)


class Agent(nn.Module):
    """A policy over the shares of layers.

    Layers are the nodes of a graph, joined in the order in which they stand; two rounds of messages
    between neighbours tell each of the others. The policy gives every layer the mean of a normal
    distribution; what is drawn is shifted by one number for all layers, so that the budget is met.

    Examples
    --------
    >>> agent = Agent(seed=0)
    >>> agent(torch.zeros(4, 10))[0].shape
    torch.Size([4])
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.enter = nn.Linear(_FEATURES, _WIDTH)
            self.hear = nn.ModuleList([nn.Linear(2 * _WIDTH, _WIDTH) for _ in range(2)])
            self.actor = nn.Linear(_WIDTH, 1)
            self.critic = nn.Linear(_WIDTH, 1)
        nn.init.zeros_(self.actor.weight)
        nn.init.zeros_(self.actor.bias)
        self.spread = nn.Parameter(torch.tensor(-0.5))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Means ``(layers,)`` of the policy, and the reward that is expected."""
        state = torch.tanh(self.enter(features))
        for layer in self.hear:
            around = torch.zeros_like(state)
            around[1:] = around[1:] + state[:-1]
            around[:-1] = around[:-1] + state[1:]
            state = state + torch.tanh(layer(torch.cat([state, around / 2], 1)))
        return self.actor(state)[:, 0], self.critic(state.mean(0))[0]

    def shares(self, seen: Seen, budget: float, drawn_: Tensor | None = None) -> dict[str, float]:
        """Share of each layer that is sent, so that together they take the budget.

        Parameters
        ----------
        seen
            What the client knows.
        budget
            Share of all weights.
        drawn_
            Values to use in place of the policy's means, ``(layers,)``.
        """
        with torch.no_grad():
            means = self(layer_features(seen))[0] if drawn_ is None else drawn_
        sizes = torch.tensor([float(v.numel()) for v in seen.after.values()])
        low, high = -60.0, 60.0
        for _ in range(60):
            middle = (low + high) / 2
            rates = torch.sigmoid(means + middle).clamp(min=_LEAST)
            over = bool((rates * sizes).sum() > budget * sizes.sum())
            low, high = (low, middle) if over else (middle, high)
        rates = torch.sigmoid(means + low).clamp(min=_LEAST)
        return dict(zip(seen.after, rates.tolist(), strict=True))

    def save(self, file: str | Path) -> Path:
        """Write the agent as one safetensors file.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        file = Path(file)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({n: v.contiguous() for n, v in self.state_dict().items()}, file)
        except (OSError, SafetensorError) as error:
            raise InputError(f"cannot write {file} ({error}): choose another place") from error
        return file

    @classmethod
    def load(cls, file: str | Path = _OURS) -> Agent:
        """Read an agent; by default the one that comes along, taught on other federations.

        Raises
        ------
        InputError
            If it is not there, or something else.
        """
        found = cls()
        try:
            found.load_state_dict(load_file(file))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise InputError(f"{file} holds no agent: train one, and save it") from error
        return found.eval()


@dataclass(frozen=True)
class Episode:
    """One choice to learn from.

    Attributes
    ----------
    seen
        What the client knew.
    reward
        From masks to how good they are.
    """

    seen: Seen
    reward: Callable[[Mapping[str, Tensor]], float]


def teach(
    agent: Agent,
    episodes: Sequence[Episode],
    budget: float,
    *,
    rounds: int = 30,
    each: int = 8,
    rate: float = _RATE,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> list[float]:
    """Teach an agent by proximal policy optimisation (Schulman et al., 2017).

    An episode is one step: the agent shares the budget out, and is rewarded. Advantages are
    rewards against the mean of the same episode, in units of their spread.

    Parameters
    ----------
    agent
        Changed in place.
    episodes
        From several clients and rounds.
    budget
        Share of all weights.
    rounds, each
        Updates, and draws for each episode and update.
    rate
        Learning rate of Adam.
    seed
        Of the draws.
    progress
        Called with stage, updates done and updates in all.

    Returns
    -------
    list
        Mean reward of each update.
    """
    from sparsight.federated.selectors import SELECTORS, fill_layers

    optimizer = torch.optim.Adam(agent.parameters(), rate)
    found: list[float] = []
    features = [layer_features(episode.seen) for episode in episodes]
    scores = [SELECTORS["agent"].scores(episode.seen) for episode in episodes]
    for number in range(rounds):
        progress("teaching", number, rounds)
        generator = drawn(seed, 37, number)
        tried: list[_Tried] = []
        for place, episode in enumerate(episodes):
            with torch.no_grad():
                means, spread = agent(features[place])[0], agent.spread.exp()
            noise = torch.randn(each, len(means), generator=generator)
            draws = means + spread * noise
            rewards = torch.tensor(
                [
                    episode.reward(
                        fill_layers(scores[place], agent.shares(episode.seen, budget, one))
                    )
                    for one in draws
                ]
            )
            advantages = (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-8)
            old = _likelihood(draws, means, spread)
            tried.append(_Tried(features[place], draws, old, advantages, rewards))
        found.append(sum(float(one.rewards.mean()) for one in tried) / len(tried))
        for _ in range(_INNER):
            loss = torch.zeros(())
            for one in tried:
                means, expected = agent(one.features)
                ratio = (_likelihood(one.draws, means, agent.spread.exp()) - one.old).exp()
                clipped = ratio.clamp(1 - _CLIP, 1 + _CLIP)
                loss = loss - torch.minimum(ratio * one.advantages, clipped * one.advantages).mean()
                loss = loss + 0.5 * (expected - one.rewards).square().mean()
            optimizer.zero_grad()
            (loss / len(tried)).backward()
            optimizer.step()
    return found


@dataclass(frozen=True)
class _Tried:
    """What was drawn for one episode, and what came of it."""

    features: Tensor
    draws: Tensor
    old: Tensor
    advantages: Tensor
    rewards: Tensor


def _likelihood(draws: Tensor, means: Tensor, spread: Tensor) -> Tensor:
    """Logarithms of the densities of draws ``(each, layers)``."""
    found: Tensor = torch.distributions.Normal(means, spread).log_prob(draws).sum(1)
    return found
