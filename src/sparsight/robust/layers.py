"""What can be pruned: weights of layers, or channels that go through several of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.errors import UnsupportedError
from sparsight.networks import weight_matrices
from sparsight.networks.calls import LayerCall
from sparsight.networks.dependencies import dependencies_of, refused_as_unsupported
from sparsight.networks.recording import Recording

__all__ = ["Channels", "channel_groups", "layer_costs", "prunable_weights"]


def prunable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights of convolutions, linear layers and attention projections, by parameter name.

    Raises
    ------
    UnsupportedError
        If there are none, or two layers share one.

    Examples
    --------
    >>> list(prunable_weights(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))))
    ['0.weight']
    """
    names = dict.fromkeys(matrix.parameter for matrix in weight_matrices(model))
    found: dict[str, Tensor] = {name: model.get_parameter(name) for name in names}
    if not found:
        raise UnsupportedError("the network has no weights to prune: give one with layers")
    counted = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    everywhere = dict(model.named_parameters(remove_duplicate=False))
    owners: dict[int, str] = {}
    for name in counted:
        other = owners.setdefault(id(everywhere[name]), name)
        if other != name and (name in found or other in found):
            raise UnsupportedError(
                f"{other} and {name} are one weight, which cannot have two masks: untie them first"
            )
    return found


def layer_costs(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Measure the multiplications of every layer in one pass.

    Parameters
    ----------
    model
        In evaluation mode.
    x
        ``(1, C, H, W)``.

    Returns
    -------
    dict
        By parameter name; attention's own products are not counted.

    Examples
    --------
    >>> found = layer_costs(nn.Conv2d(3, 8, 3, bias=False), torch.rand(1, 3, 6, 6))
    >>> found["weight"]  # 4 x 4 places, 3 x 3 taps, 3 x 8 channels
    3456.0
    """
    matrices = weight_matrices(model)
    places: dict[str, float] = {}

    def see(call: LayerCall) -> None:
        each = call.output.numel() / max(1, call.matrix.units)
        places[call.matrix.name] = places.get(call.matrix.name, 0.0) + each

    with torch.no_grad(), Recording(model, matrices, see):
        model(x)
    found: dict[str, float] = {}
    for matrix in matrices:
        products = places.get(matrix.name, 0.0) * matrix.units * matrix.columns
        found[matrix.parameter] = found.get(matrix.parameter, 0.0) + products
    return found


@dataclass(frozen=True)
class Channels:
    """Channels that are there or not for several layers at once.

    Attributes
    ----------
    name
        Of the layer that makes them; of several, the first in the network.
    count
        How many.
    readers
        Parameter names of the layers that read them, with their columns for each channel.
    makers
        Parameter names of the layers that make them, depthwise ones among them.
    """

    name: str
    count: int
    readers: Mapping[str, int]
    makers: tuple[str, ...]


def channel_groups(model: nn.Module, x: Tensor) -> list[Channels]:
    """Find the channels that can go, and who makes and reads them.

    Dependencies are those of Torch-Pruning (Fang et al., "DepGraph", CVPR 2023). Channels of the
    image and of the answer are not among them.

    Parameters
    ----------
    model
        Whose parameters take gradients; in evaluation mode.
    x
        ``(1, C, H, W)``.

    Raises
    ------
    UnsupportedError
        If channels are joined, split or renumbered on their way, or there are none that can go.
    """
    names = {module: name for name, module in model.named_modules()}
    found: list[Channels] = []
    graph = dependencies_of(model, x)
    groups = refused_as_unsupported(
        lambda: list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))
    )
    for group in groups:
        one = _channels(graph, group, names)
        if one.readers:
            found.append(one)
    read = [reader for one in found for reader in one.readers]
    if not found or len(set(read)) < len(read):
        raise UnsupportedError(
            "the channels of this network are joined, split or not there: prune weights instead"
        )
    return found


def _channels(graph: Any, group: Any, names: Mapping[Any, str]) -> Channels:
    count = len(group[0].idxs)
    readers: dict[str, int] = {}
    makers: list[str] = []
    for dependency, places in group:
        module, handler = dependency.target.module, dependency.handler
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        name = f"{names[module]}.weight"
        if graph.is_out_channel_pruning_fn(handler):
            if len(places) != module.weight.shape[0]:
                raise UnsupportedError(
                    f"{name} makes channels that are joined to others: prune weights instead"
                )
            makers.append(name)
            continue
        positions, rest = divmod(len(places), count)
        whole = sorted(places) == list(range(count * positions))
        full = count * positions == module.weight.shape[1]
        if rest or not (whole and full) or (isinstance(module, nn.Conv2d) and module.groups > 1):
            raise UnsupportedError(
                f"{name} reads channels that are joined, split or renumbered: prune weights instead"
            )
        readers[name] = positions
    order = {f"{name}.weight": place for place, name in enumerate(names.values())}
    ordered = sorted(set(makers), key=lambda maker: order[maker])
    return Channels(ordered[0].removesuffix(".weight"), count, readers, tuple(ordered))
