"""What one pass of the sample itself tells about a network: order, sharing and sizes of layers."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from sparsight.errors import UnsupportedError
from sparsight.networks import (
    LayerCall,
    Network,
    Recording,
    WeightMatrix,
    weight_matrices,
)
from sparsight.networks.coverage import WeightUse, unread_weights

__all__ = ["Plan", "Shapes", "make_plan"]


@dataclass(frozen=True)
class Shapes:
    """A layer's shapes for one image, its positions, and how often one pass uses it."""

    input: torch.Size
    output: torch.Size
    positions: int
    uses: int = 1


@dataclass
class Plan:
    """A network's layers as one pass uses them.

    Attributes
    ----------
    order
        Weight matrices in the order of first use.
    unused
        Matrices that the forward pass did not use.
    touched
        Those of them whose weights went into something else.
    unread
        Parameters that multiply but are in no matrix, and why, by name.
    shapes
        By layer.
    leader
        For each layer, the first layer that gets exactly the same inputs.
    uneven
        Layers that are used at several sizes.
    largest
        Bytes of the largest layer input or output for one image.
    logits
        The dense answer to the sample.
    """

    order: list[WeightMatrix] = field(default_factory=list)
    unused: list[WeightMatrix] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    unread: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shapes] = field(default_factory=dict)
    leader: dict[str, str] = field(default_factory=dict)
    uneven: set[str] = field(default_factory=set)
    largest: int = 1
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


def make_plan(network: Network, x: Tensor) -> Plan:
    """Run the network once on ``x``, of shape ``(1, C, H, W)``.

    Raises
    ------
    NumericalError
        If it answers with NaN or infinite values.
    UnsupportedError
        If a layer runs inside ``torch.vmap``.
    """
    matrices = weight_matrices(network.model)
    plan = Plan()
    inputs: dict[str, list[tuple[int, Any]]] = {}
    alive: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
    found: dict[str, WeightMatrix] = {}
    tokens = count()

    def see(call: LayerCall) -> None:
        if torch._C._functorch.is_batchedtensor(call.input):
            raise UnsupportedError(
                f"layer {call.matrix.name!r} runs inside torch.vmap, which hides the batch: call "
                "it on the whole batch"
            )
        known = alive.get(id(call.input))
        if known is None or known[0]() is not call.input or known[1] != call.input._version:
            known = (weakref.ref(call.input), call.input._version, next(tokens))
            alive[id(call.input)] = known
        name = call.matrix.name
        found.setdefault(name, call.matrix)
        inputs.setdefault(name, []).append((known[2], call.geometry))
        size = max(t.numel() * t.element_size() for t in (call.input, call.output))
        plan.largest = max(plan.largest, size)
        positions = call.output.numel() // call.matrix.units
        first = Shapes(call.input.shape, call.output.shape, positions, uses=0)
        shapes = plan.shapes.get(name, first)
        if (shapes.input, shapes.output) != (first.input, first.output):
            plan.uneven.add(name)
        plan.shapes[name] = replace(shapes, uses=shapes.uses + 1)

    with WeightUse(network.model) as use, Recording(network.model, matrices, see):
        plan.logits = network.logits(x)[0]
    plan.order = list(found.values())
    plan.unused = [m for m in matrices if m.name not in found]
    plan.touched = {
        m.name for m in plan.unused if id(network.model.get_parameter(m.parameter)) in use.touched
    }
    plan.unread = unread_weights(network.model, use)
    leaders: dict[Any, str] = {}
    for matrix in plan.order:
        key = (tuple(inputs[matrix.name]), matrix.groups)
        plan.leader[matrix.name] = leaders.setdefault(key, matrix.name)
    return plan
