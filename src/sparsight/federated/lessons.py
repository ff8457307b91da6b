"""What an agent learns from: rounds of a federation, and how good a choice was."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from sparsight.federated.agent import Episode
from sparsight.federated.federate import Setup
from sparsight.federated.memory import Memory
from sparsight.federated.selectors import Seen

__all__ = ["lessons", "reward"]


def reward(seen: Seen, masks: Mapping[str, Tensor]) -> float:
    """Judge a choice by the client's validation images: how much of the loss it takes away.

    In nats, of the network that has the client's own entries and the server's weights: 0 if nothing
    is sent, negative if what is sent is worse than nothing.

    Parameters
    ----------
    seen
        What the client knew.
    masks
        Rows that are sent, bool, by name.
    """
    pixels, labels = seen.batch
    model = seen.classifier

    def loss(sent: Mapping[str, Tensor]) -> float:
        weights = {}
        for name, new in seen.after.items():
            mask = sent[name].reshape(-1, *(1,) * (new.ndim - 1)).to(new.device)
            weights[f"model.{name}"] = torch.where(mask, new, seen.before[name])
        with torch.no_grad():
            logits = functional_call(model, weights, (pixels,))
        return float(F.cross_entropy(logits, labels))

    nothing = {n: torch.zeros(len(v), dtype=torch.bool) for n, v in seen.after.items()}
    return loss(nothing) - loss(masks)


def lessons(setup: Setup, rounds: int, *, first: int = 0, every: int = 1) -> list[Episode]:
    """Gather what clients know over the rounds of a federation in this process.

    Parameters
    ----------
    setup
        Not of the federation that the agent is for.
    rounds
        How many.
    first, every
        From which round on, and of which rounds: at the beginning batch normalisations know nothing
        yet, and rewards are noise.
    """
    server = setup.server()
    clients = [setup.client(number) for number in range(server.clients)]
    memories = [Memory() for _ in clients]
    found: list[Episode] = []
    for number in range(rounds):
        replies: dict[int, bytes | str] = {}
        for place in server.asked():
            message = server.message(place)
            if number >= first and (number - first) % every == 0:
                seen = clients[place].look(message, memories[place])
                found.append(Episode(seen, lambda masks, own=seen: reward(own, masks)))  # type: ignore[misc]
            replies[place], memories[place] = clients[place].train(message, memories[place])
        server.take(replies, 0, 0.0)
    return found
