r"""How unusual a unit's saliency is, in five ways.

``z``
    :math:`\hat s_u = (\bar s_u - \mu_u) / \sigma_u`, as published. It grows with the loss: of a
    wrong answer nearly every unit is above its mean. Compare it within an image.
``share``
    The same of :math:`\bar s_u` divided by its mean over the units of the image, so that images
    of different loss compare.
``raw``
    :math:`\bar s_u` itself.
``percentile``
    Share of the data set with a smaller saliency; needs stored profiles.
``tail``
    :math:`-\log_{10}` of the probability that a value is as large, by a generalised Pareto law
    fitted to each unit's largest values (peaks over threshold, Wang & Sato 2023, here by
    probability-weighted moments, Hosking & Wallis 1987). Zero below the threshold; 300 and more,
    by the distance from the threshold, beyond the end of a law that has one.

In all of them larger means more to blame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsight.blame.moments import Moments
from sparsight.blame.usual import FEWEST, Statistics
from sparsight.errors import InputError

__all__ = ["SCORES", "score", "shares_of", "spread", "tail_probability"]

SCORES = ("z", "share", "raw", "percentile", "tail")
"""Names of the scores."""

_TINY = 1e-14  # a spread that counts as none, as published
_SMALLEST = 1e-300
_ROWS = 512  # profiles at a time


def score(name: str, saliency: Tensor, statistics: Statistics) -> Tensor:
    """Score saliency against statistics of the same units.

    Parameters
    ----------
    name
        One of :data:`SCORES`.
    saliency
        ``(..., units)``.
    statistics
        Of a data set.

    Returns
    -------
    Tensor
        ``(..., units)``, float64.

    Raises
    ------
    InputError
        No such score, or statistics that do not hold what it needs.

    Examples
    --------
    >>> import torch, sparsight
    >>> from sparsight.blame import statistics
    >>> network = sparsight.load("embedded")
    >>> images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> found = statistics(network, [(image, 1) for image in images], profiles=True)
    >>> values = score("z", found.profiles, found)
    >>> round(float(values.mean()), 6), round(float(values.std(0).max()), 6)
    (0.0, 1.0)
    """
    values = saliency.to("cpu", torch.float64)
    if values.shape[-1] != len(statistics.raw.mean):
        raise InputError(
            f"{values.shape[-1]} saliencies against statistics of {len(statistics.raw.mean)} "
            "units: measure the same kinds of units"
        )
    if name == "raw":
        return values
    if name == "z":
        return (values - statistics.raw.mean) / spread(statistics.raw)
    if name == "share":
        shares = shares_of(values)
        return (shares - statistics.normalised.mean) / spread(statistics.normalised)
    if name == "percentile":
        if statistics.profiles is None:
            raise InputError(
                "percentiles need every image's profile: make the statistics with profiles=True "
                "(--profiles)"
            )
        return _percentile(values, statistics.profiles)
    if name == "tail":
        if statistics.largest is None:
            raise InputError(
                "tail probabilities need each unit's largest values: make the statistics with "
                "tail=100 (--tail 100)"
            )
        largest = statistics.largest.double()
        found = tail_probability(values, largest, statistics.samples)
        beyond = (values / largest[-1].clamp_min(_TINY)).clamp_min(0).log1p()
        return torch.where(found > _SMALLEST, -found.clamp_min(_SMALLEST).log10(), 300 + beyond)
    raise InputError(f"no score is called {name!r}: choose from {', '.join(SCORES)}")


def shares_of(saliency: Tensor) -> Tensor:
    """Divide by the mean over all units, image by image; nothing stays nothing."""
    mean = saliency.mean(-1, keepdim=True)
    return torch.where(mean > 0, saliency / mean, 0.0)


def spread(moments: Moments) -> Tensor:
    """Return the standard deviations, 1 for a unit that does not vary, as published."""
    return torch.where(moments.std > _TINY, moments.std, 1.0)


def _percentile(values: Tensor, profiles: Tensor) -> Tensor:
    """Share of the profiles below each value, ties counted half."""
    flat = values.reshape(-1, values.shape[-1])
    found = torch.zeros_like(flat)
    for part in profiles.split(_ROWS):
        for row, own in zip(found, flat, strict=True):
            row += (part < own).sum(0) + 0.5 * (part == own).sum(0)
    return (found / len(profiles)).reshape(values.shape)


def tail_probability(values: Tensor, largest: Tensor, samples: int) -> Tensor:
    r"""Probability of a value as large, by a generalised Pareto law over a threshold.

    The threshold :math:`T` is the smallest of the kept values. With excesses :math:`y = s - T`,
    :math:`P(s) = \frac{n_T}{n} (1 + \xi (s - T) / \sigma)^{-1/\xi}`.

    Parameters
    ----------
    values
        ``(..., units)``, float64.
    largest
        The largest values of each unit, decreasing, ``(kept, units)``, float64.
    samples
        How many values there were.

    Returns
    -------
    Tensor
        ``(..., units)``; 1 below the threshold, and for units whose largest values are all equal
        1 or 0.

    Raises
    ------
    InputError
        If fewer than 5 values are kept.
    """
    kept = len(largest)
    if kept < FEWEST:
        raise InputError(
            f"a tail of {kept} values tells nothing: keep {FEWEST} or more of each unit, of more "
            "samples"
        )
    threshold = largest[-1]
    excess = (largest[:-1] - threshold).flip(0)  # increasing
    n = len(excess)
    place = (torch.arange(1, n + 1, dtype=torch.float64)[:, None] - 0.35) / n
    first, second = excess.mean(0), ((1 - place) * excess).mean(0)
    gap = first - 2 * second
    usable = (first > 0) & (gap > 1e-12 * first)
    shape = torch.where(usable, 2 - first / torch.where(usable, gap, 1.0), 0.0)
    scale = torch.where(usable, 2 * first * second / torch.where(usable, gap, 1.0), first)
    above = (values - threshold).clamp_min(0)
    ratio = above / torch.where(scale > 0, scale, 1.0)
    curved = shape.abs() > 1e-6
    bent = (1 + shape * ratio).clamp_min(0).pow(-1 / torch.where(curved, shape, 1.0))
    law = torch.where(curved, bent, (-ratio).exp())
    law = torch.where(scale > 0, law, (above == 0).double())
    return torch.where(values > threshold, law * n / samples, 1.0)
