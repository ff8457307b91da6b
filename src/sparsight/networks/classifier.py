"""A classifier of pixels: normalisation inside, so that an attack's ball is one of pixels."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sparsight.networks import Network
from sparsight.networks.outputs import unwrap_logits

__all__ = ["PixelClassifier"]


class PixelClassifier(nn.Module):
    """A network on pixels in [0, 1].

    Attributes
    ----------
    model
        The user's module.
    mean, std
        Buffers ``(C, 1, 1)``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def of(cls, network: Network) -> PixelClassifier:
        """Copy a network and put its normalisation inside.

        Examples
        --------
        >>> import sparsight
        >>> network = sparsight.load("embedded")
        >>> pixels = torch.rand(2, 3, 64, 64)
        >>> inside = PixelClassifier.of(network)(pixels)
        >>> bool(torch.allclose(inside, network(network.preprocessing.normalize(pixels))))
        True
        """
        mean, std = (
            torch.tensor(values, dtype=network.dtype, device=network.device)[:, None, None]
            for values in (network.preprocessing.mean, network.preprocessing.std)
        )
        made = cls(copy.deepcopy(network.model), mean, std)
        return made.train(network.model.training)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of pixels ``(N, C, H, W)`` in [0, 1]."""
        inner = (pixels.to(self.mean.dtype) - self.mean) / self.std
        return unwrap_logits(self.model(inner))

    def network(self, like: Network, spec: str) -> Network:
        """Return the model, in evaluation mode, with another network's preprocessing and labels."""
        info = {**like.info, "derived from": like.spec}
        return Network(self.model.eval(), like.preprocessing, like.labels, spec, info)
