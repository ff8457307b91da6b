"""Does a map find a known place? Four answers, each a pure function of heat and mask.

Pixels of equal heat have no order. Where a metric needs one, its value is what random orders of
the tied pixels give on average, so no metric depends on how an image is scanned.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from sparsight.attribution.metrics.inputs import checked_heat, checked_mask
from sparsight.attribution.metrics.ranks import average_ranks
from sparsight.errors import InputError

__all__ = ["pointing_game", "relevance_mass", "relevance_rank", "roc_auc"]


def roc_auc(heat: Tensor, mask: Tensor) -> Tensor:
    r"""Area under the ROC curve of the heat as a detector of the mask's pixels.

    The probability that a pixel inside the mask is hotter than one outside, ties counting half
    (the Mann-Whitney statistic, exact): :math:`(R - n_1 (n_1 + 1) / 2) / (n_1 n_0)` for the sum
    :math:`R` of the ranks of the :math:`n_1` pixels inside.

    Parameters
    ----------
    heat
        ``(N, H, W)``.
    mask
        ``(N, H, W)`` bool.

    Returns
    -------
    Tensor
        ``(N,)`` float64 in [0, 1]; higher is better, 0.5 is chance.

    Raises
    ------
    InputError
        A mask that is empty or full, other shapes or dtypes, NaN or infinite values.

    References
    ----------
    Fawcett, *An introduction to ROC analysis*, Pattern Recognition Letters 2006.

    Examples
    --------
    >>> import torch
    >>> heat = torch.tensor([[[3.0, 1.0, 1.0]]])
    >>> roc_auc(heat, torch.tensor([[[True, True, False]]])).tolist()
    [0.75]
    """
    heat = checked_heat(heat)
    mask = checked_mask(mask, heat, full=False).flatten(1)
    ranks = average_ranks(heat.flatten(1))
    inside = mask.sum(1).double()
    above = (ranks * mask).sum(1) - inside * (inside + 1) / 2
    return above / (inside * (mask.shape[1] - inside))


def pointing_game(heat: Tensor, mask: Tensor, *, tolerance: float = 0.0) -> Tensor:
    """Whether the hottest pixel lies inside the mask.

    Parameters
    ----------
    heat
        ``(N, H, W)``.
    mask
        ``(N, H, W)`` bool.
    tolerance
        A miss by at most so many pixels (Euclidean) is a hit; the publication uses 15.

    Returns
    -------
    Tensor
        ``(N,)`` float64: 1 for a hit, 0 for a miss; of several hottest pixels the share that
        hits. Higher is better, the mask's share of the area is chance.

    Raises
    ------
    InputError
        An empty mask, a negative tolerance, other shapes or dtypes, NaN or infinite values.

    References
    ----------
    Zhang et al., *Top-down Neural Attention by Excitation Backprop*, ECCV 2016.

    Examples
    --------
    >>> import torch
    >>> heat = torch.tensor([[[3.0, 1.0, 0.0]]])
    >>> mask = torch.tensor([[[False, True, False]]])
    >>> pointing_game(heat, mask).item(), pointing_game(heat, mask, tolerance=1).item()
    (0.0, 1.0)
    """
    if not 0 <= tolerance < math.inf:
        raise InputError(f"tolerance is {tolerance}: give a distance in pixels, 0 or more")
    heat = checked_heat(heat)
    mask = _grown(checked_mask(mask, heat), tolerance).flatten(1)
    hottest = heat.flatten(1) == heat.flatten(1).amax(1, keepdim=True)
    return (hottest & mask).sum(1).double() / hottest.sum(1)


def relevance_mass(heat: Tensor, mask: Tensor) -> Tensor:
    """Share of the positive relevance that lies inside the mask.

    Parameters
    ----------
    heat
        ``(N, H, W)``; negative values count as nothing.
    mask
        ``(N, H, W)`` bool.

    Returns
    -------
    Tensor
        ``(N,)`` float64 in [0, 1]; NaN for a map without any positive relevance. Higher is
        better, the mask's share of the area is chance.

    Raises
    ------
    InputError
        An empty mask, other shapes or dtypes, NaN or infinite values.

    References
    ----------
    Arras, Osman, Samek, *CLEVR-XAI*, Information Fusion 2022, arXiv:2003.07258.

    Examples
    --------
    >>> import torch
    >>> heat = torch.tensor([[[3.0, 1.0, -5.0]]])
    >>> relevance_mass(heat, torch.tensor([[[True, False, False]]])).item()
    0.75
    """
    heat = checked_heat(heat)
    mask = checked_mask(mask, heat)
    positive = heat.clamp(min=0).flatten(1)
    positive = positive / positive.amax(1, keepdim=True)  # no overflow; 0 / 0 is NaN
    return (positive * mask.flatten(1)).sum(1) / positive.sum(1)


def relevance_rank(heat: Tensor, mask: Tensor) -> Tensor:
    """Share of the K hottest pixels that lie inside the mask of K pixels.

    Parameters
    ----------
    heat
        ``(N, H, W)``.
    mask
        ``(N, H, W)`` bool, K pixels each.

    Returns
    -------
    Tensor
        ``(N,)`` float64 in [0, 1]; higher is better, the mask's share of the area is chance.

    Raises
    ------
    InputError
        An empty mask, other shapes or dtypes, NaN or infinite values.

    References
    ----------
    Arras, Osman, Samek, *CLEVR-XAI*, Information Fusion 2022, arXiv:2003.07258.

    Examples
    --------
    >>> import torch
    >>> heat = torch.tensor([[[3.0, 2.0, 1.0, 0.0]]])
    >>> relevance_rank(heat, torch.tensor([[[True, False, True, False]]])).item()
    0.5
    """
    heat = checked_heat(heat)
    mask = checked_mask(mask, heat).flatten(1)
    flat = heat.flatten(1)
    size = mask.sum(1, keepdim=True)
    bar = flat.sort(1, descending=True).values.gather(1, size - 1)  # the K-th hottest
    above, tied = flat > bar, flat == bar
    drawn = (size - above.sum(1, keepdim=True)).double() / tied.sum(1, keepdim=True)
    found = (above & mask).sum(1) + drawn[:, 0] * (tied & mask).sum(1)
    return found / size[:, 0]


def _grown(mask: Tensor, radius: float) -> Tensor:
    """All pixels within a distance of the mask: the mask grown by a disc, row by row."""
    height, width = mask.shape[-2:]
    grown = mask.clone()
    for down in range(min(math.floor(radius), height - 1) + 1):
        reach = min(math.floor(math.sqrt(radius * radius - down * down)), width - 1)
        wide = F.max_pool2d(
            mask[:, None].double(), (1, 2 * reach + 1), stride=1, padding=(0, reach)
        )
        row = wide[:, 0] > 0
        grown[:, down:] |= row[:, : height - down]
        grown[:, : height - down] |= row[:, down:]
    return grown
