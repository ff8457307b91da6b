r"""How much of each layer is kept: quotas that are learnt, usual allocations, whole numbers.

A layer's rate is a bounded function of its quota, Zhao & Wressnegger, "Holistic Adversarially
Robust Pruning" (HARP, ICLR 2023):

.. math:: a_l = a_{\min} + (1 - a_{\min}) \, \sigma(r_l) .
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparsight.errors import InputError

__all__ = [
    "ALLOCATIONS",
    "allocate_rates",
    "keep_rate",
    "kept_of",
    "quota_of",
    "whole_counts",
]

ALLOCATIONS = ("uniform", "global", "lamp", "erk")
"""Ways to give layers rates that are not learnt."""

_NEAREST, _FARTHEST = 1e-4, 0.99  # in the open interval of rates; the latter as published
_HALVINGS = 100


def keep_rate(quota: Tensor, least: float) -> Tensor:
    """Share of a layer that is kept, in (least, 1).

    Parameters
    ----------
    quota
        Any shape.
    least
        Smallest rate.

    Examples
    --------
    >>> keep_rate(torch.tensor([0.0]), 0.2)
    tensor([0.6000])
    """
    return least + (1 - least) * torch.sigmoid(quota)


def quota_of(rate: float, least: float) -> float:
    """Quota whose rate this is; rates beyond the bounds, or near to them, are moved inside.

    Examples
    --------
    >>> round(float(keep_rate(torch.tensor(quota_of(0.1, 0.001)), 0.001)), 6)
    0.1
    """
    inner = (rate - least) / (1 - least)
    inner = min(max(inner, _NEAREST), _FARTHEST)
    return float(torch.logit(torch.tensor(inner, dtype=torch.float64)))


def kept_of(rate: float, size: int) -> int:
    """How many of a layer are kept at a rate; one at least.

    Examples
    --------
    >>> kept_of(0.1, 64), kept_of(0.001, 64)
    (7, 1)
    """
    return max(1, size - int((1 - rate) * size))


def whole_counts(sizes: Sequence[int], rates: Sequence[float], total: int) -> list[int]:
    """Round rates to counts that add up to a total exactly.

    All rates are multiplied by the number for which the expected counts, at most all of a layer
    and one at least, make up the total; what rounding leaves goes to the largest remainders.

    Parameters
    ----------
    sizes, rates
        Of each layer.
    total
        Of the counts.

    Raises
    ------
    InputError
        If the total is less than one for each layer, or more than there are.

    Examples
    --------
    >>> whole_counts([100, 10, 1000], [0.1, 0.5, 0.1], 111)
    [10, 5, 96]
    """
    most = sum(sizes)
    if not len(sizes) <= total <= most:
        raise InputError(
            f"{total} of {most} weights cannot be kept in {len(sizes)} layers: give a target that "
            "keeps one in each at least"
        )
    n = torch.tensor(sizes, dtype=torch.float64)
    a = torch.tensor(rates, dtype=torch.float64).clamp_min(1e-12)

    def expected(factor: float) -> Tensor:
        return torch.minimum((n * a * factor).clamp_min(1.0), n)

    low, high = -40.0, float(-a.min().log())  # of the factor's logarithm: rates differ widely
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = float(expected(math.exp(middle)).sum()) <= total
        low, high = (middle, high) if below else (low, middle)
    wanted = expected(math.exp(low))
    counts = wanted.floor()
    left = int(total - counts.sum())
    room = torch.where(counts < n, wanted - counts, -1.0)
    order = room.argsort(descending=True, stable=True).tolist()
    place = 0
    while left:  # a full layer takes none; as many rounds as it needs
        layer = order[place % len(order)]
        if counts[layer] < n[layer]:
            counts[layer] += 1
            left -= 1
        place += 1
    return [int(count) for count in counts]


def allocate_rates(weights: Mapping[str, Tensor], target: float, how: str) -> dict[str, float]:
    """Give each layer a rate, so that the target is met over all.

    Parameters
    ----------
    weights
        Of each layer, by name.
    target
        Share of all weights that is kept, in (0, 1].
    how
        ``uniform``; ``global``, the largest magnitudes of all layers; ``lamp``, layer-adaptive
        magnitudes (Lee et al., ICLR 2021); ``erk``, Erdős-Rényi with kernels (Evci et al., ICML
        2020).

    Raises
    ------
    InputError
        If there is no such allocation.

    Examples
    --------
    >>> found = allocate_rates({"a": torch.randn(4, 4), "b": torch.randn(40, 40)}, 0.2, "erk")
    >>> found["a"] > found["b"], round(16 * found["a"] + 1600 * found["b"]) == round(0.2 * 1616)
    (True, True)
    """
    if how == "uniform":
        return dict.fromkeys(weights, target)
    if how == "global":
        every = {name: w.detach().abs().double().flatten() for name, w in weights.items()}
        return _above(every, target)
    if how == "lamp":
        return _lamp(weights, target)
    if how == "erk":
        return _erk(weights, target)
    raise InputError(f"no allocation is called {how!r}: choose from {', '.join(ALLOCATIONS)}")


def _lamp(weights: Mapping[str, Tensor], target: float) -> dict[str, float]:
    """Each weight's square over the sum of those not smaller in its layer; the largest stay."""
    scores = {}
    for name, weight in weights.items():
        squares = weight.detach().double().flatten().square().sort().values
        rest = squares.flip(0).cumsum(0).flip(0)
        scores[name] = squares / rest.clamp_min(1e-300)
    return _above(scores, target)


def _above(scores: Mapping[str, Tensor], target: float) -> dict[str, float]:
    """Share of each layer's scores that are among the largest of all."""
    every = torch.cat(list(scores.values()))
    threshold = every.topk(max(1, round(target * len(every)))).values[-1]
    return {name: float((own >= threshold).double().mean()) for name, own in scores.items()}


def _erk(weights: Mapping[str, Tensor], target: float) -> dict[str, float]:
    """In proportion to the sum of a weight's dimensions over their product; full layers stay so."""
    sizes = {name: w.numel() for name, w in weights.items()}
    raw = {name: sum(w.shape) / w.numel() for name, w in weights.items()}
    full: set[str] = set()
    budget = target * sum(sizes.values())
    while True:
        rest = [name for name in weights if name not in full]
        left = budget - sum(sizes[name] for name in full)
        factor = left / sum(raw[name] * sizes[name] for name in rest) if rest else 0.0
        over = {name for name in rest if raw[name] * factor > 1}
        if not over:
            return {name: 1.0 if name in full else raw[name] * factor for name in weights}
        full |= over
