"""Between units and the weights that they are made of."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsight.networks import UnitGroup, Units

__all__ = ["mean_over_weights", "spread_over_weights", "weights_of_units"]


def _held(group: UnitGroup, model: nn.Module) -> list[str]:
    """Name the parameters of a normalisation: a scale, and mostly a shift."""
    module = model.get_submodule(group.name)
    return [f"{group.name}.{name}" for name, _ in module.named_parameters(recurse=False)]


def weights_of_units(units: Units, model: nn.Module) -> Tensor:
    """Count the weights of each unit, ``(units,)``, float64."""
    counts = torch.zeros(len(units), dtype=torch.float64)
    for group, own in units.pieces(counts):
        own += sum(part.weights for part in group.parts) or len(_held(group, model))
    return counts


def mean_over_weights(units: Units, values: Mapping[str, Tensor], model: nn.Module) -> Tensor:
    """Average values over the weights of each unit, ``(units,)``, float64.

    Parameters
    ----------
    units
        The units.
    values
        Tensors shaped as the parameters, by name.
    model
        The network.
    """
    sums = torch.zeros(len(units), dtype=torch.float64)
    for group, own in units.pieces(sums):
        if group.kind == "norm":
            for name in _held(group, model):
                own += values[name].flatten().to(own)
        for part in group.parts:
            matrix = part.matrix.pack(values[part.matrix.parameter]).flatten(0, 1).to(own)
            lines = matrix.sum(1) if part.axis == "rows" else matrix.sum(0)
            chosen = lines[part.start : part.start + group.count * part.size]
            own += chosen.reshape(group.count, part.size).sum(1)
    return sums / weights_of_units(units, model)


def spread_over_weights(units: Units, values: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Give each weight what its unit has; where units share a weight, they add up.

    Parameters
    ----------
    units
        The units.
    values
        ``(units,)``.
    model
        The network.

    Returns
    -------
    dict
        Tensors shaped as the parameters, by name.
    """
    found: dict[str, Tensor] = {}
    parameters = dict(model.named_parameters())
    for group, own in units.pieces(values):
        for name in _held(group, model) if group.kind == "norm" else ():
            target = found.setdefault(name, torch.zeros_like(parameters[name].detach()))
            target += own.to(target).reshape(target.shape)
        for part in group.parts:
            parameter = parameters[part.matrix.parameter].detach()
            target = found.setdefault(part.matrix.parameter, torch.zeros_like(parameter))
            matrix = part.matrix.pack(target).clone()
            flat = matrix.flatten(0, 1)
            chosen = slice(part.start, part.start + group.count * part.size)
            each = own.repeat_interleave(part.size).to(flat)
            if part.axis == "rows":
                flat[chosen] += each[:, None]
            else:
                flat[:, chosen] += each
            part.matrix.write(target, matrix)
    return found
