"""What a solver answers, and how good it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Solution", "squared_output"]


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


def squared_output(weight: Tensor, moment: Tensor) -> float:
    r"""Squared output :math:`\|W X\|_F^2 = \mathrm{tr}(W X X^\top W^\top)`.

    Parameters
    ----------
    weight
        ``(groups, rows, columns)``.
    moment
        ``X X^T``, ``(groups, columns, columns)``.

    Examples
    --------
    >>> import torch
    >>> squared_output(torch.tensor([[[3.0, 4.0]]]), torch.eye(2)[None])
    25.0
    """
    return float((torch.matmul(weight, moment) * weight).sum().clamp_min(0))
