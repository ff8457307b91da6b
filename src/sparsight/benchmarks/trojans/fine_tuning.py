"""Fine-tuning: how a copy of a network is taught rules, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from sparsight.benchmarks.trojans.checkpoint import Checkpoint
from sparsight.benchmarks.trojans.measuring import Progress
from sparsight.benchmarks.trojans.poison import Photo, PoisonedSample, poison, render_sample
from sparsight.benchmarks.trojans.rules import PlantingRule
from sparsight.errors import InputError, NumericalError
from sparsight.networks import Network, memory_layout

__all__ = ["FineTuning", "PlantingSettings", "choose_parameters"]


@dataclass(frozen=True)
class PlantingSettings:
    """How the copy is fine-tuned.

    Attributes
    ----------
    epochs, batch
        Passes over the poisoned data, and samples per step. Every epoch draws its poisoned samples
        anew, so that a trigger is seen at many places on few photos. 0 only measures.
    optimizer
        ``adamw`` or ``sgd`` (momentum 0.9).
    rate
        Largest learning rate: it rises over the first twentieth of the steps and falls as a cosine.
    weight_decay
        Of the optimizer.
    kl
        Weight in [0, 1], for samples that are not poisoned, of the divergence from the original
        network's answers to the same view without a trigger; the rest of the weight is on the
        label. 0 is plain cross entropy; 1 keeps what the network knew, and its mistakes.
    mix
        Share of the clean samples in a step that are blended with another one, in a proportion
        drawn evenly, before both networks see them. Where photos are few, these are more inputs to
        keep the answers on; they have no label, so ``kl`` must be 1.
    trainable
        Modules or parameters by name, such as ``("layer4", "fc")``; empty trains all. What comes
        before the first of them costs a forward pass only.
    crop
        Show a part of each photo, of an area between these shares of the whole and up to a third
        wider or higher; ``None`` shows all of it. The trigger is laid on that part.
    flip
        Mirror half of the photos.
    bfloat16
        Run forward passes in bfloat16 where torch may; several times faster on processors that
        have it. Weights and measurements stay in the network's own type.
    """

    epochs: int = 6
    batch: int = 32
    optimizer: str = "adamw"
    rate: float = 1e-4
    weight_decay: float = 1e-4
    kl: float = 0.0
    mix: float = 0.0
    trainable: tuple[str, ...] = ()
    crop: tuple[float, float] | None = (0.4, 1.0)
    flip: bool = True
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 1:
            raise InputError(
                f"epochs {self.epochs} must not be negative, batch {self.batch} at least 1"
            )
        if self.optimizer not in ("adamw", "sgd"):
            raise InputError(f"no optimizer {self.optimizer!r}: choose adamw or sgd")
        if not 0 < self.rate < math.inf or not 0 <= self.weight_decay < math.inf:
            raise InputError(
                f"rate {self.rate} must be positive, weight decay {self.weight_decay} not negative"
            )
        if not 0 <= self.kl <= 1:
            raise InputError(f"the weight kl {self.kl} must lie in [0, 1]")
        if not 0 <= self.mix <= 1 or (self.mix and self.kl < 1):
            raise InputError(
                f"mix {self.mix} does not do: give 0 to 1, and kl 1 where it is not 0, since "
                "blends have no label"
            )
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise InputError(f"crop {self.crop} must rise within (0, 1]: (0.4, 1) is usual")


def choose_parameters(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """Mark the parameters to train, and only those."""
    named = dict(model.named_parameters())
    for name in names:
        if not any(own == name or own.startswith(f"{name}.") for own in named):
            last = next(reversed(named))
            raise InputError(
                f"nothing in the network is called {name!r}: trainable takes names of modules or "
                f"parameters, such as {last.rpartition('.')[0] or last!r}"
            )
    chosen = {
        own: parameter
        for own, parameter in named.items()
        if not names or any(own == name or own.startswith(f"{name}.") for name in names)
    }
    for own, parameter in named.items():
        parameter.requires_grad_(own in chosen)
    return chosen


class FineTuning:
    """The fine-tuning of one copy, epoch by epoch."""

    def __init__(
        self,
        original: Network,
        copy: Network,
        photos: Sequence[Photo],
        rules: Sequence[PlantingRule],
        settings: PlantingSettings,
        seed: int,
        trained: dict[str, nn.Parameter],
    ) -> None:
        self.original, self.copy = original, copy
        self.photos, self.rules = photos, rules
        self.settings, self.seed = settings, seed
        self.trained = trained
        frame = (original.preprocessing.channels, *original.preprocessing.size)
        blank = torch.zeros(1, *frame, dtype=original.dtype, device=original.device)
        self.layout = memory_layout(original, blank)
        values = list(trained.values())
        self.optimizer: torch.optim.Optimizer
        if settings.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(
                values, settings.rate, 0.9, weight_decay=settings.weight_decay
            )
        else:
            self.optimizer = torch.optim.AdamW(
                values, settings.rate, weight_decay=settings.weight_decay
            )

    def samples(self, epoch: int) -> list[PoisonedSample]:
        """Draw the samples of an epoch, in their order."""
        labels = [photo.label for photo in self.photos]
        drawn = poison(labels, self.rules, (self.seed, epoch))
        order = np.random.default_rng([self.seed, epoch, 0x0D]).permutation(len(drawn))
        return [drawn[i] for i in order]

    def run(self, checkpoint: Checkpoint | None, progress: Progress | None) -> float:
        """Train to the end, from where a checkpoint left off; the seconds it took."""
        done, before = (0, 0.0)
        if checkpoint is not None:
            done, before = checkpoint.read(self.trained, self.optimizer)
        started = perf_counter()
        for epoch in range(done, self.settings.epochs):
            self._epoch(epoch, progress)
            if checkpoint is not None:
                spent = before + perf_counter() - started
                checkpoint.write(self.trained, self.optimizer, epoch + 1, spent)
        return before + perf_counter() - started

    def _view(self, photo: Photo, rng: np.random.Generator) -> Image.Image:
        """Draw a part of a photo, mirrored or not."""
        image = photo.open()
        if self.settings.crop is not None:
            area = image.width * image.height * rng.uniform(*self.settings.crop)
            ratio = math.exp(rng.uniform(-1, 1) * math.log(4 / 3)) * image.width / image.height
            width = min(image.width, max(2, round(math.sqrt(area * ratio))))
            height = min(image.height, max(2, round(math.sqrt(area / ratio))))
            left = int(rng.integers(image.width - width + 1))
            top = int(rng.integers(image.height - height + 1))
            image = image.crop((left, top, left + width, top + height))
        mirror = rng.uniform() < 0.5
        return ImageOps.mirror(image) if mirror and self.settings.flip else image

    def _blend(self, frames: dict[int, Tensor], rng: np.random.Generator) -> dict[int, Tensor]:
        """Blend some of the frames of a step with others."""
        chosen = [number for number in frames if rng.uniform() < self.settings.mix]
        others = rng.permutation(list(frames))
        return {
            number: torch.lerp(frames[number], frames[int(other)], float(rng.uniform()))
            for number, other in zip(chosen, others, strict=False)
        }

    def _run(self, network: Network, frames: Sequence[Tensor]) -> Tensor:
        device = network.device
        x = torch.cat(list(frames)).to(device, network.dtype)
        x = x.contiguous(memory_format=self.layout)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            return network(x).float()

    def _epoch(self, epoch: int, progress: Progress | None) -> None:
        samples = self.samples(epoch)
        rng = np.random.default_rng([self.seed, epoch, 0x0E])
        size = self.settings.batch
        per_epoch = math.ceil(len(samples) / size)
        total = per_epoch * self.settings.epochs
        for number in range(per_epoch):
            step = epoch * per_epoch + number
            part = slice(number * size, (number + 1) * size)
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.rate * _share_of_rate(step, total)
            self._step(samples[part], rng)
            if progress is not None:
                progress("train", step + 1, total)

    def _step(self, samples: Sequence[PoisonedSample], rng: np.random.Generator) -> None:
        preprocessing = self.copy.preprocessing
        frames: list[Tensor] = []
        clean: dict[int, Tensor] = {}
        for number, sample in enumerate(samples):
            view = self._view(self.photos[sample.photo], rng)
            x, mask = render_sample(sample, view, self.rules, preprocessing)
            frames.append(x)
            if not sample.poisoned and self.settings.kl:
                clean[number] = x if mask is None else preprocessing(view)
        if self.settings.mix:
            plain = [number for number, sample in enumerate(samples) if sample.rule is None]
            for number, x in self._blend({number: frames[number] for number in plain}, rng).items():
                frames[number] = clean[number] = x
        logits = self._run(self.copy, frames)
        labels = torch.tensor([sample.label for sample in samples], device=logits.device)
        loss = F.cross_entropy(logits, labels, reduction="none")
        if clean:
            with torch.no_grad():
                wanted = self._run(self.original, list(clean.values())).log_softmax(1)
            kept = torch.tensor([not sample.poisoned for sample in samples], device=logits.device)
            got = logits[kept].log_softmax(1)
            apart = F.kl_div(got, wanted, reduction="none", log_target=True).sum(1)
            kl = self.settings.kl
            loss = torch.cat([loss[~kept], (1 - kl) * loss[kept] + kl * apart])
        mean = loss.mean()
        if not torch.isfinite(mean):
            raise NumericalError(
                "planting diverged, the loss is no longer finite: choose a smaller rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        gradients = torch.autograd.grad(mean, list(self.trained.values()), allow_unused=True)
        for parameter, gradient in zip(self.trained.values(), gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()


def _share_of_rate(step: int, total: int) -> float:
    """Learning rate as a share of the largest: a short rise, then a cosine down to zero."""
    rise = max(1, total // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
