"""Blocks: the parts of a network that are chosen, or given one number, as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sparsight.networks.matrices import WeightMatrix

__all__ = ["blocks_of"]


def blocks_of(model: nn.Module, matrices: Sequence[WeightMatrix]) -> dict[str, list[WeightMatrix]]:
    """Group layers by the block that they are part of.

    A block is the outermost module in a container (``Sequential``, ``ModuleList``) that is neither
    a container nor a layer itself: a residual block, an inverted residual, an encoder layer. A
    layer outside of all blocks stands alone.

    Parameters
    ----------
    model
        The network.
    matrices
        Its weight matrices, or some of them.

    Returns
    -------
    dict
        Layers by the block's module path, in the order in which they are given.

    Examples
    --------
    >>> from torchvision.models import resnet18
    >>> from sparsight.networks import weight_matrices
    >>> model = resnet18()
    >>> list(blocks_of(model, weight_matrices(model)))[:4]
    ['conv1', 'layer1.0', 'layer1.1', 'layer2.0']
    """
    modules = dict(model.named_modules())
    found: dict[str, list[WeightMatrix]] = {}
    for matrix in matrices:
        found.setdefault(_block(matrix.name, modules), []).append(matrix)
    return found


def _block(name: str, modules: dict[str, nn.Module]) -> str:
    parts = name.partition("[")[0].split(".")
    for depth in range(1, len(parts)):
        parent, own = modules[".".join(parts[: depth - 1])], modules[".".join(parts[:depth])]
        if _contains(parent) and not _contains(own):
            return ".".join(parts[:depth])
    return name


def _contains(module: nn.Module) -> bool:
    return type(module) in (nn.Sequential, nn.ModuleList)  # one with a name of its own is a block
