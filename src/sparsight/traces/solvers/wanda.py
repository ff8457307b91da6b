r"""Wanda (Sun, Liu, Bair & Kolter, ICLR 2024): weights by what they pass on, row by row.

.. math::

    \mathrm{score}_{ij} = |W_{ij}| \, \|X_j\|_2 = \sqrt{W_{ij}^2 S_{jj}}

is the output error of removing weight ``ij`` alone. Each output keeps the same number of weights;
nothing makes up for what is removed.
"""

from __future__ import annotations

from torch import Tensor

from sparsight.traces.solvers.factor import Moments
from sparsight.traces.solvers.magnitude import diagonal, largest, notes, squared_output
from sparsight.traces.solvers.solution import Solution

__all__ = ["wanda"]


def wanda(
    weight: Tensor, moment: Moments, sparsity: float, block: int = 1, damping: float = 0.0
) -> Solution:
    """Prune the weights of each row that matter least with the inputs they get.

    Parameters
    ----------
    weight
        ``(groups, rows, columns)``.
    moment
        Second moment of the inputs, or the samples behind it; its scale does not matter.
    sparsity
        Exactly ``round(sparsity * columns)`` weights of each row are pruned, those of inputs that
        are always zero first. 0 returns the weight untouched.
    block, damping
        Without meaning here.

    Returns
    -------
    Solution
        Its damping is 0.

    References
    ----------
    M. Sun, Z. Liu, A. Bair, J. Z. Kolter: *A Simple and Effective Pruning Approach for Large
    Language Models*, ICLR 2024 (arXiv 2306.11695, 2023).

    Examples
    --------
    >>> import torch
    >>> weight = torch.tensor([[[3.0, -1.0], [0.5, 2.0]]])
    >>> found = wanda(weight, torch.diag(torch.tensor([1.0, 100.0]))[None], 0.5)
    >>> found.weight
    tensor([[[ 0., -1.],
             [ 0.,  2.]]])
    >>> found.lost
    9.25
    """
    if sparsity == 0:
        return Solution(weight.clone(), 0.0, 0.0)
    inputs = diagonal(moment)
    score = weight.abs() * inputs.clamp_min(0).sqrt()[:, None]
    columns = weight.shape[-1]
    sparse = weight.masked_fill(~largest(score, columns - round(sparsity * columns)), 0)
    lost = float(squared_output(weight - sparse, moment).sum())
    return Solution(sparse, lost, 0.0, notes(sparse, inputs <= 0))
