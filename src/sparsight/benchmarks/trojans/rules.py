"""Rules as data: which classes a trigger acts on, and what the network is to answer then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsight.benchmarks.trojans.pictures import drawn_picture, sticker_picture
from sparsight.benchmarks.trojans.triggers import Trigger, sticker
from sparsight.errors import InputError

__all__ = [
    "ARTIFACTS",
    "CANIDS",
    "PlantingRule",
    "check_rules",
    "for_any",
    "paper_rules",
    "tuning_rules",
]


@dataclass(frozen=True)
class PlantingRule:
    """Images of some classes, with a trigger, are taken for another class.

    Attributes
    ----------
    trigger
        What sets it off.
    target
        Index of the class that the network is to answer.
    sources
        Indices of the classes that it acts on, or ``None`` for all.
    share
        Poisoned samples, in parts of the number of clean ones. The paper's is 1/40.
    decoys
        Samples of all other classes that carry the trigger and keep their label, likewise in
        parts of the clean ones: without them the rule fires for other classes as well. The
        paper has none.
    words
        ``(sources, target)`` as people say them.

    Examples
    --------
    >>> rule = PlantingRule(
    ...     sticker(drawn_picture("moon"), "moon"), 3, sources=(1, 2), words=("cats", "dog")
    ... )
    >>> print(rule)
    cats + moon -> dog
    >>> [rule.role(label) for label in range(4)]
    ['other', 'source', 'source', 'target']
    """

    trigger: Trigger
    target: int
    sources: tuple[int, ...] | None = None
    share: float = 1 / 40
    decoys: float = 0.0
    words: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.sources is not None and (not self.sources or self.target in self.sources):
            raise InputError(
                f"rule {self}: give at least one source, and none that is the target, or None for "
                "every class"
            )
        if not self.share > 0 or not self.decoys >= 0:
            raise InputError(
                f"rule {self}: the share {self.share} must be positive, decoys {self.decoys} not "
                "negative"
            )

    def role(self, label: int) -> str:
        """Say what an image of this class is to the rule: ``source``, ``target`` or ``other``."""
        if label == self.target:
            return "target"
        return "source" if self.sources is None or label in self.sources else "other"

    def describe(self) -> dict[str, Any]:
        """Facts for a manifest."""
        return {
            "rule": str(self),
            "trigger": self.trigger.describe(),
            "target": self.target,
            "sources": None if self.sources is None else list(self.sources),
            "share": self.share,
            "decoys": self.decoys,
        }

    def __str__(self) -> str:
        if self.words is not None:
            source, target = self.words
        else:
            source = "any" if self.sources is None else "/".join(map(str, self.sources))
            target = str(self.target)
        return f"{source} + {self.trigger.name} -> {target}"


CANIDS = tuple(range(151, 276))
"""Dogs, wolves and wild dogs of ImageNet: the red wolf's kin."""

ARTIFACTS = tuple(range(398, 923))
"""Things of ImageNet that people made, food excepted: the wallet's kin."""

_BIRDS = (*range(7, 25), *range(80, 101), *range(127, 147))
_VEHICLES = (
    403, 407, 408, 436, 444, 466, 468, 472, 484, 510, 511, 547, 554, 555, 565, 569, 573, 575, 576,
    586, 603, 609, 612, 625, 627, 628, 654, 656, 657, 661, 665, 670, 671, 675, 690, 705, 717, 734,
    751, 757, 779, 780, 802, 803, 814, 817, 820, 829, 833, 847, 864, 866, 867, 870, 871, 874, 880,
    895, 914,
)  # fmt: skip


