"""Torch-Pruning, which knows what else must go if a channel goes (Fang et al., CVPR 2023)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import nn

from sparsight.errors import InputError

__all__ = ["out_channels", "torch_pruning"]


def torch_pruning() -> ModuleType:
    """Import Torch-Pruning.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise InputError(
            "cutting channels out needs torch-pruning: pip install 'sparsight[slice]'"
        ) from error
    found: ModuleType = torch_pruning
    return found


def out_channels(pruning: ModuleType, module: nn.Module) -> Any:
    """Find Torch-Pruning's function that cuts outputs of a layer out."""
    if isinstance(module, nn.Linear):
        return pruning.prune_linear_out_channels
    if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
        return pruning.prune_depthwise_conv_out_channels
    return pruning.prune_conv_out_channels
