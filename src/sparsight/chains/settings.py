"""How a chain is extracted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from sparsight.errors import InputError

__all__ = ["NORMALISATIONS", "PUBLISHED", "ChainSettings"]

NORMALISATIONS = ("sum", "layer", "parameters")
"""What a penalty counts: units, shares of their layers, or shares of the weights."""


@dataclass(frozen=True)
class ChainSettings:
    """How a chain is extracted.

    Attributes
    ----------
    keep
        Share of units that a chain keeps, in (0, 1]. ``None``: those whose gate, with that of
        their branch, is above ``threshold`` after learning with a penalty, as published.
    steps, rate
        Of Adam.
    temperature
        Of the gates, at first and at last.
    penalty, layer_penalty, normalise
        Of gates and branches, where ``keep`` is none; ``normalise`` is one of
        :data:`NORMALISATIONS`.
    focus
        Share in the loss, in [0, 1], of the divergence among the classes of the sub-task alone.
    threshold
        Above which a gate is open, where ``keep`` is none.
    tolerance, window
        A sub-task stops when its mean loss over ``window`` steps differs by less from that over
        the ``window`` steps before. 0: never.
    tries
        Every so many steps of the second half the chain is tried as it would be copied, and the
        best for the images is kept; 0: the last is. Where ``keep`` is none it always is.
    views
        Each image is learnt on so many random views of itself besides the image, one a step.
    seed
        Of the views, and of what a selector draws.
    chunk
        Images that go through the network together.
    """

    keep: float | None = 0.05
    steps: int = 300
    rate: float = 0.05
    temperature: tuple[float, float] = (2.0, 0.1)
    penalty: float = 0.005
    layer_penalty: float = 1.0
    normalise: str = "sum"
    focus: float = 0.5
    threshold: float = 0.1
    tolerance: float = 0.0
    window: int = 10
    tries: int = 5
    views: int = 16
    seed: int = 0
    chunk: int = 64

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 1), ("window", 1), ("chunk", 1), ("tries", 0), ("views", 0),
            ("seed", -(2**63)),
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value!r}: give {least} or more, a whole number")
        if not isinstance(self.temperature, Sequence):
            raise InputError(f"temperature {self.temperature!r}: give two, at first and at last")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise InputError(
                f"a chain cannot keep {self.keep:g} of the units: give a share in (0, 1]"
            )
        if not (isfinite(self.rate) and self.rate > 0):
            raise InputError(f"rate {self.rate:g}: give a positive one")
        if len(self.temperature) != 2 or not all(isfinite(t) and t > 0 for t in self.temperature):
            raise InputError(f"temperatures {self.temperature}: give two positive numbers")
        if self.normalise not in NORMALISATIONS:
            raise InputError(
                f"penalties cannot count {self.normalise!r}: choose from "
                f"{', '.join(NORMALISATIONS)}"
            )
        if not 0 <= self.focus <= 1:
            raise InputError(f"focus {self.focus:g}: give a share in [0, 1]")
        if not 0 <= self.threshold < 1:
            raise InputError(f"threshold {self.threshold:g}: give one in [0, 1)")
        for name in ("penalty", "layer_penalty", "tolerance"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise InputError(f"{name} is {value}: give 0 or more")

    @property
    def settles(self) -> int:
        """Step from which the share of open gates stays."""
        return self.steps // 2 if self.keep is not None else 0

    def tries_at(self, step: int) -> bool:
        """Tell whether a chain is tried after a step that is not the last."""
        on = self.keep is not None and self.tries > 0 and step >= self.settles
        last = step + 1 == self.steps  # it is tried in any case
        return on and not last and (step + 1) % self.tries == 0

    def schedule(self, step: int) -> tuple[float, float | None]:
        """Temperature, and share of open gates, at a step."""
        first, last = self.temperature
        temperature = first * (last / first) ** (step / max(1, self.steps - 1))
        if self.keep is None:
            return temperature, None
        return temperature, float(self.keep ** min(1.0, (step + 1) / max(1, self.settles)))

    def describe(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


PUBLISHED = ChainSettings(
    keep=None, steps=300, rate=0.005, temperature=(0.2, 0.2), focus=0.0, tolerance=0.05, views=0
)
"""Settings of the paper for ResNet-50; for VGG-19 its ``layer_penalty`` is 2."""
