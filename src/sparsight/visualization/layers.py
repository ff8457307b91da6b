"""What can be named in a network: modules with an output, its channels, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.errors import InputError, UnsupportedError
from sparsight.networks import Network, shared_view

__all__ = ["Layer", "find_layer", "list_layers"]

_CHANNELS_SECOND = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Layer:
    """A module's output.

    Attributes
    ----------
    name
        Module path, as in ``network.model.named_modules()``.
    kind
        The module's class.
    shape
        Of its output for one image, without the batch.
    axis
        Which dimension of the output, counted with the batch, holds channels.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    axis: int

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.shape[self.axis - 1]

    def first(self, output: Tensor) -> Tensor:
        """Bring an output to ``(N, channels, places)``."""
        return output.movedim(self.axis, 1).flatten(2) if output.ndim > 2 else output[:, :, None]

    @property
    def centre(self) -> int:
        """Number of the place in the middle, of :meth:`first`."""
        places = [n for i, n in enumerate(self.shape, 1) if i != self.axis]
        middle = 0
        for size in places:
            middle = middle * size + size // 2
        return middle


def list_layers(network: Network) -> tuple[Layer, ...]:
    """List the modules whose output can be visualized, in the order in which they are done.

    Channels are the second dimension behind convolutions and the last behind linear layers and
    layer norms. Where an output has been turned since, the dimension with as many entries as the
    last of these layers has units is taken.

    Parameters
    ----------
    network
        In evaluation mode. It runs once, on grey.

    Returns
    -------
    tuple of Layer
        Without modules that return something else than one tensor, or are not used.

    Examples
    --------
    >>> from sparsight.networks import load
    >>> layers = list_layers(load("embedded"))
    >>> layers[-1].name, layers[-1].channels
    ('fc', 10)
    """
    network.require_eval()
    view = shared_view(network)
    inner = view.model
    assert isinstance(inner, nn.Module)
    found: dict[str, Layer] = {}
    last: list[tuple[int, bool]] = []  # units of the last weighted layer, channels second

    def see(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(module, _CHANNELS_SECOND):
                last[:] = [(_units(module), True)]
            elif isinstance(module, nn.Linear | nn.LayerNorm):
                last[:] = [(_units(module), False)]
            if isinstance(output, Tensor) and 2 <= output.ndim <= 4 and len(output) == 1 and last:
                shape = tuple(output.shape)
                found.pop(name, None)  # one that is used twice counts where it is used last
                axis = _axis(shape, *last[0])
                found[name] = Layer(name, type(module).__name__, shape[1:], axis)

        return hook

    for name, module in inner.named_modules():
        if name:
            module.register_forward_hook(see(name))
    grey = torch.full((1, network.preprocessing.channels, *network.preprocessing.size), 0.5)
    x = network.preprocessing.normalize(grey).to(network.device, network.dtype)
    with torch.no_grad():
        view(x)
    return tuple(found.values())


def find_layer(network: Network, name: str, known: Sequence[Layer] | None = None) -> Layer:
    """Find a layer by its name.

    Parameters
    ----------
    network
        In evaluation mode.
    name
        Module path.
    known
        What :func:`list_layers` said of this network, if it was asked already.

    Raises
    ------
    InputError
        If there is none.
    UnsupportedError
        If it has no output that can be visualized.
    """
    listed = list_layers(network) if known is None else known
    layers = {layer.name: layer for layer in listed}
    if name in layers:
        return layers[name]
    if name in dict(network.model.named_modules()):
        raise UnsupportedError(
            f"layer {name!r} is not used, or gives no single tensor of channels: see sparsight "
            "layers for those that do"
        )
    close = [other for other in layers if name in other][:3]
    hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
    raise InputError(f"this network has no layer {name!r}: see sparsight layers{hint}")


def _units(module: nn.Module) -> int:
    for name in ("out_channels", "out_features", "num_features", "num_channels"):
        if hasattr(module, name):
            return int(getattr(module, name))
    return int(module.normalized_shape[-1])  # type: ignore[index]


def _axis(shape: tuple[int, ...], units: int, second: bool) -> int:
    ends = (1, len(shape) - 1)
    fitting = [axis for axis in ends if shape[axis] == units]
    if len(set(fitting)) == 1:
        return fitting[0]
    return 1 if second else ends[1]
