"""Ranks with ties shared out, and the correlation of two maps' ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsight.attribution.metrics.inputs import checked_heat
from sparsight.errors import InputError

__all__ = ["average_ranks", "rank_correlation"]


def average_ranks(values: Tensor) -> Tensor:
    """Rank each row from 1, equal values sharing the mean of their ranks.

    Parameters
    ----------
    values
        ``(N, P)``, finite.

    Returns
    -------
    Tensor
        ``(N, P)`` float64.

    Examples
    --------
    >>> average_ranks(torch.tensor([[0.5, -1.0, 0.5]])).tolist()
    [[2.5, 1.0, 2.5]]
    """
    ordered, order = values.sort(1)
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    new = torch.ones_like(ordered, dtype=torch.bool)  # where a run of equal values begins
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    begin = torch.where(new, places, 0).cummax(1).values
    last = torch.ones_like(new)
    last[:, :-1] = new[:, 1:]
    end = torch.where(last, places, values.shape[1]).flip(1).cummin(1).values.flip(1)
    shared = (begin + end).double() / 2 + 1
    return torch.empty_like(shared).scatter_(1, order, shared)


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Compute Spearman's rank correlation of maps, ties sharing their ranks.

    Parameters
    ----------
    first, second
        ``(N, H, W)`` each.

    Returns
    -------
    Tensor
        ``(N,)`` float64 in [-1, 1]; NaN where either map is constant.

    Raises
    ------
    InputError
        Shapes that differ, NaN or infinite values.

    Examples
    --------
    >>> a = torch.tensor([[[1.0, 2.0, 3.0]]])
    >>> rank_correlation(a, a.exp()).tolist(), rank_correlation(a, -a).tolist()
    ([1.0], [-1.0])
    """
    a, b = checked_heat(first), checked_heat(second)
    if a.shape != b.shape:
        raise InputError(
            f"maps of shape {tuple(a.shape)} and {tuple(b.shape)} cannot be correlated: "
            "give maps of one shape"
        )
    a, b = (average_ranks(t.flatten(1)) for t in (a, b.to(a.device)))
    a, b = (t - (t.shape[1] + 1) / 2 for t in (a, b))  # the mean rank
    scale = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return ((a * b).sum(1) / scale).clamp(-1, 1)
