"""What a mask chooses among: single weights, or channels that go through several layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparsight.errors import InputError
from sparsight.robust.layers import channel_groups, layer_costs, prunable_weights
from sparsight.robust.masks import ChannelMask, Scores, WeightMask
from sparsight.robust.rates import allocate_rates, whole_counts

__all__ = ["ChannelParts", "Parts", "WeightParts"]

_HALVINGS = 50


class Parts(Protocol):
    """What is chosen among, by name, and the budget over all of it.

    Attributes
    ----------
    sizes
        How many there are, by name.
    parameters
        Names of the weights that get masks.
    """

    sizes: dict[str, int]
    parameters: tuple[str, ...]

    def gather(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Make scores by name of scores of weights by parameter."""

    def allocate(self, target: float, how: str) -> dict[str, float]:
        """Give rates by an allocation of :data:`sparsight.robust.ALLOCATIONS`."""

    def share(self, rates: Mapping[str, Tensor]) -> Tensor:
        """Share of the budget's whole that rates keep; differentiable."""

    def counts(self, rates: Mapping[str, float], target: float) -> dict[str, int]:
        """Whole numbers in proportion to rates that meet the target."""

    def masks(self, layers: Mapping[str, Scores]) -> dict[str, nn.Module]:
        """Parametrizations that are learnt, by parameter."""

    def spread(self, chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks of weights by parameter, of what is chosen by name."""

    def collect(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Undo :meth:`spread`: what is chosen by name, of masks of weights."""


class WeightParts:
    """Every weight of every layer by itself; names are those of parameters."""

    def __init__(self, model: nn.Module) -> None:
        self._weights = prunable_weights(model)
        self.sizes = {name: weight.numel() for name, weight in self._weights.items()}
        self.parameters = tuple(self._weights)

    def gather(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take scores as they are."""
        return dict(scores)

    def allocate(self, target: float, how: str) -> dict[str, float]:
        """Give rates by an allocation."""
        return allocate_rates(self._weights, target, how)

    def share(self, rates: Mapping[str, Tensor]) -> Tensor:
        """Share of all weights."""
        kept = torch.stack([self.sizes[name] * rate for name, rate in rates.items()]).sum()
        return kept / sum(self.sizes.values())

    def counts(self, rates: Mapping[str, float], target: float) -> dict[str, int]:
        """Numbers of weights that add up to the target exactly."""
        sizes = [self.sizes[name] for name in rates]
        total = round(target * sum(sizes))
        return dict(zip(rates, whole_counts(sizes, list(rates.values()), total), strict=True))

    def masks(self, layers: Mapping[str, Scores]) -> dict[str, nn.Module]:
        """Make a mask on each entry."""
        return {name: WeightMask(scores) for name, scores in layers.items()}

    def spread(self, chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take masks as they are."""
        return dict(chosen)

    def collect(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take masks as they are."""
        return dict(masks)


class ChannelParts:
    """Channels by name of the layer that makes them; the budget is of multiplications.

    Parameters
    ----------
    model
        In evaluation mode.
    x
        ``(1, C, H, W)``, normalised.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        learns = {name: p.requires_grad for name, p in model.named_parameters()}
        self._channels = channel_groups(model.requires_grad_(), x)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learns[name])
        self._products = layer_costs(model, x)
        self.sizes = {one.name: one.count for one in self._channels}
        self.parameters = tuple(reader for one in self._channels for reader in one.readers)
        self._ranks = {name: model.get_parameter(name).ndim for name in self.parameters}

    def gather(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score channels by the root of the squares of what reads them."""
        found = {}
        for one in self._channels:
            total: Any = 0.0
            for reader, positions in one.readers.items():
                columns = scores[reader].transpose(0, 1).flatten(1).square().sum(1)
                total = total + columns.reshape(one.count, positions).sum(1)
            found[one.name] = total.sqrt() / total.max().sqrt().clamp_min(1e-30)
        return found

    def allocate(self, target: float, how: str) -> dict[str, float]:
        """Give all channels the rate that meets the target."""
        if how != "uniform":
            raise InputError(f"channels have no allocation {how!r}: give uniform, or a rate")
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            more = float(self.share(dict.fromkeys(self.sizes, torch.tensor(middle)))) > target
            low, high = (low, middle) if more else (middle, high)
        return dict.fromkeys(self.sizes, high)

    def share(self, rates: Mapping[str, Tensor]) -> Tensor:
        """Share of all multiplications."""
        reads: dict[str, Tensor] = {}
        makes: dict[str, Tensor] = {}
        for one in self._channels:
            reads |= dict.fromkeys(one.readers, rates[one.name])
            makes |= dict.fromkeys(one.makers, rates[one.name])
        whole = next(iter(rates.values())).new_ones(())
        parts = [
            products * reads.get(name, whole) * makes.get(name, whole)
            for name, products in self._products.items()
        ]
        return torch.stack(parts).sum() / sum(self._products.values())

    def counts(self, rates: Mapping[str, float], target: float) -> dict[str, int]:
        """Numbers of channels that come as near to the target as they can, from below."""

        def fits(counts: Mapping[str, int]) -> bool:
            shares = {name: torch.tensor(k / self.sizes[name]) for name, k in counts.items()}
            return float(self.share(shares)) <= target

        def scaled(factor: float) -> dict[str, int]:
            return {
                name: min(size, max(1, int(size * rates[name] * factor)))
                for name, size in self.sizes.items()
            }

        low, high = 0.0, 1 / min(rates.values())
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(scaled(middle)) else (low, middle)
        counts = scaled(low)
        if not fits(counts):
            raise InputError(
                f"one channel in every layer is more than {target:g} of the multiplications: "
                "give a larger target"
            )
        order = sorted(counts, key=lambda n: counts[n] - self.sizes[n] * rates[n] * low)
        grows = True
        while grows:  # what rounding down has left
            grows = False
            for name in order:
                more = counts | {name: counts[name] + 1}
                if more[name] <= self.sizes[name] and fits(more):
                    counts, grows = more, True
        return counts

    def masks(self, layers: Mapping[str, Scores]) -> dict[str, nn.Module]:
        """Make a mask on the inputs of all that reads the channels."""
        return {
            reader: ChannelMask(layers[one.name], positions)
            for one in self._channels
            for reader, positions in one.readers.items()
        }

    def spread(self, chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Lay masks of channels out along the inputs of weights."""
        return {
            reader: chosen[one.name]
            .repeat_interleave(positions)
            .reshape(1, -1, *[1] * (self._ranks[reader] - 2))
            for one in self._channels
            for reader, positions in one.readers.items()
        }

    def collect(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read masks of channels off the first weight that reads them."""
        found = {}
        for one in self._channels:
            reader, positions = next(iter(one.readers.items()))
            found[one.name] = masks[reader].flatten()[::positions]
        return found
