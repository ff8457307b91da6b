"""What a solver answers, and how good it is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Solution"]


@dataclass(frozen=True, eq=False)
class Solution:
    r"""A sparse weight matrix.

    Attributes
    ----------
    weight
        ``(groups, rows, columns)``, in the dtype of the dense weight.
    lost
        Squared output error on the recorded inputs, :math:`\|(W - \hat W) X\|_F^2`.
    damping
        What was added to the diagonal of the moment (absolute, mean over groups).
    note
        What the reader must know: dead inputs, a change of precision.
    """

    weight: Tensor
    lost: float
    damping: float
    note: str = ""
