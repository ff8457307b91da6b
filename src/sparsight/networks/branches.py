"""Residual branches: what is added to a stream that would run on without it, found by watching."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparsight.networks.matrices import weight_matrices
from sparsight.networks.network import Network
from sparsight.networks.watching import along

__all__ = ["Branch", "BranchGates", "branches_of"]

_ADDITIONS = (torch.add, torch.Tensor.add, torch.Tensor.add_)


@dataclass(frozen=True)
class Branch:
    """A residual branch.

    Attributes
    ----------
    name
        Module path that its layers have in common.
    layers
        Names of the weight matrices in it.
    addition, operand
        Which addition of a pass adds it, and as which operand.
    shape
        Of its output for one image.
    """

    name: str
    layers: tuple[str, ...]
    addition: int
    operand: int
    shape: torch.Size


def branches_of(network: Network, x: Tensor) -> tuple[Branch, ...]:
    """Find the residual branches of a network, in the order in which they are added.

    Where two tensors of one shape that both come from the image are added, the one with more
    weight matrices of its own behind it is the branch, the other the stream. A sum of equals has
    no branch.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    x
        ``(1, C, H, W)``, normalised.

    Examples
    --------
    >>> import torch
    >>> from sparsight.networks import load
    >>> network = load("torchvision:resnet18", weights="random")
    >>> [branch.name for branch in branches_of(network, torch.zeros(1, 3, 224, 224))][:3]
    ['layer1.0', 'layer1.1', 'layer2.0']
    """
    with torch.no_grad(), _Descent(network.model, x) as seen:
        network(x)
    return tuple(seen.found)


class _Descent(TorchFunctionMode):
    """Tells of each tensor that comes from the image which weight matrices it went through."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.found: list[Branch] = []
        self._by_weight: dict[int, list[str]] = {}
        for matrix in weight_matrices(model):
            key = id(model.get_parameter(matrix.parameter))
            self._by_weight.setdefault(key, []).append(matrix.name)
        self._behind: dict[int, frozenset[str]] = {id(x): frozenset()}
        self._kept: list[Tensor] = [x]  # a number of a tensor that is gone would be given away
        self._additions = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = list(_tensors((args, kwargs or {})))
        known = [self._behind[id(one)] for one in given if id(one) in self._behind]
        own = [name for one in given for name in self._by_weight.get(id(one), ())]
        if func in _ADDITIONS and _two_tensors(args) and not kwargs:
            self._see_addition(args)
        output = func(*args, **(kwargs or {}))
        if known:
            behind = frozenset().union(*known, own)
            for made in _tensors(output):
                self._behind[id(made)] = behind
                self._kept.append(made)
        return output

    def _see_addition(self, args: tuple[Any, ...]) -> None:
        number, self._additions = self._additions, self._additions + 1
        if args[0].shape != args[1].shape or any(id(a) not in self._behind for a in args[:2]):
            return
        behind = [self._behind[id(one)] for one in args[:2]]
        own = [behind[0] - behind[1], behind[1] - behind[0]]
        if len(own[0]) == len(own[1]):
            return
        operand = int(len(own[1]) > len(own[0]))
        names = tuple(name for names in self._by_weight.values() for name in names)
        layers = tuple(name for name in names if name in own[operand])
        name, same = _common(layers), sum(b.name == _common(layers) for b in self.found)
        self.found.append(
            Branch(
                name if not same else f"{name} ({same + 1})", layers, number, operand, args[0].shape
            )
        )


class BranchGates(TorchFunctionMode):
    """Multiplies residual branches by gates, each image its own, while the network runs.

    Parameters
    ----------
    branches
        As :func:`branches_of` found them.
    gates
        ``(images, branches)``.
    """

    def __init__(self, branches: tuple[Branch, ...], gates: Tensor) -> None:
        super().__init__()
        self._gates = {
            branch.addition: (branch, gates[:, number]) for number, branch in enumerate(branches)
        }
        self._additions = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in _ADDITIONS or not _two_tensors(args) or kwargs:
            return func(*args, **(kwargs or {}))
        number, self._additions = self._additions, self._additions + 1
        if number not in self._gates:
            return func(*args)
        branch, gate = self._gates[number]
        stream, added = args[1 - branch.operand], args[branch.operand]
        if func is torch.Tensor.add_ and branch.operand == 0:
            added = added.clone()  # it is about to be written over, and its gradient needs it
        total = stream + added * along(gate[:, None], added, branch.shape, None)
        return args[0].copy_(total) if func is torch.Tensor.add_ else total


def _two_tensors(args: tuple[Any, ...]) -> bool:
    return len(args) >= 2 and all(isinstance(one, Tensor) for one in args[:2])


def _tensors(value: Any) -> Iterator[Tensor]:
    """Go through the tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _common(names: tuple[str, ...]) -> str:
    """Return the module path that names share; of a single layer its own."""
    if len(names) == 1:
        return names[0].partition("[")[0]
    shared: list[str] = []
    for parts in zip(*(name.partition("[")[0].split(".") for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared) or names[0]
