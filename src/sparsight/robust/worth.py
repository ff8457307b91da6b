"""What weights are worth to attacked images, for scores to begin with."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Subset

from sparsight.datasets.pixels import batches
from sparsight.networks import Network
from sparsight.networks.classifier import PixelClassifier
from sparsight.robust.layers import prunable_weights
from sparsight.robust.settings import HardenSettings
from sparsight.traces import trace_many

__all__ = ["worth_of"]

_TRACED = 16  # images


def _gradient(classifier: PixelClassifier, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Gradient of the loss for each weight."""
    weights = {n: p.requires_grad_() for n, p in prunable_weights(classifier.model).items()}
    with torch.enable_grad():
        loss = F.cross_entropy(classifier(pixels), labels)
    pulls = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if pull is None else pull
        for (name, value), pull in zip(weights.items(), pulls, strict=True)
    }


def _traces(network: Network, pixels: Tensor) -> dict[str, Tensor]:
    """Share of traces that keep each weight, counting one that keeps all: none is worth nothing."""
    images = network.preprocessing.normalize(pixels[:_TRACED]).split(1)
    weights = prunable_weights(network.model)
    kept = {name: torch.ones_like(weight) for name, weight in weights.items()}
    for _, found in trace_many(network, images):
        for name, total in kept.items():
            total += found.tensors[name] != 0 if name in found.tensors else 1
    return {name: total / (1 + len(images)) for name, total in kept.items()}


def worth_of(
    network: Network, classifier: PixelClassifier, data: Subset[Any], settings: HardenSettings
) -> dict[str, Tensor] | None:
    """Ask a batch of attacked images, if first scores need any.

    Parameters
    ----------
    network
        Tells preprocessing and labels.
    classifier
        Whose weights.
    data
        Images and labels of training.
    settings
        Method, first scores, attack.

    Returns
    -------
    dict of str to Tensor, or None
        What weights are multiplied with to be scores, ``(outputs, inputs, ...)`` by parameter name.

    Raises
    ------
    InputError, NumericalError
        As :func:`sparsight.trace`, for ``traces``.
    """
    if settings.method == "random" or settings.scores not in ("gradient", "traces"):
        return None
    classifier.eval()
    x, y = (part.to(classifier.mean.device) for part in next(iter(batches(data, settings.batch))))
    moved = settings.attack(classifier, x, y, torch.Generator())
    if settings.scores == "gradient":
        return _gradient(classifier, moved, y)
    return _traces(classifier.network(network, network.spec), moved)
