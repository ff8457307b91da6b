r"""A mask by what each weight passes on, then least squares on it.

The mask keeps the largest :math:`W_{ij}^2 S_{jj}` of a whole group: what removing weight ``ij``
alone costs, in the unit of the layer's squared output error, so that rows compare directly. Every
row then solves least squares on its own support ``F`` (``P`` the rest):

.. math::

    \min_v \; (w - v) H (w - v)^\top, \qquad
    v_F = w_F + w_P S_{PF} (S_{FF} + \lambda I)^{-1}, \qquad v_P = 0,

with :math:`H = S + \lambda I`. The ridge pulls towards the *dense* weights. With few samples,
:math:`S = Z Z^\top`, the system has the size of the samples or of the support, whichever is
smaller: :math:`S_{PF}(S_{FF} + \lambda I)^{-1} = Z_P (Z_F^\top Z_F + \lambda I)^{-1} Z_F^\top`.

On any mask, least squares never loses more than plain pruning with that mask does, see
``docs/explanation/solvers.md``. A mask can still be the wrong one: where plain magnitude pruning
of as many weights would lose less, its mask is taken instead, and the note says so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsight.traces.solvers.factor import LowRank, Moments, absolute_damping, cholesky
from sparsight.traces.solvers.magnitude import diagonal, largest, notes, squared_output, times
from sparsight.traces.solvers.solution import Solution

__all__ = ["fit", "least_squares", "refit"]

_BYTES = 256 * 2**20  # of small systems solved at a time
_ALIKE = 0.75  # supports solved together are padded to the largest; none is smaller than this


def refit(
    weight: Tensor, moment: Moments, sparsity: float, block: int = 1, damping: float = 0.01
) -> Solution:
    """Keep the weights that pass most on, then let them make up for the rest.

    Parameters
    ----------
    weight
        ``(groups, rows, columns)``.
    moment
        Second moment of the inputs, or the samples behind it; its scale does not matter.
    sparsity
        Exactly ``round(sparsity * rows * columns)`` weights of each group are pruned, those of
        inputs that are always zero first. 0 returns the weight untouched.
    block
        Without meaning here.
    damping
        Relative to the mean diagonal of the moment over inputs that are not always zero.

    Returns
    -------
    Solution
        Weights of inputs that are always zero are zero in it, also beyond the count.

    Raises
    ------
    NumericalError
        If a damped system is not positive definite.

    References
    ----------
    M. Sun, Z. Liu, A. Bair, J. Z. Kolter: *A Simple and Effective Pruning Approach for Large
    Language Models*, ICLR 2024, for the score.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(16, 100)
    >>> weight, moment = torch.randn(1, 8, 16), (x @ x.T)[None]
    >>> found = refit(weight, moment, 0.5)
    >>> int((found.weight == 0).sum())
    64
    """
    if sparsity == 0:
        return Solution(weight.clone(), 0.0, 0.0)
    inputs = diagonal(moment)
    dead, ridge = absolute_damping(inputs, damping)
    score = (weight.abs() * inputs.clamp_min(0).sqrt()[:, None]).flatten(1)
    keep = largest(score, score.shape[1] - round(sparsity * score.shape[1]))
    return fit(weight, moment, keep.reshape(weight.shape) & ~dead[:, None], ridge, dead)


def fit(weight: Tensor, moment: Moments, keep: Tensor, ridge: Tensor, dead: Tensor) -> Solution:
    """Solve on a mask, or on that of magnitude pruning where it loses less without any fit.

    Parameters
    ----------
    weight, keep
        ``(groups, rows, columns)``, dense weights and what to keep of them.
    moment
        Second moments, or the samples behind them.
    ridge
        Absolute damping, ``(groups,)``.
    dead
        Inputs that are always zero, ``(groups, columns)``; ``keep`` holds none of them.
    """
    sparse = least_squares(weight, moment, keep, ridge).to(weight.dtype)
    lost = squared_output(weight - sparse, moment)
    plain = _by_magnitude(weight.masked_fill(dead[:, None], 0), keep.sum((1, 2)))
    plain &= ~dead[:, None]
    worse = (lost > squared_output(weight * ~plain, moment)).nonzero().flatten()
    if len(worse):
        part = LowRank(moment.z[worse]) if isinstance(moment, LowRank) else moment[worse]
        better = least_squares(weight[worse], part, plain[worse], ridge[worse])
        sparse[worse] = better.to(weight.dtype)
        lost[worse] = squared_output(weight[worse] - sparse[worse], part)
    said = [f"mask by magnitude in {len(worse)} of {len(weight)} groups"] if len(worse) else []
    said += [note] if (note := notes(sparse, dead)) else []
    return Solution(sparse, float(lost.sum()), float(ridge.mean()), "; ".join(said))


def _by_magnitude(weight: Tensor, counts: Tensor) -> Tensor:
    """Mark the largest weights of each group, as many as ``counts`` says, ``(groups,)``."""
    order = weight.abs().flatten(1).argsort(dim=1, descending=True)
    chosen = torch.arange(order.shape[1], device=order.device) < counts[:, None]
    return torch.zeros_like(chosen).scatter_(1, order, chosen).reshape(weight.shape)


def least_squares(
    weight: Tensor, moment: Moments, keep: Tensor, ridge: Tensor, through: Tensor | None = None
) -> Tensor:
    """Best weights of every row on its own support, in float64.

    Rows with supports of like size are solved together, padded to the largest of them.

    Parameters
    ----------
    weight, keep
        ``(groups, rows, columns)``, dense weights and what to keep of them.
    moment
        Second moments, or the samples behind them.
    ridge
        Absolute damping, ``(groups,)``.
    through
        What the kept weights leave of the target, times the inputs: ``(groups, rows, columns)``,
        or ``(groups, rows, rank)`` in terms of the samples. By default the target is what the
        dense weights answer on these inputs, so that pruned weights are all that is left.

    Examples
    --------
    >>> import torch
    >>> moment = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]])
    >>> keep = torch.tensor([[[True, False]]])
    >>> least_squares(torch.ones(1, 1, 2), moment, keep, torch.zeros(1))
    tensor([[[1.5000, 0.0000]]], dtype=torch.float64)
    """
    groups, rows, columns = weight.shape
    if through is None:
        lost = weight.double() * ~keep
        through = lost @ moment.z.double() if isinstance(moment, LowRank) else times(lost, moment)
    through = through.reshape(groups * rows, -1)
    kept = keep.reshape(-1, columns)
    out = weight.double().masked_fill(~keep, 0).reshape(-1, columns)
    group = torch.arange(groups, device=weight.device).repeat_interleave(rows)
    sizes, order = kept.sum(1).sort(descending=True)
    column = kept.nonzero()[:, 1]  # of each row's kept weights, row after row
    first = kept.sum(1).cumsum(0) - kept.sum(1)
    widths = sizes.tolist()
    start = 0
    while start < len(widths) and widths[start]:
        width = widths[start]
        other = moment.z.shape[2] if isinstance(moment, LowRank) else width
        stop = start + max(1, _BYTES // (32 * width * max(1, other)))
        stop = min(stop, int((sizes >= _ALIKE * width).sum()))
        here = order[start:stop]
        slot = torch.arange(width, device=column.device)
        used = slot < sizes[start:stop, None]
        index = column[(first[here][:, None] + slot).clamp_max(len(column) - 1)]
        index = torch.where(used, index, 0)
        change = _solve(moment, group[here], index, used, through[here].double(), ridge.double())
        out[here] = out[here].scatter_add(1, index, change * used)
        start = stop
    return out.reshape(weight.shape)


def _solve(
    moment: Moments, group: Tensor, index: Tensor, used: Tensor, through: Tensor, ridge: Tensor
) -> Tensor:
    """Solve on the supports ``index`` of rows of ``group``, padded where not ``used``.

    ``through`` is what was pruned, times the moment or times the samples.
    """
    damping = ridge[group][:, None]
    if not isinstance(moment, LowRank):
        columns = moment.shape[-1]
        flat = (group[:, None] * columns + index)[:, :, None] * columns + index[:, None, :]
        system = moment.reshape(-1)[flat].double() * (used[:, :, None] & used[:, None, :])
        target = through.gather(1, index) * used
        return _positive(system, torch.where(used, damping, 1.0), target)
    z = moment.z[group[:, None], index] * used[:, :, None]
    if z.shape[2] < z.shape[1]:
        inner = _positive((z.mT @ z).double(), damping.expand(-1, z.shape[2]), through)
        return (z @ inner[:, :, None].to(z))[:, :, 0].double()
    target = (z @ through[:, :, None].to(z))[:, :, 0].double()
    return _positive((z @ z.mT).double(), torch.where(used, damping, 1.0), target)


def _positive(system: Tensor, added: Tensor, target: Tensor) -> Tensor:
    """Solve positive definite ``system + diag(added)``, which is overwritten."""
    system.diagonal(dim1=1, dim2=2).add_(added)
    factor, _ = cholesky(system)
    return torch.cholesky_solve(target[:, :, None], factor)[:, :, 0]
