r"""Triangular factors of damped second moments, dense or through few samples.

Solvers work in reversed coordinates (last input first), where the factor they need is the
ordinary Cholesky factor of :math:`H = S + \lambda I = L L^\top`. They ask a factor three things:
its diagonal, its diagonal blocks, and what errors further down contribute to a block of columns,
:math:`\sum_{k \ge stop} L_{k,b}^\top E_k`.

With fewer samples than inputs, :math:`S = Z Z^\top` with ``Z`` of shape ``(columns, rank)``, and
``L`` need never be written out. Block by block, with :math:`M_b = I - Z_{<b}^\top (\lambda I +
Z_{<b} Z_{<b}^\top)^{-1} Z_{<b}`,

.. math::

    L_{bb} L_{bb}^\top = \lambda I + Z_b M_b Z_b^\top, \qquad
    L_{kb} = Z_k P_b, \quad P_b = M_b Z_b^\top L_{bb}^{-\top}, \qquad
    M_{b+1} = M_b - P_b P_b^\top,

so errors are gathered through :math:`\sum_k Z_k^\top E_k`, of shape ``(rank, rows)``: cost
``columns * rank^2`` instead of ``columns^3 / 3``, memory ``columns * rank`` instead of
``columns^2``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.errors import NumericalError

__all__ = ["Factor", "LowRank", "Moments", "absolute_damping", "cholesky", "factorise", "strips"]


@dataclass(frozen=True, eq=False)
class LowRank:
    """A second moment given by its samples: ``z @ z.mT`` with ``z (groups, columns, rank)``."""

    z: Tensor

    def dense(self) -> Tensor:
        """Write the second moment out, ``(groups, columns, columns)``."""
        return self.z @ self.z.mT


Moments = Tensor | LowRank
"""Second moments ``(groups, columns, columns)``, or the samples they come from."""


class Factor(ABC):
    """A lower triangular ``L`` with ``L L^T`` the damped second moment, in reversed order.

    Attributes
    ----------
    lazy
        Blocks are asked for in strips that start at multiples of this from the *last* column.
    scale
        Diagonal of ``L``, ``(groups, columns)``.
    dead
        Inputs that are always zero, ``(groups, columns)``, in reversed order.
    damping
        Absolute damping, ``(groups,)``.
    note
        What to tell the user about the factorisation.
    """

    lazy: int
    scale: Tensor
    dead: Tensor
    damping: Tensor
    note: str

    def begin(self) -> None:  # noqa: B027
        """Start to gather anew."""

    @abstractmethod
    def local(self, start: int, stop: int) -> Tensor:
        """Return the diagonal block of a strip, ``(groups, width, width)``."""

    @abstractmethod
    def gather(self, start: int, stop: int, error: Tensor) -> Tensor:
        """Sum what the errors from ``stop`` on contribute to a strip, ``(groups, width, rows)``.

        ``error`` is ``(groups, columns, rows)``; strips are asked for from last to first, after
        :meth:`begin`.
        """


def strips(columns: int, lazy: int) -> list[tuple[int, int]]:
    """Cut columns into strips of ``lazy``, counted from the last; the first may be narrower."""
    return [(max(0, stop - lazy), stop) for stop in range(columns, 0, -lazy)]


def factorise(moments: Moments, damping: float, lazy: int) -> Factor:
    """Add relative damping and factor, in float64 where float32 fails.

    Parameters
    ----------
    moments
        In the natural order of inputs; not changed.
    damping
        Relative to the mean diagonal over inputs that are not always zero.
    lazy
        Width of the strips.

    Raises
    ------
    NumericalError
        If the damped moment is not positive definite even in float64.
    """
    if isinstance(moments, LowRank):
        return _LowRankFactor(moments.z.flip(1), damping, lazy)
    return _DenseFactor(moments.flip(-2, -1), damping, lazy)


def absolute_damping(diagonal: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Find the inputs that are always zero, and the absolute damping of each group.

    ``diagonal`` is that of the moment, ``(groups, columns)``; the mean is over live inputs.
    """
    dead = diagonal <= 0
    mean = diagonal.sum(-1) / (~dead).sum(-1).clamp_min(1)
    return dead, damping * torch.where(mean > 0, mean, torch.ones_like(mean))


def cholesky(matrix: Tensor) -> tuple[Tensor, str]:
    """Factor in float64 where float32 fails, and say so in the second value.

    Raises
    ------
    NumericalError
        If the matrix is not positive definite even in float64.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    note = ""
    if bool((info != 0).any()) and matrix.dtype != torch.float64:
        factor, info = torch.linalg.cholesky_ex(matrix.double())
        note = "factorised in float64"
    if bool((info != 0).any()):
        raise NumericalError(
            "the second moments are not positive definite even in float64: raise the damping"
        )
    return factor, note


class _DenseFactor(Factor):
    """``L`` written out."""

    def __init__(self, reversed_moment: Tensor, damping: float, lazy: int) -> None:
        self.lazy = lazy
        diagonal = reversed_moment.diagonal(dim1=-2, dim2=-1)
        self.dead, self.damping = absolute_damping(diagonal, damping)
        diagonal.add_(self.damping[:, None])
        self._factor, self.note = cholesky(reversed_moment)
        self.scale = self._factor.diagonal(dim1=-2, dim2=-1)

    def local(self, start: int, stop: int) -> Tensor:
        return self._factor[:, start:stop, start:stop]

    def gather(self, start: int, stop: int, error: Tensor) -> Tensor:
        return self._factor[:, stop:, start:stop].mT @ error[:, stop:]


class _LowRankFactor(Factor):
    """``L`` through the samples; in float64, of which little is needed."""

    note = ""

    def __init__(self, z: Tensor, damping: float, lazy: int) -> None:
        self.lazy = lazy
        self._z = z
        self.dead, self.damping = absolute_damping(z.square().sum(-1), damping)
        groups, columns, rank = z.shape
        inner = torch.eye(rank, dtype=torch.float64, device=z.device).expand(groups, -1, -1)
        ridge = self.damping.double()[:, None, None]
        self._blocks: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for start, stop in reversed(strips(columns, lazy)):
            part = z[:, start:stop].double()
            mixed = inner @ part.mT
            eye = torch.eye(stop - start, dtype=torch.float64, device=z.device)
            local, _ = cholesky(part @ mixed + ridge * eye)
            reach = torch.linalg.solve_triangular(local, mixed.mT, upper=False).mT
            inner = inner - reach @ reach.mT
            self._blocks[start, stop] = (local.to(z.dtype), reach.to(z.dtype))
        parts = [local.diagonal(dim1=-2, dim2=-1) for local, _ in self._blocks.values()]
        self.scale = torch.cat(parts, -1)
        self.begin()

    def begin(self) -> None:
        self._gathered: Tensor | None = None
        self._reached = self._z.shape[1]

    def local(self, start: int, stop: int) -> Tensor:
        return self._blocks[start, stop][0]

    def gather(self, start: int, stop: int, error: Tensor) -> Tensor:
        new = self._z[:, stop : self._reached].mT @ error[:, stop : self._reached]
        self._gathered = new if self._gathered is None else self._gathered + new
        self._reached = stop
        return self._blocks[start, stop][1].mT @ self._gathered
