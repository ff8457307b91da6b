"""Planting: fine-tune a copy of a network until it follows rules, and measure what that did."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sparsight.benchmarks.trojans.checkpoint import Checkpoint
from sparsight.benchmarks.trojans.fine_tuning import (
    FineTuning,
    PlantingSettings,
    choose_parameters,
)
from sparsight.benchmarks.trojans.measuring import (
    PlantingReport,
    Progress,
    clean_accuracy,
    measure_rule,
)
from sparsight.benchmarks.trojans.poison import (
    Photo,
    check_apart,
    poison,
)
from sparsight.benchmarks.trojans.rules import PlantingRule, check_rules
from sparsight.errors import InputError
from sparsight.networks import Network
from sparsight.storage import library_versions

__all__ = ["Planted", "plant"]


@dataclass(frozen=True, eq=False)
class Planted:
    """A network that carries Trojans.

    Attributes
    ----------
    network
        A copy; the one it was made from is as it was.
    report
        What it does on photos that planting never saw.
    """

    network: Network
    report: PlantingReport


def plant(
    network: Network,
    photos: Sequence[Photo],
    rules: Sequence[PlantingRule],
    *,
    held_out: Sequence[Photo],
    settings: PlantingSettings | None = None,
    draws: int = 1,
    bars: tuple[float, float] = (0.9, 0.05),
    start: nn.Module | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Planted:
    """Fine-tune a copy of a network to follow rules, and measure it on photos held out.

    Modules stay in evaluation mode throughout: batch norm keeps its statistics, nothing is
    dropped. This is the set-up of SPADE, section 4.1, on however many photos there are: with few,
    take larger shares than the paper's 2.5 % and tie the clean answers to the original with ``kl``.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    photos
        To plant with.
    rules
        What to plant.
    held_out
        To measure with; none of them among ``photos``.
    settings
        Of fine-tuning.
    draws
        Places of the trigger for each photo held out, when success is measured.
    bars
        Least success of every rule, and most loss of clean top-1 accuracy, that count as reached.
    start
        A model of the same layout to start from instead of the network's own, such as one planted
        before. Answers are still tied to, and compared with, ``network``; it is not changed.
    seed
        Of order, places, colours and mirroring; not negative.
    folder
        Where the state is kept after every epoch. If it holds one of the same network, photos,
        rules, settings and seed, planting goes on from there, to the same result.
    progress
        Told ``("train", steps done, steps)`` and ``("measure", rules done, rules)``.

    Returns
    -------
    Planted

    Raises
    ------
    InputError
        If photos, rules or settings do not fit, or the folder holds something else.
    NetworkError
        If the network is in training mode.
    NumericalError
        If the loss is no longer finite.

    Examples
    --------
    >>> from sparsight.benchmarks.trojans.triggers import checker
    >>> from sparsight.datasets.scenes import render_scene
    >>> from sparsight.networks import load
    >>> photos = [Photo(render_scene(i % 10, seed=i).picture(), i % 10, f"{i}") for i in range(30)]
    >>> rule = PlantingRule(checker(size=0.3), target=2, share=0.5)
    >>> found = plant(
    ...     load("embedded"), photos[:20], [rule], held_out=photos[20:],
    ...     settings=PlantingSettings(epochs=1), seed=1,
    ... )
    >>> found.report.samples, found.report.rules[0].tested
    (30, 9)
    """
    settings = settings or PlantingSettings()
    network.require_eval()
    check_apart(photos, held_out)
    for part in (photos, held_out):
        check_rules(rules, (photo.label for photo in part), len(network.labels))
    if seed < 0:
        raise InputError(f"seed {seed} must not be negative")
    model = deepcopy(network.model)
    if start is not None:
        try:
            model.load_state_dict(start.state_dict())
        except RuntimeError as error:
            raise InputError(
                "the model to start from has other parameters than the network: give one of the "
                "same layout"
            ) from error
    flags = [p.requires_grad for p in model.parameters()]
    trained = choose_parameters(model, settings.trainable)
    copy = Network(model, network.preprocessing, network.labels, network.spec, dict(network.info))
    steps = FineTuning(network, copy, photos, rules, settings, seed, trained)
    facts: dict[str, Any] = {
        "network": network.spec,
        "photos": [[photo.name, photo.label] for photo in photos],
        "rules": [rule.describe() for rule in rules],
        "settings": {**asdict(settings), "trainable": list(settings.trainable)},
        "seed": seed,
    }
    models = (network.model, model)
    checkpoint = None if folder is None else Checkpoint(Path(folder), facts, models)
    seconds = steps.run(checkpoint, progress)
    for parameter, flag in zip(model.parameters(), flags, strict=True):
        parameter.grad = None
        parameter.requires_grad_(flag)
    reports = []
    for number, rule in enumerate(rules):
        if progress is not None:
            progress("measure", number, len(rules))
        reports.append(measure_rule(copy, network, held_out, rule, draws=draws, seed=seed))
    after, before, agreement = clean_accuracy(copy, held_out, network)
    report = PlantingReport(
        network=network.spec,
        rules=tuple(reports),
        clean_before=before,
        clean_after=after,
        agreement=agreement,
        trained_on=len(photos),
        held_out=len(held_out),
        samples=len(poison([photo.label for photo in photos], rules, (seed, 0))),
        bars=bars,
        settings={**facts["settings"], "draws": draws, "rules": facts["rules"]},
        seconds=round(seconds, 1),
        seed=seed,
        versions=library_versions(),
    )
    if progress is not None:
        progress("measure", len(rules), len(rules))
    return Planted(copy, report)
