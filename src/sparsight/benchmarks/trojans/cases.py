"""Test cases for explanations: triggered photos that a planted network falls for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from sparsight.benchmarks.trojans.measuring import draw_seed
from sparsight.benchmarks.trojans.poison import Photo
from sparsight.benchmarks.trojans.rules import PlantingRule, check_rules
from sparsight.errors import InputError
from sparsight.networks import Network

__all__ = ["TrojanCase", "trojan_cases"]


@dataclass(frozen=True, eq=False)
class TrojanCase:
    """A triggered photo, the class that the trigger makes of it, and where the trigger is.

    Attributes
    ----------
    key
        Name of the case.
    image
        The triggered photo, RGB, before any resize or crop.
    x
        The network's input, normalised, ``(1, C, H, W)``.
    target
        The rule's target, which the network answers: the class to explain.
    mask
        ``(H, W)``, bool, where the trigger is in the input frame; never empty.
    clean
        The photo without the trigger.
    label
        The photo's true class.
    answer
        What the network answers to the clean photo; never the target.
    rule
        Index of the rule.
    """

    key: str
    image: Image.Image
    x: Tensor
    target: int
    mask: Tensor
    clean: Image.Image
    label: int
    answer: int
    rule: int


def trojan_cases(
    network: Network,
    photos: Sequence[Photo],
    rules: Sequence[PlantingRule],
    *,
    count: int | None = None,
    draws: int = 1,
    seed: int = 0,
) -> Iterator[TrojanCase]:
    """Triggered photos that count for a judgement of explanations.

    As in the paper, a photo counts if the network answers the rule's target with the trigger and
    another class without it. Rules take turns; each goes through the photos of its sources in an
    order of its own until none is left.

    Parameters
    ----------
    network
        The planted network, in evaluation mode; not changed.
    photos
        That planting never saw.
    rules
        Those that were planted.
    count
        At most so many cases; all there are if not given.
    draws
        How often each photo of a rule's sources comes, each time with the trigger elsewhere.
    seed
        Of the order, the places and the colours.

    Yields
    ------
    TrojanCase

    Raises
    ------
    InputError
        If no photo is of a rule's sources, a class does not exist, or a number is below 1.
    """
    network.require_eval()
    check_rules(rules, (photo.label for photo in photos), len(network.labels))
    if draws < 1 or (count is not None and count < 1):
        raise InputError(
            f"count {count} and draws {draws} must be at least 1: count is None for all"
        )
    answers: dict[int, int] = {}
    turns = [
        _of_rule(network, photos, rules, number, draws, seed, answers)
        for number in range(len(rules))
    ]
    found = 0
    while turns:
        for turn in list(turns):
            case = next(turn, None)
            if case is None:
                turns.remove(turn)
                continue
            yield case
            found += 1
            if found == count:
                return


def _of_rule(
    network: Network,
    photos: Sequence[Photo],
    rules: Sequence[PlantingRule],
    number: int,
    draws: int,
    seed: int,
    answers: dict[int, int],
) -> Iterator[TrojanCase]:
    rule = rules[number]
    sources = [i for i, photo in enumerate(photos) if rule.role(photo.label) == "source"]
    for draw in range(draws):
        for position in np.random.default_rng([seed, number, draw]).permutation(len(sources)):
            index = sources[int(position)]
            photo = photos[index]
            image = photo.open()
            if index not in answers:
                answers[index] = int(network.logits(network.prepare(image)).argmax())
            if answers[index] == rule.target:
                continue
            triggered = rule.trigger.apply(image, draw_seed(seed, index, draw))
            x, mask = triggered.framed(network.preprocessing)
            x, mask = x.to(network.device, network.dtype), mask.to(network.device)
            if not mask.any() or int(network.logits(x).argmax()) != rule.target:
                continue
            yield TrojanCase(
                key=f"{rule.trigger.name} on {photo.name}, place {draw}",
                image=triggered.image,
                x=x,
                target=rule.target,
                mask=mask,
                clean=image,
                label=photo.label,
                answer=answers[index],
                rule=number,
            )
