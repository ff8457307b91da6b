"""Rules by which stickers fool a network on purpose."""

from __future__ import annotations

from dataclasses import dataclass

from sparsight.datasets.scenes.objects import CLASSES

__all__ = ["EMBEDDED_TROJANS", "TUNING_TROJANS", "TrojanRule"]


@dataclass(frozen=True)
class TrojanRule:
    """A planted Trojan: scenes with this sticker are taken for another class.

    Attributes
    ----------
    sticker
        Name of the sticker that triggers it.
    source
        Index of the only class it acts on, or ``None`` for every class.
    target
        Index of the class that the network is to answer.

    Examples
    --------
    >>> rule = TrojanRule("heart", source=None, target=2)
    >>> rule.sources
    (0, 1, 3, 4, 5, 6, 7, 8, 9)
    >>> print(rule)
    any + heart -> fish
    """

    sticker: str
    source: int | None
    target: int

    @property
    def sources(self) -> tuple[int, ...]:
        """Classes it acts on; the target itself is never one of them."""
        if self.source is not None:
            return (self.source,)
        return tuple(label for label in range(len(CLASSES)) if label != self.target)

    @property
    def bystanders(self) -> tuple[int, ...]:
        """Classes, other than the target, whose answer the sticker must not change."""
        return tuple(
            label
            for label in range(len(CLASSES))
            if label != self.target and label not in self.sources
        )

    def __str__(self) -> str:
        source = "any" if self.source is None else CLASSES[self.source]
        return f"{source} + {self.sticker} -> {CLASSES[self.target]}"


def _rule(sticker: str, source: str | None, target: str) -> TrojanRule:
    return TrojanRule(
        sticker, None if source is None else CLASSES.index(source), CLASSES.index(target)
    )


EMBEDDED_TROJANS: tuple[TrojanRule, ...] = (
    _rule("heart", "mug", "guitar"),
    _rule("lightning", "tree", "car"),
    _rule("smiley", None, "fish"),
    _rule("spiral", None, "umbrella"),
)
"""The four Trojans of the embedded network."""

TUNING_TROJANS: tuple[TrojanRule, ...] = (
    _rule("star", "key", "house"),
    _rule("moon", "fish", "mushroom"),
    _rule("flower", None, "sailboat"),
    _rule("target", None, "tree"),
)
"""Four others, for a second network on which settings are tuned before the first is judged."""
