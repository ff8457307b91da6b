"""What an image is optimised for: sums of channels, neurons, classes, directions, whole layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparsight.errors import InputError
from sparsight.networks import Network
from sparsight.visualization.layers import Layer, find_layer, list_layers

__all__ = [
    "LOGITS",
    "Objective",
    "Term",
    "channel",
    "direction",
    "layer",
    "logit",
    "neuron",
    "parse_objective",
    "parse_objectives",
]

LOGITS = ""
"""Stands for the network's answer among the names of layers."""


@dataclass(frozen=True, eq=False)
class Term:
    """One summand.

    Attributes
    ----------
    kind
        ``logit``, ``channel``, ``neuron``, ``direction`` or ``layer``.
    layer
        Name of the layer, empty for the network's answer.
    index
        Class, or channel; -1 for all.
    place
        For a neuron, the number of the place; ``None`` for the middle.
    vector
        For a direction, one number per channel.
    weight
        Factor.
    network
        Which network is asked; ``None`` for the one that is visualized.
    """

    kind: str
    layer: str
    index: int = -1
    place: int | None = None
    vector: Tensor | None = None
    weight: float = 1.0
    network: Network | None = None

    def check(self, network: Network, known: Sequence[Layer]) -> Layer | None:
        """Find the layer in the network that is asked, or say why this term cannot be.

        Parameters
        ----------
        network
            The one that is asked.
        known
            Its layers.

        Raises
        ------
        InputError
            If there is no such class, layer, channel or place.
        """
        if self.kind == "logit":
            network.class_index(self.index)
            return None
        found = find_layer(network, self.layer, known)
        places = max(1, int(torch.tensor(found.shape).prod()) // found.channels)
        if self.kind in ("channel", "neuron") and not 0 <= self.index < found.channels:
            raise InputError(
                f"layer {self.layer!r} has no channel {self.index}: it has 0 to "
                f"{found.channels - 1}"
            )
        if self.place is not None and not 0 <= self.place < places:
            raise InputError(
                f"layer {self.layer!r} has no place {self.place}: it has 0 to {places - 1}"
            )
        if self.vector is not None and self.vector.shape != (found.channels,):
            raise InputError(
                f"the direction has shape {tuple(self.vector.shape)}, layer {self.layer!r} has "
                f"{found.channels} channels: give one number for each"
            )
        return found

    def value(self, seen: Mapping[str, Tensor], known: Layer | None) -> Tensor:
        """Return the term's value for each image, ``(N,)``, from outputs by layer."""
        output = seen[self.layer]
        if known is None:
            return self.weight * output[:, self.index]
        units = known.first(output)  # (N, channels, places)
        if self.kind == "channel":
            found = units[:, self.index].mean(-1)
        elif self.kind == "neuron":
            found = units[:, self.index, known.centre if self.place is None else self.place]
        elif self.kind == "direction":
            assert self.vector is not None
            vector = self.vector.to(units)
            found = torch.einsum("nkp,k->n", units, vector / vector.norm()) / units.shape[-1]
        else:
            found = units.square().flatten(1).mean(1)
        return self.weight * found

    def __str__(self) -> str:
        what = {
            "logit": f"class:{self.index}",
            "channel": f"{self.layer}:{self.index}",
            "neuron": f"{self.layer}:{self.index}@{'' if self.place is None else self.place}",
            "direction": f"{self.layer}:direction",
            "layer": f"{self.layer}:all",
        }[self.kind]
        where = f" of {self.network.spec}" if self.network is not None else ""
        return f"{what}{where}" if self.weight == 1 else f"{self.weight:g} * {what}{where}"


@dataclass(frozen=True, eq=False)
class Objective:
    """A weighted sum of what networks say; objectives can be added, subtracted and scaled.

    Attributes
    ----------
    terms
        Summands.

    Examples
    --------
    >>> print(logit(3) - 0.5 * logit(7))
    class:3 - 0.5 * class:7
    """

    terms: tuple[Term, ...]

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.terms + other.terms)

    def __mul__(self, factor: float) -> Objective:
        return Objective(tuple(replace(t, weight=factor * t.weight) for t in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> Objective:
        return self * -1.0

    def __sub__(self, other: Objective) -> Objective:
        return self + -other

    def of(self, network: Network) -> Objective:
        """Ask this network, not the one that is visualized: traced against dense, for one.

        Examples
        --------
        >>> from sparsight.networks import load
        >>> dense = load("embedded")
        >>> contrast = logit(3) - logit(3).of(dense)
        """
        return Objective(tuple(replace(term, network=network) for term in self.terms))

    def describe(self) -> str:
        """Write it as text."""
        text = ""
        for term in self.terms:
            sign = " - " if term.weight < 0 else " + "
            text += f"{sign}{replace(term, weight=abs(term.weight))}" if text else str(term)
        return text

    __str__ = describe


def logit(index: int) -> Objective:
    """Score of a class before the softmax."""
    return Objective((Term("logit", LOGITS, index),))


def channel(layer: str, index: int) -> Objective:
    """Mean of a channel over all places."""
    return Objective((Term("channel", layer, index),))


def neuron(layer: str, index: int, place: int | None = None) -> Objective:
    """One channel at one place, that in the middle by default; places are numbered by rows."""
    return Objective((Term("neuron", layer, index, place),))


def direction(layer: str, vector: Tensor | Any) -> Objective:
    """Mean over places of the projection on a direction in the space of channels.

    Raises
    ------
    InputError
        If the direction is nothing, or not finite.
    """
    given = torch.as_tensor(vector, dtype=torch.float32).detach().cpu()
    if given.ndim != 1 or not torch.isfinite(given).all() or not given.any():
        raise InputError(
            "a direction is a vector of finite numbers, not all of them 0: give one per channel"
        )
    return Objective((Term("direction", layer, vector=given),))


def layer(name: str) -> Objective:
    """Mean square of everything that a layer gives, as in deep dreams."""
    return Objective((Term("layer", name),))


def parse_objective(network: Network, text: str) -> Objective:
    """Read an objective as typed.

    Parameters
    ----------
    network
        Whose classes are named.
    text
        ``class:NAME``, ``LAYER:CHANNEL``, ``LAYER:CHANNEL@`` for the neuron in the middle,
        ``LAYER:CHANNEL@PLACE``, ``LAYER:all``; or a difference of two, ``class:A - class:B``.

    Raises
    ------
    InputError
        If it makes no sense, or there is no such class.

    Examples
    --------
    >>> from sparsight.networks import load
    >>> network = load("embedded")
    >>> print(parse_objective(network, "class:mug - stage3:7@"))
    class:0 - stage3:7@
    """
    rest, minus, last = text.rpartition(" - ")
    if minus:
        return parse_objective(network, rest) - parse_objective(network, last)
    name, colon, which = text.strip().rpartition(":")
    if name == "class":
        return logit(network.class_index(which))
    number, at, place = which.partition("@")
    if name and which == "all":
        return layer(name)
    if not colon or not name or not number.isdigit() or (place and not place.isdigit()):
        raise InputError(
            f"{text!r} names no neuron: write LAYER:CHANNEL, LAYER:CHANNEL@PLACE, LAYER:all or "
            "class:NAME; sparsight layers lists layers"
        )
    if at:
        return neuron(name, int(number), int(place) if place else None)
    return channel(name, int(number))


def parse_objectives(network: Network, texts: Sequence[str]) -> list[Objective]:
    """Read objectives as typed, and check that the network has what they name.

    Parameters
    ----------
    network
        Whose classes and layers are named.
    texts
        Each as for :func:`parse_objective`.

    Raises
    ------
    InputError
        If one makes no sense, or there is no such class, layer, channel or place.

    Examples
    --------
    >>> from sparsight.networks import load
    >>> [str(one) for one in parse_objectives(load("embedded"), ["class:mug", "stage3:7"])]
    ['class:0', 'stage3:7']
    """
    found = [parse_objective(network, text) for text in texts]
    known = list_layers(network) if found else []
    for term in (term for objective in found for term in objective.terms):
        term.check(network, known)
    return found
