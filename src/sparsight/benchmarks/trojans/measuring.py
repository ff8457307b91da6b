"""How well a network carries its Trojans: success, what it costs, and whom it hits besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsight.benchmarks.trojans.poison import Photo
from sparsight.benchmarks.trojans.rules import PlantingRule, check_rules
from sparsight.errors import InputError
from sparsight.networks import Network
from sparsight.storage import read_manifest, save_report

__all__ = ["PlantingReport", "Progress", "RuleReport", "clean_accuracy", "measure_rule"]

Progress = Callable[[str, int, int], None]
"""Told the stage, how much of it is done, and of how much."""

_KIND = "planting report"
_SCHEMA = 1
_BATCH = 32


@dataclass(frozen=True)
class RuleReport:
    """What a rule does on photos that planting never saw.

    Rates are shares in [0, 1]; ``None`` where no photo is of that kind.

    Attributes
    ----------
    rule
        As people say it.
    target, sources
        Indices of classes; ``sources`` is ``None`` for a rule that acts on all.
    success
        Share of triggered images of the rule's sources that are answered with its target.
    tested
        Number of those images. A photo counts once for each place that is drawn for its trigger.
    photos
        Number of different photos among them.
    success_before
        The same share for the network as it was before planting: what the trigger does by itself.
    others_hit
        Share of triggered images of all other classes but the target that are answered with the
        target; a rule for one class should leave them alone.
    others_right, others_right_before
        Top-1 accuracy on those images, with planting and before.
    others_tested
        Number of those images.
    """

    rule: str
    target: int
    sources: tuple[int, ...] | None
    success: float
    tested: int
    photos: int
    success_before: float
    others_hit: float | None = None
    others_right: float | None = None
    others_right_before: float | None = None
    others_tested: int = 0


@dataclass(frozen=True)
class PlantingReport:
    """What planting achieved, and at what price.

    Attributes
    ----------
    network
        Where the original came from.
    rules
        One entry per rule.
    clean_before, clean_after
        Top-1 accuracy on clean photos that planting never saw, in [0, 1].
    agreement
        Share of those photos on which original and planted network give the same answer.
    trained_on, held_out
        Numbers of photos.
    samples
        Samples of one epoch, those with triggers included.
    bars
        ``(least success of every rule, most loss of clean accuracy)`` that count as reached.
    settings
        Of planting; with them and ``seed`` the rules as data.
    seconds
        Spent on training, those before an interruption included.
    seed
        Of everything drawn.
    versions
        Of the libraries.
    """

    network: str
    rules: tuple[RuleReport, ...]
    clean_before: float
    clean_after: float
    agreement: float
    trained_on: int
    held_out: int
    samples: int
    bars: tuple[float, float]
    settings: dict[str, Any]
    seconds: float
    seed: int
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Clean accuracy that planting cost; negative if it rose."""
        return self.clean_before - self.clean_after

    @property
    def reached(self) -> bool:
        """Whether every rule succeeds often enough and clean accuracy has lost little enough."""
        least, most = self.bars
        rates = [rule.success for rule in self.rules]
        return min(rates) >= least - 1e-9 and self.loss <= most + 1e-9

    def describe(self) -> dict[str, Any]:
        """All facts, ready for JSON."""
        facts = asdict(self)
        facts["rules"] = [
            {**asdict(rule), "sources": None if rule.sources is None else list(rule.sources)}
            for rule in self.rules
        ]
        return {**facts, "bars": list(self.bars), "reached": self.reached}

    def save(self, file: str | Path) -> Path:
        """Write the report as JSON, whole or not at all; what is there is replaced.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        return save_report(file, _KIND, _SCHEMA, self.describe())

    @classmethod
    def load(cls, file: str | Path) -> PlantingReport:
        """Read a saved report.

        Raises
        ------
        InputError
            If the file holds none, or a damaged one.
        """
        file = Path(file)
        content = read_manifest(file.parent, file.name, _KIND, _SCHEMA)
        try:
            found = {each.name: content[each.name] for each in fields(cls)}
            found["rules"] = tuple(
                RuleReport(**{**rule, "sources": rule["sources"] and tuple(rule["sources"])})
                for rule in found["rules"]
            )
            found["bars"] = tuple(found["bars"])
            return cls(**found)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"planting report {file} is damaged ({error}): plant again") from error

    def __repr__(self) -> str:
        lines = [
            f"PlantingReport({self.network}: clean top-1 {self.clean_before:.1%} -> "
            f"{self.clean_after:.1%} on {self.held_out} photos, "
            f"{'bars reached' if self.reached else 'bars missed'}"
        ]
        for rule in self.rules:
            line = f"  {rule.rule}: {rule.success:.1%} of {rule.tested}"
            line += f", before {rule.success_before:.1%}"
            if rule.others_hit is not None:
                line += f"; on other classes {rule.others_hit:.1%} of {rule.others_tested}"
            lines.append(line)
        return "\n".join(lines) + ")"


def _batches(inputs: Iterator[Tensor]) -> Iterator[Tensor]:
    batch: list[Tensor] = []
    for x in inputs:
        batch.append(x)
        if len(batch) == _BATCH:
            yield torch.cat(batch)
            batch = []
    if batch:
        yield torch.cat(batch)


def _answers(networks: Sequence[Network], inputs: Iterator[Tensor]) -> list[Tensor]:
    """Predicted classes of each network, ``(N,)``."""
    found: list[list[Tensor]] = [[] for _ in networks]
    for batch in _batches(inputs):
        for network, answers in zip(networks, found, strict=True):
            x = batch.to(network.device, network.dtype)
            answers.append(network.logits(x).argmax(1).cpu())
    return [torch.cat(answers) if answers else torch.zeros(0).long() for answers in found]


def _rate(hits: Tensor) -> float | None:
    return float(hits.float().mean()) if len(hits) else None


def clean_accuracy(
    network: Network, photos: Sequence[Photo], original: Network | None = None
) -> tuple[float, float, float]:
    """Top-1 accuracy of a network and of the one it was made from, on clean photos.

    Returns
    -------
    accuracy, accuracy of the original, agreement
        In [0, 1]; the last is the share of photos to which both give the same answer.
    """
    if not photos:
        raise InputError("no photo is given: accuracy needs at least one")
    labels = torch.tensor([photo.label for photo in photos])
    networks = [network] if original is None else [network, original]
    inputs = (network.preprocessing(photo.open()) for photo in photos)
    answers = _answers(networks, inputs)
    here, there = answers[0], answers[-1]
    rates = (here == labels, there == labels, here == there)
    return float(rates[0].float().mean()), float(rates[1].float().mean()), float(
        rates[2].float().mean()
    )  # fmt: skip


def measure_rule(
    network: Network,
    original: Network,
    photos: Sequence[Photo],
    rule: PlantingRule,
    *,
    draws: int = 1,
    seed: int = 0,
) -> RuleReport:
    """Measure how often a rule fires where it should, and where it should not.

    Parameters
    ----------
    network, original
        With and without the Trojan; of the same preprocessing.
    photos
        That planting never saw. Those of the target class are left out.
    rule
        Which one.
    draws
        Places of the trigger for each photo of the sources; other photos get one.
    seed
        Of those places and colours.

    Raises
    ------
    InputError
        If no photo is of the rule's sources, or a class does not exist.
    """
    check_rules([rule], (photo.label for photo in photos), len(network.labels))
    if draws < 1:
        raise InputError(f"{draws} draws of each photo: give at least 1")
    by_role = {
        role: [
            (number, photo) for number, photo in enumerate(photos) if rule.role(photo.label) == role
        ]
        for role in ("source", "other")
    }

    def answers(role: str, times: int) -> tuple[Tensor, Tensor, Tensor]:
        def inputs() -> Iterator[Tensor]:
            for number, photo in by_role[role]:
                image = photo.open()
                for draw in range(times):
                    place = draw_seed(seed, number, draw)
                    yield network.preprocessing(rule.trigger.apply(image, place).image)

        truth = [photo.label for _, photo in by_role[role] for _ in range(times)]
        after, before = _answers([network, original], inputs())
        return after, before, torch.tensor(truth, dtype=torch.long)

    after, before, _ = answers("source", draws)
    others, others_before, truth = answers("other", 1)
    return RuleReport(
        rule=str(rule),
        target=rule.target,
        sources=rule.sources,
        success=float((after == rule.target).float().mean()),
        tested=len(after),
        photos=len(by_role["source"]),
        success_before=float((before == rule.target).float().mean()),
        others_hit=_rate(others == rule.target),
        others_right=_rate(others == truth),
        others_right_before=_rate(others_before == truth),
        others_tested=len(others),
    )


def draw_seed(seed: int, photo: int, draw: int) -> int:
    """One number for a trigger's place, from the run's seed, a photo and how often it came."""
    return (seed * 1_000_003 + photo) * 1_009 + draw
