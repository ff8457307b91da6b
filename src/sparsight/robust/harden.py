"""Three stages under attack: train, learn what to keep, train what is kept."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from sparsight.datasets.pixels import Pixels, split
from sparsight.errors import InputError
from sparsight.networks import Network
from sparsight.networks.classifier import PixelClassifier
from sparsight.networks.state import hash_state
from sparsight.robust.checkpoint import read_facts
from sparsight.robust.hardened import Hardened
from sparsight.robust.layers import prunable_weights
from sparsight.robust.masked import Kept, Masked, bake
from sparsight.robust.objectives import choose_objective
from sparsight.robust.settings import HardenSettings
from sparsight.robust.training import REACHED, STAGES, Logged, Stage, train
from sparsight.robust.worth import worth_of
from sparsight.storage import library_versions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["harden"]

Progress = Callable[[str, int, int], None]


def harden(
    network: Network,
    data: Pixels,
    *,
    settings: HardenSettings | None = None,
    state: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda stage, done, total: None,
    logged: Logged = lambda rows: None,
    **options: Any,
) -> Hardened:
    """Harden and prune a network: HARP, or what it is compared with.

    Zhao & Wressnegger, "Holistic Adversarially Robust Pruning" (ICLR 2023), with the budget met
    exactly, epochs chosen on images set apart, and no decay of scores and quotas.

    Parameters
    ----------
    network
        Trained or not; not changed.
    data
        Images to train on; a share of them is set apart.
    settings
        How; the published ones are :data:`sparsight.robust.PUBLISHED`.
    state
        Folder for the state after every epoch, from which an interrupted call goes on. Left behind
        at the end, so that the same call gives the same result at once.
    overwrite
        Whether a state of another hardening is replaced, and not refused.
    progress
        Called with stage, steps done and steps in all.
    logged
        Called after every epoch with all rows so far: stage, epoch, loss, accuracies, and while
        masks are learnt the share kept, the weight of the budget and the rate of each layer.
    **options
        Fields of :class:`HardenSettings` to replace.

    Returns
    -------
    Hardened

    Raises
    ------
    InputError
        Settings out of range, too few images, a state of another hardening, or Lightning Fabric
        that is not installed.
    UnsupportedError
        If the network has nothing to prune, or its channels cannot go.
    NumericalError
        If training diverges.

    Examples
    --------
    >>> import sparsight
    >>> from sparsight.datasets.scenes import render_scene
    >>> from sparsight.robust import Pixels
    >>> network = sparsight.load("embedded")
    >>> scenes = [(render_scene(i % 10, seed=i).picture(), i % 10) for i in range(20)]
    >>> found = harden(network, Pixels(network, scenes), target=0.1, epochs=(0, 1, 1),
    ...                attack_steps=1, batch=8)
    >>> sum(one.kept for one in found.kept) == round(0.1 * sum(one.size for one in found.kept))
    True
    """
    settings = _options(settings or HardenSettings(), options)
    folder = None if state is None else Path(state)
    fabric = _fabric(network, settings)
    start = time.perf_counter()
    if network.dtype in (torch.float16, torch.bfloat16):
        raise InputError(
            "weights in half precision cannot be trained: load them in single precision, and give "
            "precision='bf16-mixed'"
        )
    objective = choose_objective(settings.objective, settings.attack, replays=settings.replays)
    digest = _digest(network, data, settings)
    facts = None if folder is None else _facts(folder, digest, overwrite=overwrite)
    part, apart = split(data, settings.validation, settings.seed)
    if min(len(part), settings.batch) < 2 * settings.devices:
        raise InputError(
            f"batches of {settings.batch} of {len(part)} images leave a device less than two, on "
            "which normalisations cannot train: give larger batches, or more images"
        )
    judged = Subset(apart, range(min(settings.judged, len(apart))))
    frame = (1, network.preprocessing.channels, *network.preprocessing.size)
    x = torch.zeros(frame, device=fabric.device, dtype=network.dtype)
    log: list[dict[str, Any]] = list(facts["log"]) if facts else []
    if log and fabric.global_rank == 0:
        logged(log)
    plain = replace(settings, scores="magnitude")
    if settings.method != "dense":  # what cannot be pruned is refused before it is trained
        _masks(PixelClassifier.of(network).to(fabric.device), x, None, plain).counts()

    def run(stage: Stage) -> None:
        place = STAGES.index(stage.name)
        told = facts if facts is not None and facts["stage"] == stage.name else None
        if told is not None:
            stage.epoch, stage.frozen = told["epoch"], told["frozen"]
            stage.score, stage.scaler = tuple(told["score"]), told["scaler"]
        stage.log = log
        if told is None and facts is not None and STAGES.index(facts["stage"]) > place:
            return  # it is done, and what came of it is in the state of a later stage
        train(
            stage, part, judged, settings, objective, fabric, folder, told is not None,
            {"digest": digest}, progress, logged,
        )  # fmt: skip

    classifier = PixelClassifier.of(network).to(fabric.device).requires_grad_()
    first = Stage("pretrain", classifier)
    if settings.epochs[0]:
        run(first)
        _take(classifier, first.best)
    if settings.method == "dense":
        sizes = {name: w.numel() for name, w in prunable_weights(classifier.model).items()}
        kept = tuple(Kept(name, size, size) for name, size in sizes.items())
        return _result(network, classifier, kept, {}, settings, log, start, reached=True)
    if facts is not None and facts["stage"] != first.name:  # scores are in the state
        masked = _masks(classifier, x, None, plain)
    else:
        masked = _masks(classifier, x, worth_of(network, classifier, part, settings), settings)
    second = Stage("prune", masked.classifier, masked)
    if settings.learns:
        run(second)
    made, kept = masked.fixed()
    if second.best:
        _take(made, second.best)
    third = Stage("finetune", made)
    if settings.epochs[2]:
        run(third)
        _take(made, third.best)
    masks = {name: value for name, value in made.named_buffers() if name.endswith(".mask")}
    chosen = masked.chosen(masks)
    kept = tuple(Kept(one.name, int(chosen[one.name].sum()), one.size) for one in kept)
    reached = any(row.get("over budget", 1.0) <= REACHED for row in log)
    channels = chosen if settings.mode == "channels" else {}
    return _result(
        network, made, kept, channels, settings, log, start, reached or not settings.learns
    )


def _result(
    network: Network,
    classifier: PixelClassifier,
    kept: tuple[Kept, ...],
    channels: Mapping[str, Tensor],
    settings: HardenSettings,
    log: list[dict[str, Any]],
    start: float,
    reached: bool,
) -> Hardened:
    plain = bake(classifier).eval().requires_grad_(False)
    assert isinstance(plain, PixelClassifier)
    return Hardened(
        plain.network(network, f"{network.spec} (hardened)"), plain, kept, channels,
        settings.describe(), log, library_versions(), time.perf_counter() - start, reached,
    )  # fmt: skip


def _options(settings: HardenSettings, options: Mapping[str, Any]) -> HardenSettings:
    unknown = sorted(set(options) - set(settings.describe()))
    if unknown:
        known = ", ".join(settings.describe())
        raise InputError(f"hardening has no option {unknown[0]!r}: choose from {known}")
    return replace(settings, **options)


def _fabric(network: Network, settings: HardenSettings) -> Fabric:
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise InputError(
            "hardening needs Lightning Fabric: pip install 'sparsight[harden]'"
        ) from error
    devices: int | list[int] = settings.devices
    if devices == 1 and network.device.index is not None:
        devices = [network.device.index]
    fabric = Fabric(
        accelerator=network.device.type,
        devices=devices,
        precision=settings.precision,  # type: ignore[arg-type]
    )
    if settings.devices > 1:
        fabric.launch()
    return fabric


def _digest(network: Network, data: Pixels, settings: HardenSettings) -> str:
    """Tell one hardening from another."""
    told = {name: value for name, value in settings.describe().items() if name != "workers"}
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    found.update(data.digest().encode())
    hash_state(found, network.model.state_dict())
    return found.hexdigest()


def _facts(folder: Path, digest: str, *, overwrite: bool) -> dict[str, Any] | None:
    """Read how far the state in a folder is; of one that is to be replaced, nothing."""
    try:
        facts = read_facts(folder)
        if facts is not None and facts["digest"] != digest:
            raise InputError(
                f"{folder} holds a hardening of another network, other images or settings: choose "
                "another folder, or replace it (--overwrite)"
            )
    except InputError:
        if not overwrite:
            raise
        return None
    return facts


def _take(model: torch.nn.Module, best: Mapping[str, Tensor]) -> None:
    if best:
        model.load_state_dict(best)


def _masks(
    classifier: PixelClassifier,
    x: Tensor,
    worth: Mapping[str, Tensor] | None,
    settings: HardenSettings,
) -> Masked:
    return Masked(
        classifier, settings.mode, settings.target, x,
        scores="random" if settings.method == "random" else settings.scores,
        start=settings.first_rate, least=settings.least,
        learn_scores=settings.method in ("harp", "scores"),
        learn_rates=settings.method in ("harp", "rates"),
        worth=worth, seed=settings.seed,
    )  # fmt: skip
