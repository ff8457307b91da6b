"""A chain as a smaller network: units that are gone are cut out, not multiplied by zero."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sparsight.chains.result import Chain
from sparsight.chains.tasks import Gated
from sparsight.errors import UnsupportedError
from sparsight.networks import Network
from sparsight.networks.dependencies import (
    dependencies_of,
    out_channels,
    refused_as_unsupported,
    torch_pruning,
)

__all__ = ["Sliced", "cut"]

_EQUAL = 1e-4  # of the largest logit


@dataclass(frozen=True, eq=False)
class Sliced:
    """A network with units cut out.

    Attributes
    ----------
    network
        The smaller one.
    weights, before
        How many parameters it has, and the whole network.
    cut, gone
        Units that were cut out, and units that the chain does not keep. Where several layers write
        into one stream, a channel goes only if none of them keeps it; a last one stays in any case.
    """

    network: Network
    weights: int
    before: int
    cut: int
    gone: int


def cut(network: Network, chain: Chain, x: Tensor) -> Sliced:
    """Cut out of a copy of a network what its chain does not keep.

    Dependencies between layers are those that Torch-Pruning finds (Fang et al., "DepGraph", CVPR
    2023). The result is compared with the chain, on the images given.

    Parameters
    ----------
    network
        That the chain is of; not changed.
    chain
        The chain.
    x
        ``(N, C, H, W)``, normalised.

    Raises
    ------
    InputError
        If Torch-Pruning is not installed.
    NetworkError
        If the chain is of another network.
    UnsupportedError
        If the smaller network answers otherwise than the chain, for example as a normalisation over
        channels counts those that are zero.

    Examples
    --------
    >>> import torch, sparsight
    >>> from sparsight.chains import cut, extract
    >>> network = sparsight.load("embedded")
    >>> x = torch.rand(2, 3, 64, 64)
    >>> found = cut(network, extract(network, x, selector="contribution", keep=0.3), x)
    >>> found.weights < found.before / 2
    True
    """
    pruning = torch_pruning()
    gated = chain.gated(network, x)
    model = copy.deepcopy(network.model)
    learns = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_()  # dependencies are read off the graph of a backward pass
    with torch.no_grad():
        for name, value in chain.tensors(gated).items():
            model.get_parameter(name).copy_(value)
        wanted = gated.logits(x, *(g.to(x.device) for g in chain.gates(len(x))))
    dependencies = dependencies_of(model, x[:1])
    off = _modules_off(gated, chain, model)
    done: set[nn.Module] = set()

    def prune() -> int:
        count = 0
        for module in off:
            if module in done:
                continue
            producers, lines = _cuttable(pruning, dependencies, module, off)
            done.update(producers)
            if lines:
                function = out_channels(pruning, module)
                dependencies.get_pruning_group(module, function, idxs=sorted(lines)).prune()
                count += len(lines) * len(producers)
        return count

    total = refused_as_unsupported(prune)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learns.get(name, True))
    smaller = Network(
        model, network.preprocessing, network.labels, f"{network.spec} (chain)", network.info
    )
    apart = float((refused_as_unsupported(lambda: smaller.logits(x)) - wanted).abs().max())
    if apart > _EQUAL * float(wanted.abs().max()):
        raise UnsupportedError(
            f"network {network.spec!r} answers otherwise once units are cut out: something counts "
            "channels that are zero; use gates instead"
        )
    before, after = (sum(p.numel() for p in m.parameters()) for m in (network.model, model))
    return Sliced(smaller, after, before, total, int((~chain.kept).sum()))


def _modules_off(gated: Gated, chain: Chain, model: nn.Module) -> dict[nn.Module, set[int]]:
    """Output channels that are gone, by the layer that makes them."""
    found: dict[nn.Module, set[int]] = {}
    for group, kept in gated.units.pieces(chain.kept):
        module = model.get_submodule(group.name)
        if isinstance(module, nn.Conv2d | nn.Linear) and group.kind in ("filter", "row", "neuron"):
            found[module] = set((~kept).nonzero()[:, 0].tolist())
    return found


def _width(module: nn.Module) -> int:
    width = module.out_channels if isinstance(module, nn.Conv2d) else module.out_features
    assert isinstance(width, int), "of a convolution or linear layer"
    return width


def _cuttable(
    pruning: ModuleType, dependencies: Any, module: nn.Module, off: dict[nn.Module, set[int]]
) -> tuple[set[nn.Module], set[int]]:
    """Find the layers that write to the same channels, and channels that none of them keeps."""
    function = out_channels(pruning, module)
    every = list(range(_width(module)))
    group = dependencies.get_pruning_group(module, function, idxs=every)
    lines, producers = set(off[module]), {module}
    for dependency, places in group:
        target = dependency.target.module
        if not dependencies.is_out_channel_pruning_fn(dependency.handler):
            continue
        if isinstance(target, nn.Conv2d | nn.Linear):
            if target not in off or list(places) != every:
                return {module}, set()  # a layer without units, or channels that are joined
            producers.add(target)
            lines &= off[target]
    if len(lines) == len(every):
        lines.discard(0)  # a layer needs one channel
    return producers, lines
