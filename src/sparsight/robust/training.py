"""One stage of hardening: epochs of training under attack, the best of which is kept.

Whatever is drawn (order, shifts, starts of attacks) is drawn anew for every step from the seed and
the step's own number. So a stage that goes on after an interruption does what it would have done.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from sparsight.datasets.pixels import augment, batches, drawn, parts_of, seeded
from sparsight.errors import NumericalError
from sparsight.networks.units import NORMALISATIONS
from sparsight.robust.checkpoint import read_state, write_state
from sparsight.robust.masked import Masked
from sparsight.robust.objectives import Objective
from sparsight.robust.settings import HardenSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["REACHED", "STAGES", "Accuracy", "Logged", "Stage", "measure", "train"]

STAGES = ("pretrain", "prune", "finetune")
"""Names of the stages."""

REACHED = 5e-5  # over the budget: what rounds to 0.0000, as published

Progress = Callable[[str, int, int], None]
Logged = Callable[[list[dict[str, Any]]], None]


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers, to images and to attacked ones."""

    clean: float
    robust: float


@dataclass
class Stage:
    """A stage that is under way.

    Attributes
    ----------
    name
        One of :data:`STAGES`.
    classifier
        What is trained.
    masked
        Its masks, while they are learnt.
    epoch
        Epochs done.
    best, score
        State of the best epoch, and what it is the best by: whether the budget was met, then
        accuracy under attack, then on the images; these first if training is ``natural``.
    frozen
        Weight of the budget, once it was met.
    log
        A row for each epoch of all stages.
    scaler
        State of what scales losses in half precision.
    """

    name: str
    classifier: nn.Module
    masked: Masked | None = None
    epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    score: tuple[float, ...] = ()
    frozen: float | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Plain values of the state."""
        return {
            "stage": self.name, "epoch": self.epoch, "score": list(self.score),
            "frozen": self.frozen, "log": self.log, "scaler": self.scaler,
        }  # fmt: skip


def measure(
    model: nn.Module,
    data: Dataset[Any],
    settings: HardenSettings,
    seed: tuple[int, ...],
) -> Accuracy:
    """Count right answers to images and under the attack of training."""
    model.eval()
    device = next(model.parameters()).device
    clean = robust = count = 0
    for number, (x, y) in enumerate(batches(data, settings.batch, workers=settings.workers)):
        x, y = x.to(device), y.to(device)
        attacked = settings.attack(model, x, y, drawn(*seed, number))
        with torch.no_grad():
            right = model(x).argmax(1) == y
            clean += int(right.sum())
            robust += int((right & (model(attacked).argmax(1) == y)).sum())
        count += len(x)
    return Accuracy(clean / count, robust / count)


def groups_of(stage: Stage, settings: HardenSettings) -> list[dict[str, Any]]:
    """List what a stage's optimizer moves; only weights decay."""
    plain: list[nn.Parameter] = []
    decays: list[nn.Parameter] = []
    if stage.masked is None:
        for module in stage.classifier.modules():
            for name, parameter in module.named_parameters(recurse=False):
                whole = not isinstance(module, NORMALISATIONS) and name != "bias"
                (decays if whole else plain).append(parameter)
    else:
        stage.classifier.requires_grad_(False)
        for scores in stage.masked.layers.values():
            plain += [scores.scores] if settings.method != "rates" else []
            plain += [scores.quota] if settings.method != "scores" else []
        if settings.batch_norm == "train":
            for module in stage.classifier.modules():
                if isinstance(module, NORMALISATIONS):
                    plain += list(module.parameters())
        for parameter in plain:
            parameter.requires_grad_()
    groups = [
        {"params": plain, "weight_decay": 0.0},
        {"params": decays, "weight_decay": settings.weight_decay},
    ]
    return [group for group in groups if group["params"]]


