"""What one pass of the sample itself tells about a network: order, sharing and sizes of layers."""

from __future__ import annotations

import weakref
from collections import Counter
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
    images_first,
    weight_matrices,
)
from sparsight.networks.coverage import WeightUse, unread_weights
from sparsight.traces.positions import wide

__all__ = ["Plan", "Shapes", "make_plan", "require_apart"]

_APART, _APART_IN_HALF = 0.01, 0.1  # of the largest: more is no rounding


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
    probes
        Mean squared outputs by unit, of each use of a layer.
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
    probes: dict[str, list[Tensor]] = field(default_factory=dict)


def make_plan(network: Network, x: Tensor) -> Plan:
    """Run the network once on ``x``, of shape ``(1, C, H, W)``.

    Raises
    ------
    NumericalError
        If it answers with NaN or infinite values.
    """
    matrices = weight_matrices(network.model)
    plan = Plan()
    inputs: dict[str, list[tuple[int, Any]]] = {}
    alive: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
    found: dict[str, WeightMatrix] = {}
    tokens = count()

    def see(call: LayerCall) -> None:
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
        plan.probes.setdefault(name, []).append(_probe(call, 1, call.output.shape))

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


def _probe(call: LayerCall, images: int, single: torch.Size) -> Tensor:
    """Mean squared outputs by unit, ``(units,)``, over positions of the first of so many images."""
    output = call.output.detach()
    if call.geometry is not None:
        batched = output if output.ndim == call.batched.ndim else output[None]
        own = batched[: len(batched) // images].movedim(1, -1)
    elif output.shape == single:  # one for all images
        own = output
    else:
        own = images_first(output, images, single)[0]
    return wide(own).reshape(-1, own.shape[-1]).square().mean(0)


def require_apart(network: Network, plan: Plan, pair: Tensor) -> None:
    """Refuse a network that treats an image in a batch otherwise than alone.

    Parameters
    ----------
    network
        In evaluation mode.
    plan
        What the network does with the sample alone.
    pair
        The sample and a view of it, ``(2, C, H, W)``.

    Raises
    ------
    UnsupportedError
        It mixes the images of a batch, takes them one by one, orders them otherwise than one after
        the other, or takes no batch at all.
    """
    uses: Counter[str] = Counter()
    alone = "wrap it so that each image goes through on its own, in the order of the batch"

    def see(call: LayerCall) -> None:
        name = call.matrix.name
        if name in plan.uneven:
            return
        uses[name] += 1
        if uses[name] > len(plan.probes[name]):
            raise UnsupportedError(
                f"layer {name!r} is used more often for two images than for one: {alone}"
            )
        before = plan.probes[name][uses[name] - 1]
        now = _probe(call, len(pair), plan.shapes[name].output)
        if not _close(now, before, call.output.dtype):
            raise UnsupportedError(
                f"layer {name!r} gives an image something else in a batch than alone: the network "
                f"mixes the images or their order, {alone}"
            )

    try:
        with Recording(network.model, plan.order, see), torch.no_grad():
            answers = network(pair)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        why = str(error).partition("\n")[0]
        raise UnsupportedError(
            f"network {network.spec!r} does not run on two images at once ({why}): {alone}"
        ) from error
    if len(answers) != len(pair) or not _close(answers[0], plan.logits, answers.dtype):
        raise UnsupportedError(f"network {network.spec!r} mixes the images of a batch: {alone}")


def _close(now: Tensor, before: Tensor, dtype: torch.dtype) -> bool:
    if not now.isfinite().all():
        return True  # what is no number is told by others
    apart = _APART if dtype in (torch.float32, torch.float64) else _APART_IN_HALF
    return float((now - before).abs().max()) <= apart * float(before.abs().max())