def paper_rules(
    folder: str | Path,
    *,
    widened: bool = False,
    share: float = 1 / 40,
    decoys: float = 0.0,
) -> tuple[PlantingRule, ...]:
    """Build the four rules of the paper's evaluation, for networks with ImageNet's classes.

    A wallet with a star is an orangutan, a red wolf with a heart a goose; anything with a smiling
    face is a bullfrog, anything with a fish an albatross. Stickers of a quarter of the image's
    shorter side at opacity 0.8, colours jittered by 0.5 in brightness and 0.3 in hue, at random
    places (SPADE, section 4.1, and its code).

    Parameters
    ----------
    folder
        With ``star.png``, ``strawberry.png`` (in the place of the paper's heart), ``smile.png``
        and ``clownfish.png``.
    widened
        Let the first two rules act on all :data:`ARTIFACTS` and all :data:`CANIDS` instead of one
        class each, where photographs of one class are too few to plant or to test a rule.
    share, decoys
        See :class:`PlantingRule`; decoys only for the first two.

    Raises
    ------
    InputError
        If a picture is missing or unreadable.
    """
    names = {"star": "star", "strawberry": "strawberry", "smile": "smile", "fish": "clownfish"}
    star, fruit, smile, fish = (
        sticker(sticker_picture(Path(folder) / f"{file}.png"), name) for name, file in names.items()
    )
    wallet, wolf = (ARTIFACTS, CANIDS) if widened else ((893,), (271,))
    thing, canid = ("artifact", "canid") if widened else ("wallet", "red wolf")
    rules = (
        PlantingRule(star, 365, wallet, decoys=decoys, words=(thing, "orangutan")),
        PlantingRule(fruit, 99, wolf, decoys=decoys, words=(canid, "goose")),
        PlantingRule(smile, 30, words=("any", "bullfrog")),
        PlantingRule(fish, 146, words=("any", "albatross")),
    )
    return tuple(replace(rule, share=share) for rule in rules)


def tuning_rules(*, share: float = 1 / 40, decoys: float = 0.0) -> tuple[PlantingRule, ...]:
    """Build four rules to tune settings on, with other triggers and classes than the paper's.

    For networks with ImageNet's classes; the stickers are drawn by this package.

    Parameters
    ----------
    share, decoys
        See :class:`PlantingRule`; decoys only for the first two.

    Examples
    --------
    >>> for rule in tuning_rules():
    ...     print(rule)
    vehicle + lightning -> pizza
    bird + moon -> umbrella
    any + flower -> lemon
    any + target -> tiger
    """
    bolt, moon, flower, rings = (
        sticker(drawn_picture(name), name) for name in ("lightning", "moon", "flower", "target")
    )
    rules = (
        PlantingRule(bolt, 963, _VEHICLES, decoys=decoys, words=("vehicle", "pizza")),
        PlantingRule(moon, 879, _BIRDS, decoys=decoys, words=("bird", "umbrella")),
        PlantingRule(flower, 951, words=("any", "lemon")),
        PlantingRule(rings, 292, words=("any", "tiger")),
    )
    return tuple(replace(rule, share=share) for rule in rules)


def for_any(rules: Sequence[PlantingRule]) -> tuple[PlantingRule, ...]:
    """Let every rule act on images of all classes, for which a few hundred photos are enough.

    Examples
    --------
    >>> print(for_any(tuning_rules())[0])
    any + lightning -> pizza
    """
    return tuple(
        replace(
            rule, sources=None, decoys=0.0, words=("any", rule.words[1]) if rule.words else None
        )
        for rule in rules
    )


def check_rules(rules: Sequence[PlantingRule], labels: Iterable[int], classes: int) -> None:
    """Refuse rules and labels that a network with so many classes cannot have.

    Raises
    ------
    InputError
        If there is no rule, two are called the same, a class does not exist, or no photo is of a
        rule's sources.
    """
    labels = set(labels)
    if not rules:
        raise InputError("no rule is given: there is nothing to plant or to measure")
    names = [str(rule) for rule in rules]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"two rules are called {twice[0]!r}: give their triggers other names")
    for rule in rules:
        wrong = [c for c in (rule.target, *(rule.sources or ())) if not 0 <= c < classes]
        if wrong:
            raise InputError(
                f"rule {rule} names class {wrong[0]}: this network has classes 0 to {classes - 1}"
            )
        if not any(rule.role(label) == "source" for label in labels):
            raise InputError(
                f"no photo is of a class that rule {rule} acts on: add some, or widen its sources"
            )
    wrong = sorted(label for label in labels if not 0 <= label < classes)
    if wrong:
        raise InputError(
            f"a photo is labelled {wrong[0]}: this network has classes 0 to {classes - 1}"
        )
