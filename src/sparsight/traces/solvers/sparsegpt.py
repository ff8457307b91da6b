r"""The SparseGPT sweep (Frantar & Alistarh, ICML 2023), the solver of published FastSPADE.

Written with one Cholesky factor and no inverse. With :math:`H = S + \lambda I = R R^\top`,
``R`` upper triangular, the published recursion over columns is

.. math::

    T_i = W_i + \sum_{k<i} (W_k - Q_k) \, R_{ki} / R_{ii}, \qquad Q_i = \mathrm{mask}_i \odot T_i,

where the mask of a block of columns prunes the smallest :math:`T_j^2 R_{jj}^2`, ``T`` taken as
it stands when the sweep enters the block. ``docs/explanation/sweep.md`` derives it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsight.errors import NumericalError
from sparsight.traces.solvers.solution import Solution

__all__ = ["damped", "sparsegpt", "upper_factor"]

_LAZY = 128  # columns whose compensation is gathered in one product


def damped(moment: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """Add relative damping and give dead inputs a unit diagonal.

    Parameters
    ----------
    moment
        ``(groups, columns, columns)``.
    damping
        Relative to the mean diagonal over live inputs.

    Returns
    -------
    hessian, dead, added
        Damped copy; inputs that are always zero, ``(groups, columns)``; absolute damping per
        group, ``(groups,)``.
    """
    diagonal = moment.diagonal(dim1=-2, dim2=-1)
    dead = diagonal <= 0
    live = (~dead).sum(-1).clamp_min(1)
    added = damping * diagonal.sum(-1) / live
    hessian = moment.clone()
    scale = torch.where(added > 0, added, torch.ones_like(added))
    extra = added[:, None] + torch.where(dead, scale[:, None], torch.zeros_like(diagonal))
    hessian.diagonal(dim1=-2, dim2=-1).add_(extra)
    return hessian, dead, added


def upper_factor(hessian: Tensor) -> tuple[Tensor, str]:
    """Factor ``H = R R^T`` with ``R`` upper triangular, in float64 where float32 fails.

    Returns
    -------
    R, note
        The factor in the dtype that worked, and a word on it when that is not the input's.

    Raises
    ------
    NumericalError
        If the matrix is not positive definite even in float64.
    """
    flipped = hessian.flip(-2, -1)
    factor, info = torch.linalg.cholesky_ex(flipped)
    note = ""
    if bool((info != 0).any()) and hessian.dtype != torch.float64:
        factor, info = torch.linalg.cholesky_ex(flipped.double())
        note = "factorised in float64"
    if bool((info != 0).any()):
        raise NumericalError(
            "the second moments are not positive definite even in float64: raise the damping"
        )
    return factor.flip(-2, -1), note


def sparsegpt(
    weight: Tensor, moment: Tensor, sparsity: float, block: int = 1, damping: float = 0.01
) -> Solution:
    """Prune a weight matrix in one sweep over its columns, compensating as it goes.

    Parameters
    ----------
    weight
        ``(groups, rows, columns)``.
    moment
        Second moment of the inputs, ``(groups, columns, columns)``; its scale does not matter.
    sparsity
        Exactly ``round(sparsity * rows * block)`` weights are pruned in each block of columns
        (``block`` may not divide the number of columns; the last block is then smaller).
        0 returns the weight untouched.
    block
        Columns that share one mask decision.
    damping
        Relative to the mean diagonal of the moment.

    Returns
    -------
    Solution
        Weights of inputs that are always zero are zero in it, on top of the count.

    Raises
    ------
    NumericalError
        If the damped moment cannot be factorised.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(16, 100)
    >>> found = sparsegpt(torch.randn(1, 8, 16), (x @ x.T)[None], 0.5)
    >>> int((found.weight == 0).sum())
    64
    """
    if sparsity == 0:
        return Solution(weight.clone(), 0.0)
    hessian, dead, added = damped(moment, damping)
    factor, note = upper_factor(hessian)
    dense = weight.to(factor.dtype).transpose(1, 2).masked_fill(dead[:, :, None], 0).contiguous()
    sparse = _sweep(dense, factor, sparsity, block)
    notes = [note] if note else []
    if bool(dead.any()):
        notes.append(f"{int(dead.sum())} inputs are always zero")
    return Solution(sparse.transpose(1, 2).to(weight.dtype), float(added.mean()), "; ".join(notes))


def _sweep(dense: Tensor, factor: Tensor, sparsity: float, block: int) -> Tensor:
    """Sweep over ``dense``, ``(groups, columns, rows)``: columns are contiguous here."""
    groups, columns, rows = dense.shape
    scale = factor.diagonal(dim1=-2, dim2=-1)
    lower = (factor / scale[:, None, :]).transpose(1, 2).contiguous()  # unit lower triangular
    weights = scale.square()
    error = torch.zeros_like(dense)  # W - Q of the columns done so far
    sparse = torch.empty_like(dense)
    lazy = max(block, _LAZY // block * block)
    for start in range(0, columns, lazy):
        stop = min(start + lazy, columns)
        base = dense[:, start:stop].clone()
        if start:
            base.baddbmm_(lower[:, start:stop, :start], error[:, :start])
        for first in range(start, stop, block):
            last = min(first + block, stop)
            target = base[:, first - start : last - start]
            if first > start:
                target.baddbmm_(lower[:, first:last, start:first], error[:, start:first])
            inner = lower[:, first:last, first:last]
            entry = _entry_state(target, inner, dense[:, first:last])
            scores = entry.square() * weights[:, first:last, None]
            count = round(sparsity * (last - first) * rows)
            pruned = scores.reshape(groups, -1).topk(count, largest=False, sorted=False).indices
            keep = torch.ones_like(scores).reshape(groups, -1).scatter_(1, pruned, 0)
            keep = keep.reshape(groups, last - first, rows)
            for column in range(last - first):
                if column:
                    target[:, column : column + 1].baddbmm_(
                        inner[:, column : column + 1, :column], error[:, first : first + column]
                    )
                index = first + column
                sparse[:, index] = target[:, column] * keep[:, column]
                error[:, index] = dense[:, index] - sparse[:, index]
    return sparse


def _entry_state(target: Tensor, inner: Tensor, dense: Tensor) -> Tensor:
    """Columns of a block as they stand before any of them is pruned.

    Unpruned, column ``k`` still passes ``W_k - T_k`` on, so ``T`` solves
    ``(I + N) T = A + N W`` with ``N`` the strict lower part of the block.
    """
    if inner.shape[-1] == 1:
        return target
    strict = inner.tril(-1)
    entry: Tensor = torch.linalg.solve_triangular(
        inner, torch.baddbmm(target, strict, dense), upper=False, unitriangular=True
    )
    return entry
