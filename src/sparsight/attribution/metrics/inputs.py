"""What metrics accept: batches that are checked before anything is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.attribution.subject import require_eval
from sparsight.errors import InputError, NumericalError
from sparsight.networks.memory import memory_layout
from sparsight.networks.network import Network
from sparsight.networks.outputs import LogitsOnly, unwrap_logits

__all__ = [
    "Classifier",
    "answering",
    "checked_baseline",
    "checked_count",
    "checked_heat",
    "checked_images",
    "checked_mask",
    "checked_targets",
]

Classifier = Network | nn.Module | Callable[[Tensor], Any]
"""Whatever gives logits for a batch of images."""


def checked_heat(heat: Tensor, images: Tensor | None = None) -> Tensor:
    """Return maps ``(N, H, W)`` in float64; finite, and one per image if images are given."""
    if heat.ndim != 3 or not heat.is_floating_point():
        raise InputError(
            f"the heat is {heat.dtype} of shape {tuple(heat.shape)}: "
            "give floating-point maps (N, H, W)"
        )
    if not torch.isfinite(heat).all():
        raise InputError("the heat holds NaN or infinite values: a map must be finite to be judged")
    if images is None:
        return heat.detach().double()
    if heat.shape != (len(images), *images.shape[-2:]):
        raise InputError(
            f"heat of shape {tuple(heat.shape)} does not fit images of shape "
            f"{tuple(images.shape)}: give one map (H, W) per image"
        )
    return heat.detach().to(images.device, torch.float64)


def checked_mask(mask: Tensor, heat: Tensor, *, full: bool = True) -> Tensor:
    """Return masks on the device of the heat; none empty, nor, unless ``full``, full."""
    if mask.dtype != torch.bool:
        raise InputError(f"the mask is {mask.dtype}, not bool: compare it with a threshold first")
    if mask.shape != heat.shape:
        raise InputError(
            f"a mask of shape {tuple(mask.shape)} does not fit heat of shape "
            f"{tuple(heat.shape)}: give one mask (H, W) per map"
        )
    if not mask.numel():
        raise InputError(f"heat of shape {tuple(heat.shape)} is empty: give at least one map")
    inside = mask.flatten(1).sum(1)
    for row in (inside == 0).nonzero()[:, 0].tolist():
        raise InputError(f"mask {row} is empty: there is no place that the map could find")
    for row in (inside == mask[0].numel()).nonzero()[:, 0].tolist() if not full else ():
        raise InputError(f"mask {row} is full: without a pixel outside, ROC-AUC is undefined")
    return mask.to(heat.device)


def checked_images(network: Classifier, image: Tensor) -> Tensor:
    """Return images ``(N, C, H, W)``, finite, on the network's device and in its dtype."""
    if image.ndim != 4 or not image.is_floating_point():
        raise InputError(
            f"the images are {image.dtype} of shape {tuple(image.shape)}: "
            "give preprocessed images (N, C, H, W)"
        )
    if not image.numel():
        raise InputError(f"images of shape {tuple(image.shape)} are empty: give at least one")
    if not torch.isfinite(image).all():
        raise InputError("the image holds NaN or infinite values")
    module = network.model if isinstance(network, Network) else network
    like = next(module.parameters(), image) if isinstance(module, nn.Module) else image
    return image.detach().to(like.device, like.dtype)


def checked_targets(target: int | Sequence[int] | Tensor, count: int) -> list[int]:
    """Return one class per image."""
    given = target.tolist() if isinstance(target, Tensor) else target
    classes = [given] * count if isinstance(given, int) else list(given)
    if len(classes) != count:
        raise InputError(f"{len(classes)} classes for {count} images: give one, or one per image")
    for one in classes:
        if isinstance(one, bool) or not isinstance(one, int) or one < 0:
            raise InputError(f"class {one!r} is no class index: give integers from 0")
    return classes


def checked_baseline(baseline: float | Tensor, images: Tensor) -> Tensor:
    """Return what stands for nothing, of the images' shape."""
    given = torch.as_tensor(baseline, dtype=images.dtype, device=images.device)
    if not torch.isfinite(given).all():
        raise InputError("the baseline holds NaN or infinite values")
    try:
        return given.expand_as(images)
    except RuntimeError as error:
        raise InputError(
            f"a baseline of shape {tuple(given.shape)} does not fit an image of shape "
            f"{tuple(images.shape)}"
        ) from error


def checked_count(name: str, value: int) -> int:
    """Return a setting that counts something, 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}: it counts, give a whole number of 1 or more")
    return value


def answering(network: Classifier, classes: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Return a function from a batch to its logits ``(N, classes)``: no gradients, finite.

    Modules must be in eval mode and know all of ``classes``.
    """
    module = network.model if isinstance(network, Network) else network
    ask = require_eval(LogitsOnly(module)) if isinstance(module, nn.Module) else module
    largest = max(classes, default=0)
    layout = None if isinstance(module, nn.Module) else torch.contiguous_format

    def answer(batch: Tensor) -> Tensor:
        nonlocal layout
        if layout is None:
            layout = memory_layout(ask, batch)
        with torch.no_grad():
            logits = unwrap_logits(ask(batch.contiguous(memory_format=layout)))
        if largest >= logits.shape[1]:
            raise InputError(
                f"class {largest!r} does not exist: this network has classes 0 to "
                f"{logits.shape[1] - 1}"
            )
        if not torch.isfinite(logits).all():
            raise NumericalError(
                "the network answers NaN or infinity on this image: its weights are corrupt"
            )
        return logits

    return answer
