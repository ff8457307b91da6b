"""Torch-Pruning, which knows what else must go if a channel goes (Fang et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparsight.errors import InputError, UnsupportedError
from sparsight.networks.outputs import LogitsOnly

T = TypeVar("T")

__all__ = ["dependencies_of", "out_channels", "refused_as_unsupported", "torch_pruning"]


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


def refused_as_unsupported(work: Callable[[], T]) -> T:
    """Do something with Torch-Pruning, which fails in many ways on networks that it cannot read.

    Raises
    ------
    UnsupportedError
        If it fails.
    """
    try:
        return work()
    except (
        RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError,
        ZeroDivisionError,
    ) as error:  # fmt: skip
        raise UnsupportedError(
            f"Torch-Pruning cannot follow the channels of this network ({type(error).__name__}): "
            "prune weights instead, or use gates"
        ) from error


def dependencies_of(model: nn.Module, x: Tensor) -> Any:
    """Build the graph of what must go together.

    Parameters
    ----------
    model
        Whose parameters take gradients; in evaluation mode.
    x
        ``(1, C, H, W)``.

    Raises
    ------
    InputError
        If Torch-Pruning is not installed.
    UnsupportedError
        If it cannot read the network.
    """
    pruning = torch_pruning()
    with torch.enable_grad():
        return refused_as_unsupported(
            lambda: pruning.DependencyGraph().build_dependency(LogitsOnly(model), example_inputs=x)
        )
