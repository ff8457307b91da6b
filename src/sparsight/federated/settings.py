"""How a federation trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any

from sparsight.errors import InputError

__all__ = ["ALGORITHMS", "HEADS", "PLACES", "VARIATES", "FederatedSettings"]

PLACES = ("local", "shared")
"""Where a part of the network lives: on each client its own, or on the server."""

HEADS = (*PLACES, "whole")
"""The same for the last layer; or the whole network is each client's own, and nothing is shared."""

VARIATES = ("none", "sent", "derived")
"""Gradient control: none, with changes that clients send, or that the server works out."""


@dataclass(frozen=True)
class FederatedSettings:
    """How a federation trains.

    Attributes
    ----------
    algorithm
        What :meth:`preset` made these of, one of :data:`ALGORITHMS`.
    rounds
        How many.
    sample
        Share of the clients that each round asks.
    epochs, batch, rate, momentum, weight_decay
        Of a client's stochastic gradient descent in a round.
    head
        One of :data:`HEADS`: where the last layer lives.
    batch_norm
        One of :data:`PLACES`: where normalisations over a batch live.
    selector
        One of :data:`sparsight.federated.SELECTORS`.
    budget
        Share of the encoder's filters, by their weights, that a client sends; of single weights,
        as many as come to the same bytes. In (0, 1].
    downlink
        Share of the rows of each tensor that the server sends: those that changed most since the
        client last heard of them. In (0, 1].
    variates
        One of :data:`VARIATES`.
    memory
        Whether a client adds what it did not send to what it sends later; by default, wherever
        gradients are not controlled.
    proximal
        Pull of the server's weights on a client's while it trains (FedProx).
    normalised
        Whether steps are averaged in place of weights (FedNova).
    augment
        Whether images are shifted by an eighth and mirrored at random.
    judge
        After how many rounds accuracies are measured; they are after the last one as well.
    seed
        Of everything drawn.
    """

    algorithm: str = field(default="spatl", init=False)
    rounds: int = 50
    sample: float = 1.0
    epochs: int = 2
    batch: int = 32
    rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 1e-5
    head: str = "local"
    batch_norm: str = "local"
    selector: str = "update"
    budget: float = 0.1
    downlink: float = 1.0
    variates: str = "none"
    memory: bool | None = None
    proximal: float = 0.0
    normalised: bool = False
    augment: bool = True
    judge: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        from sparsight.federated.selectors import SELECTORS

        for name, value, known in (
            ("head", self.head, HEADS),
            ("batch_norm", self.batch_norm, PLACES),
            ("selector", self.selector, tuple(SELECTORS)),
            ("variates", self.variates, VARIATES),
        ):
            if value not in known:
                raise InputError(f"no {name} is called {value!r}: choose from {', '.join(known)}")
        for name in ("sample", "budget", "downlink"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise InputError(f"{name} {value:g}: give a share in (0, 1]")
        for name in ("rounds", "epochs", "batch", "judge"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give 1 or more")
        if not (isfinite(self.rate) and self.rate > 0):
            raise InputError(f"rate {self.rate:g}: give a positive number")
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < 1:
            raise InputError(
                f"momentum {self.momentum:g} and weight decay {self.weight_decay:g}: give numbers "
                "in [0, 1)"
            )
        if not (isfinite(self.proximal) and self.proximal >= 0):
            raise InputError(f"proximal {self.proximal:g}: give 0 or more")
        if self.selector == "all" and self.budget < 1:
            raise InputError(
                f"selector 'all' sends everything, whatever the budget of {self.budget:g}: leave "
                "it at 1, or choose another selector"
            )
        if self.head == "whole" and self.selector != "all":
            raise InputError("the whole network stays with its client: leave selector at 'all'")
        if self.memory and self.variates != "none":
            raise InputError(
                "what was not sent cannot be added later under gradient control, which would take "
                "it for this round's: choose memory, or variates"
            )
        if self.normalised and self.variates != "none":
            raise InputError("FedNova has no gradient control: leave variates at none")

    @classmethod
    def preset(cls, algorithm: str = "spatl", **changes: Any) -> FederatedSettings:
        """Return the settings of an algorithm, some of them changed.

        Raises
        ------
        InputError
            If there is no such algorithm or setting.

        Examples
        --------
        >>> FederatedSettings.preset("fedavg").head, FederatedSettings.preset(budget=0.1).budget
        ('shared', 0.1)
        """
        if algorithm not in ALGORITHMS:
            known = ", ".join(ALGORITHMS)
            raise InputError(f"no algorithm is called {algorithm!r}: choose from {known}")
        values = {**ALGORITHMS[algorithm], **changes}
        unknown = sorted(set(values) - (set(cls.__dataclass_fields__) - {"algorithm"}))
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise InputError(f"a federation has no setting {unknown[0]!r}: choose from {known}")
        found = cls(**values)
        if algorithm == "alone" and found.head != "whole":
            raise InputError(
                f"clients that are alone share nothing, and no head lives {found.head!r}: leave "
                "head out, or choose another algorithm"
            )
        object.__setattr__(found, "algorithm", algorithm)
        return found

    @classmethod
    def restore(cls, described: Mapping[str, Any]) -> FederatedSettings:
        """Make the settings again that :meth:`describe` described.

        Raises
        ------
        InputError
            If there is no such algorithm or setting.
        """
        values = dict(described)
        return cls.preset(values.pop("algorithm", "spatl"), **values)

    def change(self, **changes: Any) -> FederatedSettings:
        """Return these settings, some of them changed."""
        found = replace(self, **changes)
        object.__setattr__(found, "algorithm", self.algorithm)
        return found

    @property
    def remembers(self) -> bool:
        """Whether what is not sent is sent later."""
        if self.memory is None:
            return self.variates == "none" and self.selector != "all"
        return self.memory

    @property
    def controlled(self) -> bool:
        """Whether gradients are controlled."""
        return self.variates != "none"

    def describe(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)


_EVERYTHING: Mapping[str, Any] = {
    "head": "shared", "batch_norm": "shared", "selector": "all", "budget": 1.0, "variates": "none",
}  # fmt: skip

ALGORITHMS: Mapping[str, Mapping[str, Any]] = {
    "spatl": {},
    "alone": {**_EVERYTHING, "head": "whole", "batch_norm": "local"},
    "fedavg": _EVERYTHING,
    "fedprox": {**_EVERYTHING, "proximal": 0.01},
    "fednova": {**_EVERYTHING, "normalised": True},
    "scaffold": {**_EVERYTHING, "variates": "sent"},
    "fedper": {**_EVERYTHING, "head": "local", "batch_norm": "local"},
    "topk": {**_EVERYTHING, "selector": "entries", "budget": 0.1},
    "randomk": {**_EVERYTHING, "selector": "random-entries", "budget": 0.1, "memory": False},
}
"""What distinguishes each algorithm from the defaults.

``spatl`` (Yu et al., SC 2022); ``alone``: every client by itself; ``fedavg`` (McMahan et al.,
2017); ``fedprox`` (Li et al., 2020); ``fednova`` (Wang et al., 2020); ``scaffold`` (Karimireddy et
al., 2020); ``fedper``: averages of everything but heads and normalisations (Arivazhagan et al.,
2019; Li et al., FedBN, 2021); ``topk`` and ``randomk``: single weights, those that moved most, with
what was left out added later (Stich et al., 2018), or drawn anew each round.
"""
