"""Logits out of whatever a classifier returns: tensor, tuple, dict or ModelOutput."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sparsight.errors import UnsupportedError

__all__ = ["LogitsOnly", "unwrap_logits"]


def unwrap_logits(output: Any) -> Tensor:
    """Find the logits ``(N, classes)`` in a classifier's output.

    A tensor is taken as it is; of a mapping or ``ModelOutput`` the entry ``logits`` (or
    ``out``, or the only tensor); of a tuple or list the first tensor.

    Raises
    ------
    UnsupportedError
        If no tensor of two dimensions is found.

    Examples
    --------
    >>> import torch
    >>> unwrap_logits({"logits": torch.zeros(2, 10), "loss": None}).shape
    torch.Size([2, 10])
    """
    found: Any = output
    if isinstance(output, Mapping):
        tensors = {key: value for key, value in output.items() if isinstance(value, Tensor)}
        found = tensors.get("logits", tensors.get("out"))
        if found is None and len(tensors) == 1:
            found = next(iter(tensors.values()))
    elif isinstance(getattr(output, "logits", None), Tensor):
        found = output.logits
    elif isinstance(output, tuple | list):
        found = next((value for value in output if isinstance(value, Tensor)), None)
    if not isinstance(found, Tensor):
        raise UnsupportedError(
            f"the network returned a {type(output).__name__} without logits: wrap it in a module "
            "that returns a tensor (N, classes)"
        )
    if found.ndim != 2:
        raise UnsupportedError(
            f"the network returned a tensor of shape {tuple(found.shape)}, not (N, classes): "
            "Sparsight explains classifiers"
        )
    return found


class LogitsOnly(nn.Module):
    """A view of a classifier that returns only its logits; parameters are shared, not copied."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of a batch ``(N, C, H, W)``, which stays as it is."""
        return unwrap_logits(self.model(x.clone()))  # a model may work in place
