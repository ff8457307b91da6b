"""Slow references: one sample at a time, gradients of all weights held."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsight.networks import Network, Preprocessing, UnitGroup, Units


def network_of(model: nn.Module, size: int = 12, channels: int = 3, classes: int = 5) -> Network:
    """Wrap a small model, in float64."""
    model = model.double().eval()
    frame = Preprocessing((size, size), None, (0.0,) * channels, (1.0,) * channels)
    return Network(model, frame, tuple(f"class {i}" for i in range(classes)))


def slow_saliency(network: Network, images: Tensor, labels: Tensor, units: Units) -> Tensor:
    """Mean absolute gradient of each unit's weights, sample by sample."""
    model = network.model
    parameters = dict(model.named_parameters())
    rows = []
    for x, label in zip(images, labels, strict=True):
        loss = nn.functional.cross_entropy(network(x[None]), label[None])
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        gradients = {
            name: torch.zeros_like(p) if g is None else g.abs()
            for (name, p), g in zip(parameters.items(), found, strict=True)
        }
        rows.append(torch.cat([_of_group(group, gradients) for group in units.groups]))
    return torch.stack(rows)


def _of_group(group: UnitGroup, gradients: dict[str, Tensor]) -> Tensor:
    if group.kind == "norm":
        names = [f"{group.name}.{k}" for k in ("weight", "bias")]
        return torch.stack([gradients[n].flatten() for n in names if n in gradients]).mean(0)
    sums, weights = torch.zeros(group.count, dtype=torch.float64), 0
    for part in group.parts:
        matrix = part.matrix.pack(gradients[part.matrix.parameter]).flatten(0, 1)
        for unit in range(group.count):
            chosen = slice(part.start + unit * part.size, part.start + (unit + 1) * part.size)
            own = matrix[chosen] if part.axis == "rows" else matrix[:, chosen]
            sums[unit] += own.sum()
        weights += part.weights
    return sums / weights
