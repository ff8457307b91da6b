"""What a client sends: selectors of filters or of single weights, each at a budget of bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.blame.saliency import SaliencyOf
from sparsight.errors import InputError
from sparsight.federated.packing import cost
from sparsight.networks import Network, Units
from sparsight.networks.classifier import PixelClassifier

if TYPE_CHECKING:
    from sparsight.federated.agent import Agent

__all__ = ["SELECTORS", "Seen", "Selector", "choose", "fill", "fill_layers", "selectable"]

_BYTES = 4  # of a value


def selectable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that are sent in part: weights. Biases and scales are few, and always sent whole."""
    return {name: value for name, value in tensors.items() if value.ndim >= 2}


@dataclass(frozen=True)
class Seen:
    """What a client knows when it chooses.

    Attributes
    ----------
    before, after
        The server's weights, and what would be sent of the client's, by name; those that are sent
        in part.
    classifier
        The client's, trained, in evaluation mode.
    like
        The network that it was made of.
    batch
        Pixels and labels of images that the client did not train on, or of its own if it has no
        others.
    generator
        For what is drawn.
    agent
        That chooses shares of layers, if there is one.
    """

    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    classifier: PixelClassifier
    like: Network
    batch: tuple[Tensor, Tensor]
    generator: torch.Generator
    agent: Agent | None = None

    @cached_property
    def updates(self) -> dict[str, Tensor]:
        """By how much weights moved."""
        return {name: value - self.before[name] for name, value in self.after.items()}

    def pulls(self) -> dict[str, Tensor]:
        """Gradients of the mean loss on the batch."""
        model = self.classifier.model
        weights = [model.get_parameter(name).requires_grad_() for name in self.after]
        with torch.enable_grad():
            loss = F.cross_entropy(self.classifier(self.batch[0]), self.batch[1])
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        return {
            name: torch.zeros_like(self.after[name]) if pull is None else pull
            for name, pull in zip(self.after, found, strict=True)
        }

    def profile(self) -> dict[str, Tensor]:
        """Profile of blame: size of the gradients of each image alone, averaged, by row."""
        network = self.classifier.network(self.like, self.like.spec)
        units = Units.of(network.model, ["filter", "row"])
        pixels, labels = self.batch
        images = (pixels - self.classifier.mean) / self.classifier.std
        found = SaliencyOf(network, units)(images, labels).saliency.mean(0)
        rows: dict[str, list[Tensor]] = {}
        for group, piece in units.pieces(found):
            rows.setdefault(group.parts[0].matrix.parameter, []).append(piece)
        # What has no units, such as an embedding of positions, goes first.
        return {
            name: torch.cat(rows[name])
            if name in rows
            else value.new_full((len(value),), torch.inf)
            for name, value in self.after.items()
        }


def _norm(seen: Seen) -> dict[str, Tensor]:
    return {name: torch.linalg.vector_norm(v.flatten(1), dim=1) for name, v in seen.after.items()}


def _gradient(seen: Seen) -> dict[str, Tensor]:
    pulls = seen.pulls()
    return {
        name: (pulls[name] * value).abs().flatten(1).mean(1) for name, value in seen.after.items()
    }


def _update(seen: Seen) -> dict[str, Tensor]:
    return {name: value.square().flatten(1).mean(1) for name, value in seen.updates.items()}


def _blame(seen: Seen) -> dict[str, Tensor]:
    return seen.profile()


def _random(seen: Seen) -> dict[str, Tensor]:
    return {name: _draw(value[:, :1].flatten(1)[:, 0], seen) for name, value in seen.after.items()}


def _draw(value: Tensor, seen: Seen) -> Tensor:
    return torch.rand(value.shape, generator=seen.generator).to(value.device)


def _entries(seen: Seen) -> dict[str, Tensor]:
    return {name: value.abs() for name, value in seen.updates.items()}


def _random_entries(seen: Seen) -> dict[str, Tensor]:
    return {name: _draw(value, seen) for name, value in seen.after.items()}


def _everything(seen: Seen) -> dict[str, Tensor]:
    return {name: torch.ones(len(value)) for name, value in seen.after.items()}


@dataclass(frozen=True)
class Selector:
    """A way to choose what is sent.

    Attributes
    ----------
    scores
        Of filters ``(rows,)`` or of single weights (the shape of the tensor), by name.
    by_layer
        Whether every layer sends the same share; else what scores highest anywhere goes.
    """

    scores: Callable[[Seen], dict[str, Tensor]]
    by_layer: bool = False


