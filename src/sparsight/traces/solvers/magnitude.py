r"""Magnitude pruning, and what any mask costs on the recorded inputs.

The smallest weights of a layer go, whatever their inputs are, and nothing makes up for them:
the baseline that every other solver has to beat. The error

.. math::

    \|(W - \hat W) X\|_F^2 = \mathrm{tr}(E S E^\top), \qquad E = W - \hat W, \; S = X X^\top

is computed here for all solvers that have only a mask or only weights to show.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsight.traces.solvers.factor import LowRank, Moments
from sparsight.traces.solvers.solution import Solution

__all__ = ["diagonal", "largest", "magnitude", "notes", "squared_output", "times"]

_STRIP_BYTES = 64 * 2**20  # of a moment, converted to float64 at a time


def magnitude(
    weight: Tensor, moment: Moments, sparsity: float, block: int = 1, damping: float = 0.0
) -> Solution:
    """Prune the smallest weights of each group; no other weight moves.

    Parameters
    ----------
    weight
        ``(groups, rows, columns)``.
    moment
        Second moment of the inputs, or the samples behind it; only the error is taken from it.
    sparsity
        Exactly ``round(sparsity * rows * columns)`` weights of each group are pruned, weights of
        inputs that are always zero like all others. 0 returns the weight untouched.
    block, damping
        Without meaning here.

    Returns
    -------
    Solution
        Its damping is 0.

    References
    ----------
    S. Han, J. Pool, J. Tran, W. Dally: *Learning both Weights and Connections for Efficient
    Neural Networks*, NeurIPS 2015.

    Examples
    --------
    >>> import torch
    >>> weight = torch.tensor([[[3.0, -1.0], [0.5, 2.0]]])
    >>> found = magnitude(weight, torch.eye(2)[None], 0.5)
    >>> found.weight
    tensor([[[3., 0.],
             [0., 2.]]])
    >>> found.lost
    1.25
    """
    if sparsity == 0:
        return Solution(weight.clone(), 0.0, 0.0)
    score = weight.abs().flatten(1)
    keep = largest(score, score.shape[1] - round(sparsity * score.shape[1]))
    sparse = weight.masked_fill(~keep.reshape(weight.shape), 0)
    lost = float(squared_output(weight - sparse, moment).sum())
    return Solution(sparse, lost, 0.0, notes(sparse, diagonal(moment) <= 0))


def largest(score: Tensor, count: int) -> Tensor:
    """Mark the ``count`` largest entries along the last dimension.

    Examples
    --------
    >>> import torch
    >>> largest(torch.tensor([[3.0, 1.0, 2.0]]), 2)
    tensor([[ True, False,  True]])
    """
    pruned = score.topk(score.shape[-1] - count, largest=False, sorted=False).indices
    return torch.ones_like(score, dtype=torch.bool).scatter_(-1, pruned, False)


def diagonal(moment: Moments) -> Tensor:
    """Squared norm of each input over all samples, ``(groups, columns)``."""
    if isinstance(moment, LowRank):
        return moment.z.square().sum(-1)
    return moment.diagonal(dim1=-2, dim2=-1)


def times(error: Tensor, moment: Moments) -> Tensor:
    """Multiply ``(groups, rows, columns)`` by a second moment, in float64.

    A moment in float32 is converted strip by strip, never as a whole.
    """
    error = error.double()
    if isinstance(moment, LowRank):
        z = moment.z.double()
        return error @ z @ z.mT
    width = max(1, _STRIP_BYTES // (8 * moment.shape[0] * moment.shape[1]))
    return torch.cat([error @ part.double() for part in moment.split(width, dim=2)], 2)


def squared_output(error: Tensor, moment: Moments) -> Tensor:
    r"""Squared output error :math:`\mathrm{tr}(E S E^\top)` of each group, in float64.

    Examples
    --------
    >>> import torch
    >>> squared_output(torch.ones(1, 1, 2), torch.eye(2)[None])
    tensor([2.], dtype=torch.float64)
    """
    if isinstance(moment, LowRank):
        return (error.double() @ moment.z.double()).square().sum((1, 2))
    return (times(error, moment) * error.double()).sum((1, 2)).clamp_min(0)


def notes(sparse: Tensor, dead: Tensor) -> str:
    """Say which outputs lost all their weights, and which inputs are always zero."""
    empty = int((sparse == 0).all(-1).sum())
    said = [f"{empty} outputs keep no weight"] if empty else []
    said += [f"{int(dead.sum())} inputs are always zero"] if bool(dead.any()) else []
    return "; ".join(said)