def train(
    stage: Stage,
    data: Dataset[Any],
    judged: Dataset[Any],
    settings: HardenSettings,
    objective: Objective,
    fabric: Fabric,
    folder: Path | None,
    resumed: bool,
    facts: dict[str, Any],
    progress: Progress,
    logged: Logged,
) -> None:
    """Train a stage to its end, from where it is.

    Parameters
    ----------
    stage
        Changed in place; at the end ``best`` is the state of the best epoch.
    data, judged
        Images to train on, and to choose epochs by.
    settings, objective
        How.
    fabric
        Of Lightning, launched.
    folder
        Where the state is kept after every epoch.
    resumed
        Whether the folder holds this stage's state already.
    facts
        What else the state is told apart by.
    progress
        Called with the stage's name, steps done and steps in all.
    logged
        Called with all rows after every epoch.

    Raises
    ------
    NumericalError
        If the loss is no longer finite.
    InputError
        If the folder is damaged.
    """
    number = STAGES.index(stage.name)
    epochs = settings.epochs[number]
    optimizer = torch.optim.SGD(
        groups_of(stage, settings), settings.rates[number], momentum=settings.momentum
    )
    if resumed and folder is not None:
        stage.best = read_state(folder, stage.classifier, optimizer)
        fabric.strategy.precision.load_state_dict(stage.scaler)
    model, wrapped = fabric.setup(stage.classifier, optimizer)
    run = _Epoch(stage, model, wrapped, data, settings, objective, fabric, progress)
    for epoch in range(stage.epoch, epochs):
        weight = run.weight(epoch)
        row = run(epoch)
        candidate = stage.classifier
        if stage.masked is not None:
            row |= _budget(stage, weight)
            candidate, _ = stage.masked.fixed()
        got = measure(candidate, judged, settings, (settings.seed, number, epoch, 2))
        row |= {"clean": got.clean, "robust": got.robust}
        reached = stage.masked is None or row["over budget"] <= REACHED
        natural = settings.objective == "natural"
        own = (got.clean, got.robust) if natural else (got.robust, got.clean)
        score = (float(reached), *own)
        if not stage.best or score > tuple(stage.score):
            stage.score = score
            stage.best = {
                name: value.detach().cpu().clone() for name, value in candidate.state_dict().items()
            }
        stage.log.append({"stage": stage.name, "epoch": epoch + 1, **row})
        stage.epoch = epoch + 1
        if folder is not None and fabric.global_rank == 0:
            stage.scaler = fabric.strategy.precision.state_dict()
            write_state(folder, stage.classifier, optimizer, stage.best, stage.facts() | facts)
        if fabric.global_rank == 0:
            logged(stage.log)


def _budget(stage: Stage, weight: float) -> dict[str, Any]:
    """Tell how far over the budget the masks are; once they are not, its weight stays."""
    assert stage.masked is not None
    with torch.no_grad():
        over, share = float(stage.masked.over_budget()), float(stage.masked.share())
        rates = {name: float(rate) for name, rate in stage.masked.rates().items()}
    if over <= REACHED and stage.frozen is None:
        stage.frozen = weight
    return {"over budget": over, "share": share, "gamma": weight, "rates": rates}


