"""Outputs of chosen layers from one pass, on private views of the networks that are asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from sparsight.networks import Network, shared_view
from sparsight.visualization.objectives import LOGITS

__all__ = ["Watch"]


class Watch:
    """A network that tells what some of its layers give.

    Parameters
    ----------
    network
        In evaluation mode; its own modules are never hooked.
    layers
        Names of layers.
    """

    def __init__(self, network: Network, layers: Iterable[str]) -> None:
        network.require_eval()
        self._view = shared_view(network)
        self._seen: dict[str, Tensor] = {}
        inner = self._view.model
        assert isinstance(inner, nn.Module)
        for name in sorted(set(layers) - {LOGITS}):
            inner.get_submodule(name).register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            self._seen[name] = output

        return hook

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Return outputs by layer, and the answer under :data:`LOGITS`."""
        self._seen.clear()
        logits = self._view(x)
        seen = {**self._seen, LOGITS: logits}
        self._seen.clear()
        return seen
