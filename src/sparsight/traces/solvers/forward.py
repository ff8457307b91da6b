r"""Grow every row's support weight by weight, then remove what proved dispensable.

Where few weights stay, it is cheaper to find them than to remove all others. A row whose support
is ``F``, with best weights ``v``, takes in the input whose inclusion lowers the damped loss
:math:`(w - v) H (w - v)^\top` most, all kept weights moving (orthogonal least squares):

.. math::

    \mathrm{gain}_j = \frac{t_j^2}{D_j}, \qquad
    t = (w - v) H, \qquad D_j = H_{jj} - H_{jF} H_{FF}^{-1} H_{Fj}.

One step appends a row :math:`q = (H_{j\cdot} - Q_{\cdot j}^\top Q) / \sqrt{D_j}` to a partial
Cholesky factor ``Q``; then :math:`t \leftarrow t - q\, t_j / \sqrt{D_j}` and
:math:`D \leftarrow D - q^2`. All rows grow to the same size, half as much again as they will
keep on average. From there the exact removal of :mod:`sparsight.traces.solvers.obs` goes back: it
undoes choices that later ones made dispensable, and decides how much each row of the layer keeps.

The mask is chosen with no input damped by more than its own moment, :math:`H = S +
\mathrm{diag}(\min(\lambda, S_{jj}))`: where scales differ widely, one ridge for all inputs would
hide the small ones. The published weights are those of
:func:`~sparsight.traces.solvers.refit.fit`, damped as for every other solver.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from sparsight.errors import NumericalError
from sparsight.traces.solvers.factor import LowRank, Moments, absolute_damping, cholesky
from sparsight.traces.solvers.magnitude import diagonal, largest, times
from sparsight.traces.solvers.obs import DenseInverses, remove_all
from sparsight.traces.solvers.refit import fit
from sparsight.traces.solvers.solution import Solution

__all__ = ["forward"]

_BYTES = 256 * 2**20  # of factors and inverses held at a time
_COPIES = 6  # of a row's vectors, or of its small moment while it is inverted and taken down
_GROWN = 1.5  # a row grows to so many times the mean number that will be kept,
_SPARE = 4  # and by so many more, which matters where that mean is about one
_SPANNED = 64  # times the rounding: what is left of an input that those chosen already give


def forward(
    weight: Tensor, moment: Moments, sparsity: float, block: int = 1, damping: float = 0.01
) -> Solution:
    """Select the weights that are kept, one at a time, and let them make up for the rest.

    For rows that keep ``k`` weights on average, takes about
    ``rows * (2.3 * k**2 * columns + 2.3 * k**3)`` operations more than :func:`refit`.

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
    S. Chen, S. Billings, W. Luo: *Orthogonal least squares methods and their application to
    non-linear system identification*, International Journal of Control 1989. T. Zhang: *Adaptive
    Forward-Backward Greedy Algorithm for Learning Sparse Representations*, IEEE Transactions on
    Information Theory 2011.

    Examples
    --------
    Where one of the inputs is the sum of all others, its weight can do what theirs do.

    >>> import torch
    >>> x = torch.eye(9)
    >>> x = torch.cat([x, x.sum(0, keepdim=True)])
    >>> found = forward(torch.tensor([[[3.0] * 9 + [0.5]]]), (x @ x.T)[None], 0.9, damping=1e-6)
    >>> found.weight.round(decimals=3)
    tensor([[[0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000,
              0.0000, 3.5000]]])
    """
    if sparsity == 0:
        return Solution(weight.clone(), 0.0, 0.0)
    dead, ridge = absolute_damping(diagonal(moment), damping)
    keep = _select(weight, moment, sparsity, ridge, dead)
    return fit(weight, moment, keep, ridge, dead)


def _select(
    weight: Tensor, moment: Moments, sparsity: float, ridge: Tensor, dead: Tensor
) -> Tensor:
    """Mark the weights to keep, ``(groups, rows, columns)``; none of an input always zero."""
    _, rows, columns = weight.shape
    kept = rows * columns - round(sparsity * rows * columns)
    size = min(columns, ceil(_GROWN * kept / rows) + _SPARE)
    inputs = diagonal(moment).double()
    damped = _own_damping(ridge.double()[:, None], inputs)
    dense = weight.double().masked_fill(dead[:, None], 0)
    target = times(dense, moment) + dense * damped[:, None]
    damped = damped.masked_fill(dead, 1)  # a dead input stands alone, and goes at no cost
    if size < columns:
        chosen = _grow_all(target, moment, (inputs + damped).rsqrt(), dead, size)
    else:
        chosen = torch.arange(columns, device=weight.device).expand(weight.shape)
    step, cost = _shrink_all(target.gather(2, chosen), moment, damped, chosen)
    if not bool(torch.isfinite(cost).all()):
        raise NumericalError(
            "the second moments are not positive definite even in float64: raise the damping"
        )
    # A cheap step behind a dear one comes only with it.
    gone = ~largest(cost.cummax(2).values.flatten(1), kept).reshape(cost.shape)
    keep = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
    keep.scatter_(2, chosen, step >= gone.sum(2, keepdim=True))
    return keep & ~dead[:, None]


def _own_damping(ridge: Tensor, inputs: Tensor) -> Tensor:
    """Damp no input by more than its own moment."""
    return torch.minimum(ridge, inputs)


def _chunks(shape: torch.Size, row_bytes: int) -> list[tuple[slice, slice]]:
    """Cut ``(groups, rows, ...)`` into pieces that fit into memory."""
    groups, rows = shape[:2]
    height = min(rows, max(1, _BYTES // row_bytes))
    depth = min(groups, max(1, _BYTES // (row_bytes * height)))
    return [
        (slice(group, group + depth), slice(row, row + height))
        for group in range(0, groups, depth)
        for row in range(0, rows, height)
    ]


def _grow_all(target: Tensor, moment: Moments, unit: Tensor, dead: Tensor, size: int) -> Tensor:
    """Choose ``size`` inputs for every row, ``(groups, rows, size)``.

    Parameters
    ----------
    target
        Dense weights times the damped moment, ``(groups, rows, columns)``.
    moment
        Not damped.
    unit
        What scales the damped moment to a diagonal of ones, ``(groups, columns)``.
    dead
        Inputs that are always zero, ``(groups, columns)``: chosen only when nothing else is left.
    size
        Less than the number of columns.
    """
    source = moment.z if isinstance(moment, LowRank) else moment
    dtype = torch.promote_types(source.dtype, torch.float32)
    out = torch.empty(*target.shape[:2], size, dtype=torch.int64, device=target.device)
    for here in _chunks(target.shape, dtype.itemsize * target.shape[2] * (size + _COPIES)):
        scale = unit[here[0], None]
        part = source[here[0]]
        out[here] = _grow(
            (target[here] * scale).to(dtype),
            LowRank(part.to(dtype)) if isinstance(moment, LowRank) else part,
            scale.to(dtype),
            torch.where(dead[here[0], None], -1.0, 0.0),
            size,
        )
    return out


def _grow(answer: Tensor, moment: Moments, scale: Tensor, closed: Tensor, size: int) -> Tensor:
    """Choose inputs for the rows of a chunk, all rows in step.

    ``answer``, ``(groups, rows, columns)``, becomes what is left of it. ``scale`` and ``closed``,
    ``(groups, 1, columns)``, are for all rows; ``closed`` is added to the gains.
    """
    group = torch.arange(len(answer), device=answer.device)[:, None]
    spread = torch.ones_like(answer)
    closed = closed.to(answer.dtype).repeat(1, answer.shape[1], 1)
    least = _SPANNED * torch.finfo(answer.dtype).eps
    factor = answer.new_empty(*answer.shape[:2], size, answer.shape[2])
    out = torch.empty(*answer.shape[:2], size, dtype=torch.int64, device=answer.device)
    for now in range(size):
        best = (answer.square() / spread).add_(closed).argmax(2, keepdim=True)
        closed.scatter_(2, best, -torch.inf)
        index = best[:, :, 0]
        out[:, :, now] = index
        if isinstance(moment, LowRank):
            column = moment.z[group, index] @ moment.z.mT
        else:
            column = moment[group, index].to(answer.dtype)
        column = column * scale * scale[:, 0].gather(1, index)[:, :, None]
        column.scatter_(2, best, 1.0)
        before = factor[:, :, :now]
        there = before.gather(3, best[:, :, None].expand(-1, -1, now, -1))
        root = spread.gather(2, best).sqrt()
        column = (column - (there.mT @ before)[:, :, 0]) / root
        factor[:, :, now] = column
        answer -= column * (answer.gather(2, best) / root)
        spread -= column.square()
        # What those chosen give up to rounding has nothing of its own to add.
        spread.masked_fill_(spread <= least, torch.inf)
    return out


def _shrink_all(
    answer: Tensor, moment: Moments, damped: Tensor, chosen: Tensor
) -> tuple[Tensor, Tensor]:
    """Remove the inputs of each support one after the other.

    Parameters
    ----------
    answer
        Dense weights times the damped moment, at the support, ``(groups, rows, size)``.
    moment
        Not damped.
    damped
        Damping of each input, ``(groups, columns)``.
    chosen
        The supports, ``(groups, rows, size)``.

    Returns
    -------
    The step at which each input goes, and the cost of each step, both as large as ``chosen``.
    """
    size = chosen.shape[2]
    step, cost = torch.empty_like(chosen, dtype=torch.int32), torch.empty_like(answer)
    rank = moment.z.shape[2] if isinstance(moment, LowRank) else 0
    for here in _chunks(chosen.shape, 8 * size * max(_COPIES * size, rank)):
        index = chosen[here]
        group = torch.arange(len(index), device=index.device)[:, None, None]
        if isinstance(moment, LowRank):
            z = moment.z[here[0]][group, index].double()
            small = z @ z.mT
        else:
            small = moment[here[0]][group[..., None], index[..., None], index[:, :, None]].double()
        small.diagonal(dim1=2, dim2=3).add_(damped[here[0]][group, index])
        small = small.flatten(0, 1)
        inverse = torch.cholesky_inverse(cholesky(small)[0])
        weight = inverse @ answer[here].reshape(-1, size, 1)
        when, price = remove_all(weight.mT, DenseInverses(inverse, damped, 1))
        step[here], cost[here] = when.reshape(index.shape), price.reshape(index.shape)
    return step, cost