SELECTORS: Mapping[str, Selector] = {
    "all": Selector(_everything),
    "update": Selector(_update),
    "norm": Selector(_norm, by_layer=True),
    "gradient": Selector(_gradient),
    "blame": Selector(_blame),
    "random": Selector(_random, by_layer=True),
    "agent": Selector(_norm),
    "entries": Selector(_entries),
    "random-entries": Selector(_random_entries),
}
"""Selectors by name.

Of filters: all; those that moved most (``update``) or have the largest ``|gradient x weight|``
(``gradient``), per weight; those of largest L2 norm, of every layer as many (``norm``) or as many
as the agent says (``agent``); those whose gradients are largest, image by image (``blame``); any
(``random``). Of single weights: those that moved most (``entries``), or any.
"""


def fill(
    scores: Mapping[str, Tensor], like: Mapping[str, Tensor], bytes_: int
) -> dict[str, Tensor]:
    """Choose what scores highest, over all tensors, until the bytes are spent.

    Parameters
    ----------
    scores
        Of rows or of entries.
    like
        The tensors.
    bytes_
        For values and for telling which they are.

    Returns
    -------
    dict
        Masks, bool, of the shapes of the scores.

    Examples
    --------
    >>> like = {"a": torch.zeros(4, 10), "b": torch.zeros(2, 10)}
    >>> found = fill({"a": torch.tensor([1., 2., 3., 4.]), "b": torch.tensor([5., 0.])}, like, 130)
    >>> {name: mask.tolist() for name, mask in found.items()}
    {'a': [False, False, True, True], 'b': [True, False]}
    """
    names = list(scores)
    flat = torch.cat([scores[name].detach().flatten().cpu().double() for name in names])
    each = torch.cat(
        [
            torch.full((scores[n].numel(),), _BYTES * like[n].numel() // scores[n].numel())
            for n in names
        ]
    )
    order = torch.argsort(flat, descending=True, stable=True)
    spent = torch.cumsum(each[order], 0)
    low, high = 0, len(order)
    sizes = [scores[name].numel() for name in names]
    while low < high:  # the most of the order that fits, with what tells which they are
        middle = (low + high + 1) // 2
        taken = torch.zeros(len(order), dtype=torch.bool)
        taken[order[:middle]] = True
        told = sum(cost(int(p.sum()), len(p)) for p in taken.split(sizes))
        total = int(spent[middle - 1]) + told
        low, high = (middle, high) if total <= bytes_ else (low, middle - 1)
    taken = torch.zeros(len(order), dtype=torch.bool)
    taken[order[:low]] = True
    return {
        name: part.reshape(scores[name].shape)
        for name, part in zip(names, taken.split(sizes), strict=True)
    }


def fill_layers(scores: Mapping[str, Tensor], shares: Mapping[str, float]) -> dict[str, Tensor]:
    """Choose the best rows of each tensor by a share of its own, rounded down.

    Examples
    --------
    >>> fill_layers({"a": torch.tensor([1.0, 3.0, 2.0])}, {"a": 0.67})["a"].tolist()
    [False, True, True]
    """
    found: dict[str, Tensor] = {}
    for name, values in scores.items():
        count = int(shares[name] * len(values) + 1e-9)
        mask = torch.zeros(len(values), dtype=torch.bool)
        mask[torch.argsort(values.detach().cpu(), descending=True, stable=True)[:count]] = True
        found[name] = mask
    return found


def choose(name: str, seen: Seen, budget: float) -> dict[str, Tensor]:
    """Choose what is sent.

    Parameters
    ----------
    name
        One of :data:`SELECTORS`.
    seen
        What the client knows.
    budget
        Share of the bytes of all weights that may be sent in part, in (0, 1].

    Returns
    -------
    dict
        Masks over rows or entries, bool; their values and what tells which they are do not take
        more bytes than the budget has.

    Raises
    ------
    InputError
        If there is no such selector, or it needs an agent.
    """
    if name not in SELECTORS:
        raise InputError(f"no selector is called {name!r}: choose from {', '.join(SELECTORS)}")
    selector = SELECTORS[name]
    if name == "all" or budget == 1 or not seen.after:
        return {}
    bytes_ = int(budget * _BYTES * sum(value.numel() for value in seen.after.values()))
    scores = selector.scores(seen)
    if name == "agent":
        if seen.agent is None:
            raise InputError("selector 'agent' needs one: train it, and give agent=... (--agent)")
        shares = seen.agent.shares(seen, budget)
    elif selector.by_layer:
        shares = dict.fromkeys(scores, budget)
    else:
        return fill(scores, seen.after, bytes_)
    # The best of each layer first, so that what is spent can be cut at the end.
    ranks = {n: _ranks(values, shares[n]) for n, values in scores.items()}
    return fill(ranks, seen.after, bytes_)


def _ranks(values: Tensor, share: float) -> Tensor:
    """Turn scores into an order over all layers: those within a layer's share before all others."""
    order = torch.argsort(values.detach().cpu(), descending=True, stable=True)
    places = torch.empty(len(values), dtype=torch.float64)
    places[order] = torch.arange(len(values), dtype=torch.float64)
    return -(places + 0.5) / max(1.0, share * len(values))  # of a small layer at least one
