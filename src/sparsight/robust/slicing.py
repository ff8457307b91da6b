"""Channels that are masked, cut out: a smaller network that answers the same."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sparsight.errors import UnsupportedError
from sparsight.networks.classifier import PixelClassifier
from sparsight.networks.dependencies import (
    dependencies_of,
    out_channels,
    refused_as_unsupported,
    torch_pruning,
)
from sparsight.networks.state import plain_state
from sparsight.robust.layers import layer_costs

__all__ = ["Size", "cut_channels", "size_of"]

_EQUAL = 1e-4  # of the largest logit
_REPEATS = 7


@dataclass(frozen=True)
class Size:
    """How large and how fast a network is.

    Attributes
    ----------
    parameters, nonzero
        Numbers of them.
    products
        Multiplications for one image.
    file
        Bytes of its weights.
    seconds
        For one image, median of several passes.
    """

    parameters: int
    nonzero: int
    products: float
    file: int
    seconds: float

    def describe(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _wait(device: torch.device) -> None:
    """Wait for what a device still has to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def size_of(classifier: PixelClassifier, x: Tensor) -> Size:
    """Measure a classifier.

    Parameters
    ----------
    classifier
        In evaluation mode.
    x
        ``(1, C, H, W)``, pixels.
    """
    parameters = list(classifier.parameters())
    inner = (x - classifier.mean) / classifier.std
    costs = layer_costs(classifier.model, inner)
    spent = []
    with torch.no_grad():
        classifier(x)
        for _ in range(_REPEATS):
            _wait(x.device)
            start = time.perf_counter()
            classifier(x)
            _wait(x.device)
            spent.append(time.perf_counter() - start)
    return Size(
        sum(p.numel() for p in parameters),
        sum(int((p.detach() != 0).sum()) for p in parameters),
        sum(costs.values()),
        len(save(plain_state(classifier.model.state_dict()))),
        statistics.median(spent),
    )


def cut_channels(
    classifier: PixelClassifier, kept: Mapping[str, Tensor], x: Tensor, *, check: bool = True
) -> PixelClassifier:
    """Cut channels out of a copy of a classifier.

    Parameters
    ----------
    classifier
        With masks written into its weights; not changed.
    kept
        Channels that stay, bool, by name of the layer that makes them, as
        :func:`sparsight.robust.channel_groups` names them.
    x
        ``(N, C, H, W)``, pixels, to compare answers on.
    check
        Whether answers are compared; not, where only the shape is wanted.

    Raises
    ------
    UnsupportedError
        If the smaller classifier answers otherwise.
    """
    pruning = torch_pruning()
    made = copy.deepcopy(classifier).eval()
    made.requires_grad_()  # dependencies are read off the graph of a backward pass
    graph = dependencies_of(made.model, (x[:1] - made.mean) / made.std)
    for name, own in kept.items():
        module: nn.Module = made.model.get_submodule(name)
        gone = (~own).nonzero()[:, 0].tolist()
        if gone:
            graph.get_pruning_group(module, out_channels(pruning, module), idxs=gone).prune()
    if check:
        with torch.no_grad():
            wanted, got = classifier(x), refused_as_unsupported(lambda: made(x))
        if float((wanted - got).abs().max()) > _EQUAL * float(wanted.abs().max()):
            raise UnsupportedError(
                "the network answers otherwise once its channels are cut out: use its masks, or "
                "prune weights"
            )
    return made
