"""What runs through a network: normalisations as they are used, and the shapes of it all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparsight.errors import UnsupportedError
from sparsight.networks.calls import LayerCall, image_dimension
from sparsight.networks.network import Network
from sparsight.networks.recording import Recording
from sparsight.networks.units import Units

__all__ = ["NormCall", "Normalisations", "PassPlan", "along", "require_apart", "wide"]

_APART = 0.05  # of the largest value: more is no rounding


def wide(x: Tensor) -> Tensor:
    """Return the values without history, in float32 at least."""
    x = x.detach()
    return x if x.dtype == torch.float64 else x.float()


def require_apart(network: Network, together: Tensor, alone: Tensor, remedy: str) -> None:
    """Refuse a network that gives an image something else in a batch than alone.

    Raises
    ------
    UnsupportedError
        With the remedy.
    """
    if float((together - alone).abs().max()) > _APART * float(alone.abs().max()):
        raise UnsupportedError(f"network {network.spec!r} mixes the images of a batch: {remedy}")


def along(values: Tensor, x: Tensor, single: torch.Size, features: int | None) -> Tensor:
    """Lay ``(images, features)`` out so that it multiplies ``x``.

    Parameters
    ----------
    values
        ``(images, features)``, or ``(images, 1)`` where ``features`` is none.
    x
        To be multiplied.
    single
        Shape of ``x`` for one image.
    features
        The dimension of ``x`` that holds them.
    """
    dimension, each = image_dimension(x.shape, len(values), single)
    shape = [1] * x.ndim
    shape[dimension] = x.shape[dimension]
    values = values.repeat_interleave(each, 0)
    if features is None:
        return values.reshape(shape).to(x)
    features %= x.ndim
    shape[features] = values.shape[1]
    return (values if dimension < features else values.T).reshape(shape).to(x)


@dataclass(frozen=True, eq=False)
class NormCall:
    """One use of a normalisation layer.

    Attributes
    ----------
    name
        Of the layer, if it is one that is watched.
    input, output
        Tensors.
    trailing
        Dimensions at the end that have a scale and shift each; 0 if dimension 1 has.
    normalise
        Computes the output without scale and shift.
    """

    name: str | None
    input: Tensor
    output: Tensor
    trailing: int
    normalise: Callable[[], Tensor]

    def by_entry(self, x: Tensor) -> Tensor:
        """Bring a tensor of the output's shape to ``(..., entries)``, summed over places."""
        if self.trailing:
            return x.flatten(-self.trailing)
        return x.flatten(2).sum(2) if x.ndim > 2 else x


class Normalisations(TorchFunctionMode):
    """Hands every use of a normalisation to ``on_call``; what that returns goes on instead.

    Parameters
    ----------
    model
        That will run inside the block.
    names
        Of the normalisation layers to name.
    on_call
        Called with a :class:`NormCall`; returns a new output, or nothing.
    """

    _FUNCTIONS = (F.batch_norm, F.layer_norm, F.group_norm)

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str],
        on_call: Callable[[NormCall], Tensor | None],
    ) -> None:
        super().__init__()
        self._on_call = on_call
        self._by_weight = {id(model.get_submodule(name).weight): name for name in names}

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func not in self._FUNCTIONS:
            return output
        given = signature(func).bind(*args, **(kwargs or {})).arguments
        plain = {**given, "input": given["input"].detach(), "weight": None, "bias": None}
        call = NormCall(
            self._by_weight.get(id(given.get("weight"))),
            given["input"],
            output,
            len(given["normalized_shape"]) if func is F.layer_norm else 0,
            lambda: func(**plain),
        )
        new = self._on_call(call)
        return output if new is None else new


class PassPlan:
    """How often the layers of some units are used, and on which shapes, told by one image.

    Attributes
    ----------
    matrices, norms
        Weight matrices, and names of normalisations, that hold the units.
    uses
        Of a weight matrix in one pass.
    inputs, outputs
        Shapes for one image; of normalisations the input ``(..., entries)``.
    shared
        Weight matrices whose output is the same for all images, such as tables of positions: what
        each image adds to their gradient cannot be told in a batch.
    shifted
        Normalisations that have a shift.
    normalised
        Normalisation by the weight matrix whose output goes through it as it is; an empty name for
        one without scale.
    """

    def __init__(self, network: Network, units: Units, x: Tensor) -> None:
        parts = [part for group in units.groups for part in group.parts]
        self.matrices = list({part.matrix.name: part.matrix for part in parts}.values())
        self.norms = [group.name for group in units.groups if group.kind == "norm"]
        self.uses: Counter[str] = Counter()
        self.inputs: dict[str, torch.Size] = {}
        self.outputs: dict[str, torch.Size] = {}
        self.shared: set[str] = set()
        self.shifted = {
            name for name in self.norms if network.model.get_submodule(name).bias is not None
        }

        made: dict[int, tuple[Tensor, str]] = {}
        scaled = [group.name for group in Units.of(network.model, ["norm"]).groups]
        self.normalised: dict[str, str] = {}

        def see_two(call: LayerCall) -> None:
            if call.output.shape == self.outputs[call.matrix.name]:
                self.shared.add(call.matrix.name)

        def see(call: LayerCall) -> None:
            self.uses[call.matrix.name] += 1
            self.inputs[call.matrix.name] = call.input.shape
            self.outputs[call.matrix.name] = call.output.shape
            made[id(call.output)] = call.output, call.matrix.name

        def see_norm(call: NormCall) -> None:
            if id(call.input) in made:
                self.normalised[made[id(call.input)][1]] = call.name or ""
            if call.name is not None:
                self.inputs[call.name] = call.by_entry(call.output).shape
                self.outputs[call.name] = call.output.shape

        with (
            torch.no_grad(),
            Recording(network.model, self.matrices, see),
            Normalisations(network.model, scaled, see_norm),
        ):
            network(x)
        with torch.no_grad(), Recording(network.model, self.matrices, see_two):
            network(torch.cat([x, x]))
