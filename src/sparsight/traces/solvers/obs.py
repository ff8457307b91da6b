r"""Exact Optimal Brain Surgeon, one weight at a time: the solver of published SPADE.

A row that still has the entries ``A`` loses the entry ``q`` whose removal costs least, and the
others move (Hassibi & Stork 1993; row by row and over a whole layer, Frantar & Alistarh 2022):

.. math::

    \mathrm{cost} = \frac{w_q^2}{B_{qq}}, \qquad
    w \leftarrow w - \frac{w_q}{B_{qq}} B_{:,q}, \qquad
    B \leftarrow B - \frac{B_{:,q} B_{q,:}}{B_{qq}}, \qquad B = (H_{AA})^{-1}.

Every row is taken down to nothing. Of all costs of all rows the cheapest decide how many entries
each row loses. Weights need not be kept along the way: after any number of steps they are the
least-squares solution on what is left, so only order and costs are recorded, and
:mod:`sparsight.traces.solvers.refit` solves each row once on its final support.

All rows of a chunk take each step together. The inverse is downdated lazily: a step needs its
diagonal and one column, :math:`B_{:,q} - U U_q^\top` with ``U`` the updates not yet carried out;
after some steps they are carried out in one product, and removed entries leave the matrix. With
few samples, :math:`B = (I - Z M Z^\top) / \lambda` is known through ``M`` of the samples' size.
Float64 throughout: the costs of thousands of downdates are compared with one another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor

from sparsight.errors import NumericalError
from sparsight.traces.solvers.factor import LowRank, Moments, absolute_damping, cholesky
from sparsight.traces.solvers.magnitude import diagonal, largest
from sparsight.traces.solvers.refit import fit
from sparsight.traces.solvers.solution import Solution

__all__ = ["obs", "prepare_obs"]

_BYTES = 256 * 2**20  # of inverses held at a time
_COPIES = 3  # of an inverse, while removed entries leave it
_LAZY = 32  # downdates carried out together
_SAMPLES_BELOW = 4  # columns per sample from which samples are cheaper than the inverse
_ROUNDING = 1e-9  # a count that is whole up to this is not rounded up


def obs(
    weight: Tensor, moment: Moments, sparsity: float, block: int = 1, damping: float = 0.01
) -> Solution:
    """Remove weights one at a time, always the one whose loss the others make up for best.

    Takes about ``2/3 * rows * columns**3`` operations, whatever the sparsity.

    Parameters
    ----------
    weight
        ``(groups, rows, columns)``.
    moment
        Second moment of the inputs, or the samples behind it; its scale does not matter.
    sparsity
        Exactly ``ceil(sparsity * rows * columns)`` weights of each group are pruned, those of
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
        If the damped moment cannot be inverted.

    References
    ----------
    B. Hassibi, D. Stork: *Second Order Derivatives for Network Pruning: Optimal Brain Surgeon*,
    NeurIPS 1993. E. Frantar, D. Alistarh: *Optimal Brain Compression*, NeurIPS 2022.

    Examples
    --------
    Of two inputs that are always equal one is enough, if its weight takes over.

    >>> import torch
    >>> moment = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])
    >>> found = obs(torch.tensor([[[2.0, 1.0]]]), moment, 0.5, damping=1e-6)
    >>> found.weight.round(decimals=3)
    tensor([[[3., 0.]]])
    """
    if sparsity == 0:
        return Solution(weight.clone(), 0.0, 0.0)
    return prepare_obs(weight, moment, block, damping)(sparsity)


def prepare_obs(
    weight: Tensor, moment: Moments, block: int, damping: float
) -> Callable[[float], Solution]:
    """Remove all weights once; return what solves for a sparsity above 0. See :func:`obs`."""
    dead, ridge = absolute_damping(diagonal(moment), damping)
    order, step, cost = _removal(weight, moment, ridge, dead)
    _, rows, columns = weight.shape
    live = order.shape[1]

    def solve(sparsity: float) -> Solution:
        count = ceil(sparsity * rows * columns - _ROUNDING) - rows * (columns - live)
        chosen = ~largest(cost.flatten(1), rows * live - max(0, count))
        steps = chosen.reshape(cost.shape).sum(2, keepdim=True)
        keep = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
        keep.scatter_(2, order[:, None].expand(-1, rows, -1), step >= steps)
        return fit(weight, moment, keep & ~dead[:, None], ridge, dead)

    return solve


def _removal(
    weight: Tensor, moment: Moments, ridge: Tensor, dead: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Remove the weights of every row one at a time.

    Parameters
    ----------
    weight, moment
        As for :func:`obs`.
    ridge
        Absolute damping, ``(groups,)``.
    dead
        Inputs that are always zero, ``(groups, columns)``.

    Returns
    -------
    The inputs that are removed, ``(groups, live)``; the step at which each goes, and the cost of
    each step, ``(groups, rows, live)``.
    """
    groups, rows, _ = weight.shape
    live = max(1, int((~dead).sum(1).max()))
    # Live inputs first; groups with fewer of them keep some dead ones, which go at no cost.
    order = dead.byte().argsort(dim=1, stable=True)[:, :live]
    dense = weight.double().masked_fill(dead[:, None], 0)
    dense = dense.gather(2, order[:, None].expand(-1, rows, -1))
    make, source, row_bytes = _start(moment, order, ridge)
    step = torch.empty(dense.shape, dtype=torch.int32, device=weight.device)
    cost = torch.empty_like(dense)
    height = min(rows, max(1, _BYTES // row_bytes))
    depth = min(groups, max(1, _BYTES // (row_bytes * height)))
    for group in range(0, groups, depth):
        for row in range(0, rows, height):
            here = slice(group, group + depth), slice(row, row + height)
            part = dense[here]
            step[here], cost[here] = remove_all(
                part, make(source[here[0]], ridge[here[0]].double(), part.shape[1])
            )
    if not bool(torch.isfinite(cost).all()):
        raise NumericalError(
            "the second moments are not positive definite even in float64: raise the damping"
        )
    return order, step, cost


def _start(moment: Moments, order: Tensor, ridge: Tensor) -> tuple[type[_Inverses], Tensor, int]:
    """Choose how inverses are held, what they all start from, and what one row takes."""
    live = order.shape[1]
    if isinstance(moment, LowRank):
        rank = moment.z.shape[2]
        z = moment.z.double().gather(1, order[:, :, None].expand(-1, -1, rank))
        if rank * _SAMPLES_BELOW <= live:
            return _SampleInverses, z, 8 * (rank**2 + _LAZY * live)
        system = z @ z.mT
    else:
        system = moment.gather(1, order[:, :, None].expand(-1, -1, moment.shape[2]))
        system = system.gather(2, order[:, None, :].expand(-1, live, -1)).double()
    system.diagonal(dim1=1, dim2=2).add_(ridge.double()[:, None])
    inverse = torch.cholesky_inverse(cholesky(system)[0])
    return DenseInverses, inverse, 8 * live * (_COPIES * live + _LAZY)


def remove_all(dense: Tensor, inverses: _Inverses) -> tuple[Tensor, Tensor]:
    """Remove the entries of each row one after the other.

    Returns the step at which each entry goes, and the cost of each step; both have the shape of
    ``dense``, ``(groups, rows, entries)``.
    """
    left, spread = dense.clone(), inverses.spread.clone()
    gone = torch.zeros_like(dense, dtype=torch.bool)
    place = torch.arange(dense.shape[2], device=dense.device).expand(dense.shape)
    step = torch.empty(dense.shape, dtype=torch.int32, device=dense.device)
    cost = torch.empty_like(dense)
    for now in range(dense.shape[2]):
        if now and now % inverses.lazy == 0:
            alive = gone.byte().argsort(dim=2, stable=True)[:, :, : dense.shape[2] - now]
            left, spread, place, gone = (t.gather(2, alive) for t in (left, spread, place, gone))
            inverses.shrink(alive)
        cheapest = (left.square() / spread).masked_fill_(gone, torch.inf).min(2, keepdim=True)
        where = cheapest.indices
        column = inverses.column(where)
        root = column.gather(2, where).sqrt()
        update = column / root
        left -= update * (left.gather(2, where) / root)
        spread -= update.square()
        inverses.downdate(update)
        gone.scatter_(2, where, True)
        step.scatter_(2, place.gather(2, where), now)
        cost[:, :, now] = cheapest.values[:, :, 0]
    return step, cost


class _Inverses(ABC):
    """Inverses of the damped moment on what each row has left, for a chunk of rows.

    Attributes
    ----------
    lazy
        Removed entries leave after every so many steps.
    spread
        Diagonals at the start, ``(groups, rows, entries)``.
    """

    lazy: int
    spread: Tensor

    @abstractmethod
    def __init__(self, source: Tensor, ridge: Tensor, rows: int) -> None: ...

    @abstractmethod
    def column(self, where: Tensor) -> Tensor:
        """Return the column at ``where``, ``(groups, rows, 1)``, of each inverse."""

    @abstractmethod
    def downdate(self, update: Tensor) -> None:
        """Subtract the outer product of ``update``, ``(groups, rows, entries)``, with itself."""

    @abstractmethod
    def shrink(self, alive: Tensor) -> None:
        """Keep the entries ``alive``, ``(groups, rows, fewer entries)``."""


class DenseInverses(_Inverses):
    """Written out; equal rows share one until they first shrink."""

    lazy = _LAZY

    def __init__(self, source: Tensor, ridge: Tensor, rows: int) -> None:
        self._inverse = source[:, None].expand(-1, rows, -1, -1)
        self.spread = self._inverse.diagonal(dim1=2, dim2=3)
        self._groups = torch.arange(source.shape[0], device=source.device)[:, None]
        self._rows = torch.arange(rows, device=source.device)
        self._updates = source.new_empty(*self.spread.shape[:2], _LAZY, self.spread.shape[2])
        self._pending = 0

    def column(self, where: Tensor) -> Tensor:
        column = self._inverse[self._groups, self._rows, where[:, :, 0]]
        updates = self._updates[:, :, : self._pending]
        factors = updates.gather(3, where[:, :, None].expand(-1, -1, self._pending, -1))
        return column - (factors.mT @ updates)[:, :, 0]

    def downdate(self, update: Tensor) -> None:
        self._updates[:, :, self._pending] = update
        self._pending += 1

    def shrink(self, alive: Tensor) -> None:
        fewer = alive.shape[2]
        rows = self._inverse.gather(
            2, alive[..., None].expand(*alive.shape, self._inverse.shape[3])
        )
        inverse = rows.gather(3, alive[:, :, None].expand(-1, -1, fewer, -1))
        updates = self._updates.gather(3, alive[:, :, None].expand(-1, -1, _LAZY, -1))
        self._inverse = inverse - updates.mT @ updates
        self._updates = self._updates.new_empty(updates.shape)
        self._pending = 0


class _SampleInverses(_Inverses):
    """Through the samples, ``(I - Z M Z') / ridge``; all rows share ``Z``."""

    def __init__(self, source: Tensor, ridge: Tensor, rows: int) -> None:
        self.lazy = source.shape[1]
        self._z = source
        self._ridge = ridge[:, None, None]
        inner = source.mT @ source
        inner.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
        inner = torch.cholesky_inverse(cholesky(inner)[0])
        leverage = ((source @ inner) * source).sum(2)[:, None].expand(-1, rows, -1)
        self.spread = (1 - leverage) / self._ridge
        self._inner = inner[:, None].repeat(1, rows, 1, 1)
        self._vector = torch.empty(0)

    def column(self, where: Tensor) -> Tensor:
        index = where.expand(-1, -1, self._z.shape[2])
        sample = self._z.gather(1, index)
        vector = (self._inner @ sample[:, :, :, None])[:, :, :, 0]
        seen = vector @ self._z.mT
        pivot = 1 - seen.gather(2, where)
        self._vector = vector / pivot.sqrt()
        return seen.neg().scatter_(2, where, pivot) / self._ridge

    def downdate(self, update: Tensor) -> None:
        self._inner += self._vector[:, :, :, None] * self._vector[:, :, None, :]

    def shrink(self, alive: Tensor) -> None:
        raise AssertionError("never asked for: removed entries stay")
