r"""The SparseGPT sweep (Frantar & Alistarh, ICML 2023), the solver of published FastSPADE.

Written with one Cholesky factor and no inverse. With :math:`H = S + \lambda I = R R^\top`,
``R`` upper triangular, the published recursion over columns is

.. math::

    T_i = W_i + \frac{1}{R_{ii}} \sum_{k<i} (W_k - Q_k) \, R_{ki}, \qquad
    Q_i = \mathrm{mask}_i \odot T_i,

where the mask of a block of columns prunes the smallest :math:`T_j^2 R_{jj}^2`, ``T`` taken as
it stands when the sweep enters the block. The squared output error comes for free:
:math:`\mathrm{tr}(E H E^\top) = \sum_i R_{ii}^2 \|T_i - Q_i\|^2` with :math:`E = W - Q`.
``docs/explanation/sweep.md`` derives all this.

``R`` is the Cholesky factor of the matrix with its order reversed. Rather than reversing it
back, the sweep runs in reversed coordinates, from the last column to the first; see
:mod:`sparsight.traces.solvers.factor`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparsight.traces.solvers.factor import Factor, Moments, factorise, strips
from sparsight.traces.solvers.solution import Solution

__all__ = ["prepare_sparsegpt", "sparsegpt"]

_LAZY = 128  # columns whose compensation is gathered in one product


def sparsegpt(
    weight: Tensor, moment: Moments, sparsity: float, block: int = 1, damping: float = 0.01
) -> Solution:
    """Prune a weight matrix in one sweep over its columns, compensating as it goes.

    Parameters
    ----------
    weight
        ``(groups, rows, columns)``.
    moment
        Second moment of the inputs, ``(groups, columns, columns)``, or the samples behind it;
        its scale does not matter.
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
        return Solution(weight.clone(), 0.0, 0.0)
    return prepare_sparsegpt(weight, moment, block, damping)(sparsity)


def prepare_sparsegpt(
    weight: Tensor, moment: Moments, block: int, damping: float
) -> Callable[[float], Solution]:
    """Factorise once; return what solves for a sparsity above 0. See :func:`sparsegpt`."""
    # Strips are counted from the natural first column, so that blocks start where they should.
    factor = factorise(moment, damping, max(block, _LAZY // block * block))
    dense = weight.to(factor.scale.dtype).transpose(1, 2).flip(1)
    dense = dense.masked_fill_(factor.dead[:, :, None], 0)
    notes = [factor.note] if factor.note else []
    if bool(factor.dead.any()):
        notes.append(f"{int(factor.dead.sum())} inputs are always zero")

    def solve(sparsity: float) -> Solution:
        sparse, lost = _sweep(dense, factor, sparsity, block)
        ridge = (factor.damping.double() * (dense - sparse).double().square().sum((1, 2))).sum()
        return Solution(
            sparse.flip(1).transpose(1, 2).to(weight.dtype),
            0.0 if lost < float(ridge) else lost - float(ridge),
            float(factor.damping.mean()),
            "; ".join(notes),
        )

    return solve


def _sweep(dense: Tensor, factor: Factor, sparsity: float, block: int) -> tuple[Tensor, float]:
    """Sweep over ``dense``, ``(groups, columns, rows)`` in reversed order, last column first.

    Returns the sparse weights and the squared output error under the damped moment.
    """
    groups, columns, rows = dense.shape
    factor.begin()
    scale = factor.scale[:, :, None]
    error = torch.zeros_like(dense)  # W - Q of the columns done so far
    sparse = torch.empty_like(dense)
    lost = torch.zeros((), dtype=torch.float64, device=dense.device)
    for start, stop in strips(columns, factor.lazy):
        coefficients = (factor.local(start, stop) / scale[:, start:stop].mT).mT
        base = dense[:, start:stop].clone()
        if stop < columns:
            base += factor.gather(start, stop, error) / scale[:, start:stop]
        for last in range(stop, start, -block):
            first = max(start, last - block)
            here = slice(first - start, last - start)
            target = base[:, here]
            if last < stop:
                target.baddbmm_(coefficients[:, here, last - start :], error[:, last:stop])
            inner = coefficients[:, here, here]
            entry = _entry_state(target, inner, dense[:, first:last])
            scores = (entry * scale[:, first:last]).square()
            count = round(sparsity * (last - first) * rows)
            pruned = scores.reshape(groups, -1).topk(count, largest=False, sorted=False).indices
            keep = torch.ones_like(scores).reshape(groups, -1).scatter_(1, pruned, 0)
            keep = keep.reshape(groups, last - first, rows)
            width = last - first
            for column in reversed(range(width)):
                if column < width - 1:
                    target[:, column : column + 1].baddbmm_(
                        inner[:, column : column + 1, column + 1 :],
                        error[:, first + column + 1 : last],
                    )
                index = first + column
                sparse[:, index] = target[:, column] * keep[:, column]
                error[:, index] = dense[:, index] - sparse[:, index]
            missed = (target - sparse[:, first:last]) * scale[:, first:last]
            lost += missed.square().sum()
    return sparse, float(lost)


def _entry_state(target: Tensor, inner: Tensor, dense: Tensor) -> Tensor:
    """Columns of a block as they stand before any of them is pruned.

    Unpruned, column ``k`` still passes ``W_k - T_k`` on, so ``T`` solves
    ``(I + N) T = A + N W`` with ``N`` the strict upper part of the block's coefficients.
    """
    if inner.shape[-1] == 1:
        return target
    entry: Tensor = torch.linalg.solve_triangular(
        inner, torch.baddbmm(target, inner.triu(1), dense), upper=True, unitriangular=True
    )
    return entry