class _Epoch:
    """Trains for one epoch after the other."""

    def __init__(
        self,
        stage: Stage,
        model: Any,
        optimizer: Any,
        data: Dataset[Any],
        settings: HardenSettings,
        objective: Objective,
        fabric: Fabric,
        progress: Progress,
    ) -> None:
        self.stage, self.model, self.optimizer, self.data = stage, model, optimizer, data
        self.settings, self.objective, self.fabric = settings, objective, fabric
        self.progress = progress
        self.number = STAGES.index(stage.name)
        self.steps = len(parts_of(range(len(data)), settings.batch))  # type: ignore[arg-type]

    def weight(self, epoch: int) -> float:
        """Weight of the budget in an epoch."""
        stage, settings = self.stage, self.settings
        if stage.frozen is not None or stage.masked is None:
            return stage.frozen or 0.0
        steps = math.ceil(self.steps / settings.accumulate) * self.objective.replays
        return settings.weight_of_budget(epoch, settings.enough(len(stage.masked.layers), steps))

    def __call__(self, epoch: int) -> dict[str, Any]:
        """Train for an epoch; its mean loss."""
        settings, stage = self.settings, self.stage
        order = torch.randperm(
            len(self.data),  # type: ignore[arg-type]
            generator=drawn(settings.seed, self.number, epoch, 0),
        )
        share = self.fabric.global_rank, self.fabric.world_size
        found = batches(
            self.data, settings.batch, order=order, workers=settings.workers, share=share
        )
        total = self.steps * settings.epochs[self.number]
        losses: list[float] = []
        shift: Tensor | None = None
        for step, (pixels, labels) in enumerate(found):
            done = epoch * self.steps + step
            self.progress(stage.name, done, total)
            for group in self.optimizer.param_groups:
                rate = settings.rates[self.number]
                group["lr"] = 0.5 * rate * (1 + math.cos(math.pi * done / total))
            generator = drawn(settings.seed, self.number, epoch, 1, step, share[0])
            x = augment(pixels, generator) if settings.augment else pixels
            x, y = x.to(self.fabric.device), labels.to(self.fabric.device)
            self._mode()
            with seeded(self.fabric.device, generator):
                for _ in range(self.objective.replays):
                    loss, shift = self._step(x, y, epoch, step, generator, shift)
            losses.append(loss)
            if not math.isfinite(loss):
                raise NumericalError(
                    f"stage {stage.name!r} diverged in epoch {epoch + 1}, its loss is no longer "
                    "finite: choose a smaller rate"
                )
        return {"loss": sum(losses) / len(losses)}

    def _mode(self) -> None:
        """Train, but for normalisations that are to stay as they are."""
        self.stage.classifier.train()
        if self.stage.masked is not None and self.settings.batch_norm == "frozen":
            for module in self.stage.classifier.modules():
                if isinstance(module, NORMALISATIONS):
                    module.eval()

    def _clip(self) -> None:
        """Bound the gradients of quotas."""
        clip = self.settings.clip
        if self.stage.masked is None or clip is None:
            return
        self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        for scores in self.stage.masked.layers.values():
            if scores.quota.grad is not None:
                scores.quota.grad.clamp_(-clip, clip)

    def _step(
        self,
        x: Tensor,
        y: Tensor,
        epoch: int,
        step: int,
        generator: torch.Generator,
        shift: Tensor | None,
    ) -> tuple[float, Tensor | None]:
        """Train on a batch once; for ``free``, the shift of the images for the next time."""
        stage, settings = self.stage, self.settings
        masked = stage.masked
        first = step - step % settings.accumulate
        after = min(first + settings.accumulate, self.steps)
        last = step + 1 == after
        with nullcontext() if masked is None else masked.cached():
            with self.fabric.autocast():
                moved = self.objective.attacked(stage.classifier, x, y, generator)
            if self.objective.name == "free":
                if shift is None or len(shift) < len(x):  # a last batch can be larger by one
                    shift = torch.zeros_like(x)
                shift = shift[: len(x)].detach().requires_grad_()
                moved = (x + shift).clamp(0, 1)
            with self.fabric.no_backward_sync(self.model, enabled=not last):
                loss = self.objective.loss(self.model, x, moved, y)
                if masked is not None:
                    loss = loss + self.weight(epoch) * masked.over_budget()
                self.fabric.backward(loss / (after - first))
        if last:
            self._clip()
            self.optimizer.step()
            self.optimizer.zero_grad()
        if shift is not None and shift.grad is not None:
            with torch.no_grad():
                shift = (shift + settings.epsilon * shift.grad.sign()).clamp(
                    -settings.epsilon, settings.epsilon
                )
        return float(loss.detach()), shift
