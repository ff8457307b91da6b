r"""Masks that are learnt: scores choose what is kept, a quota how much of it.

The mask of a layer keeps the largest magnitudes of its scores *S*, as many as its rate says.
Gradients pass straight through: :math:`\partial L / \partial |S| = \partial L / \partial M`, and
the rate gets the sum, :math:`\partial L / \partial a = \sum \partial L / \partial M`. A mask is a
parametrization of the layer's weight, which stays as it is; within
``torch.nn.utils.parametrize.cached()`` it is computed once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsight.robust.rates import keep_rate, kept_of, quota_of

__all__ = ["ChannelMask", "FixedMask", "Scores", "TopK", "WeightMask", "top_mask"]


def top_mask(magnitudes: Tensor, count: int) -> Tensor:
    """Mark exactly so many of the largest values; of equal ones the first.

    Parameters
    ----------
    magnitudes
        Any shape.
    count
        How many, 1 at least.

    Returns
    -------
    Tensor
        Same shape, bool.

    Examples
    --------
    >>> top_mask(torch.tensor([1.0, 3.0, 1.0, 2.0]), 3).int().tolist()
    [1, 1, 0, 1]
    """
    flat = magnitudes.flatten()
    if count >= len(flat):
        return torch.ones_like(magnitudes, dtype=torch.bool)
    threshold = flat.kthvalue(len(flat) - count + 1).values
    mask = flat >= threshold
    extra = int(mask.sum()) - count
    if extra:
        tied = (flat == threshold).nonzero()[:, 0]
        mask[tied[len(tied) - extra :]] = False
    return mask.reshape(magnitudes.shape)


class TopK(torch.autograd.Function):
    """A mask of the largest magnitudes, with gradients straight through."""

    @staticmethod
    def forward(ctx: Any, magnitudes: Tensor, rate: Tensor) -> Tensor:
        """Keep as many as the rate says."""
        count = kept_of(float(rate), magnitudes.numel())
        return top_mask(magnitudes, count).to(magnitudes.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Give magnitudes the gradient of the mask, and the rate its sum."""
        (gradient,) = gradients
        return gradient, gradient.sum()


class Scores(nn.Module):
    """Scores and quota of one layer, or of channels that several layers share.

    Parameters
    ----------
    scores
        First scores; their magnitudes count.
    rate
        First rate.
    least
        Smallest rate, where it is learnt.
    learn_scores, learn_rate
        Whether they are learnt; a rate that is not is kept as given, whatever the bounds.
    """

    def __init__(
        self,
        scores: Tensor,
        rate: float,
        least: float,
        *,
        learn_scores: bool = True,
        learn_rate: bool = True,
    ) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores.detach().clone(), requires_grad=learn_scores)
        start = scores.new_tensor(quota_of(rate, least))
        self.quota = nn.Parameter(start, requires_grad=learn_rate)
        self.least, self._given = least, None if learn_rate else rate

    @property
    def rate(self) -> Tensor:
        """Share that is kept."""
        if self._given is not None:
            return self.quota.new_tensor(self._given, dtype=torch.float64)
        return keep_rate(self.quota, self.least)

    def mask(self) -> Tensor:
        """Mask of 0 and 1, in the shape of the scores."""
        # Not abs(): it has no gradient at zero, so that a weight could not come back.
        magnitudes = torch.where(self.scores >= 0, self.scores, -self.scores)
        found: Tensor = TopK.apply(magnitudes, self.rate)
        return found

    def choose(self, count: int) -> Tensor:
        """Mark so many of the largest scores, bool."""
        return top_mask(self.scores.detach().abs(), count)


class WeightMask(nn.Module):
    """Parametrization: a weight with a learnt mask on each entry."""

    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self.own = scores

    def forward(self, weight: Tensor) -> Tensor:
        """Mask the weight."""
        return weight * self.own.mask()


class ChannelMask(nn.Module):
    """Parametrization: a weight with a learnt mask on its input channels.

    Parameters
    ----------
    scores
        Of the channels, shared by all layers that read them.
    positions
        Columns of each channel: more than one where a plane was flattened.
    """

    def __init__(self, scores: Scores, positions: int = 1) -> None:
        super().__init__()
        self.own, self.positions = scores, positions

    def forward(self, weight: Tensor) -> Tensor:
        """Mask the weight."""
        mask = self.own.mask().repeat_interleave(self.positions)
        return weight * mask.reshape(1, -1, *[1] * (weight.ndim - 2))


class FixedMask(nn.Module):
    """Parametrization: a weight with a mask that does not change."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Mask the weight."""
        return weight * self.mask.to(weight.dtype)
