"""What a solver answers, and how good it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Solution", "relative_error"]


@dataclass(frozen=True, eq=False)
class Solution:
    """A sparse weight matrix.

    Attributes
    ----------
    weight
        ``(groups, rows, columns)``, in the dtype of the dense weight.
    damping
        What was added to the diagonal of the moment, per group (absolute), averaged.
    note
        What the reader must know: dead inputs, a change of precision.
    """

    weight: Tensor
    damping: float
    note: str = ""


def relative_error(weight: Tensor, sparse: Tensor, moment: Tensor) -> float:
    r"""Relative output error :math:`\|(W - \hat W) X\|_F / \|W X\|_F` on the recorded inputs.

    Parameters
    ----------
    weight, sparse
        Dense and sparse weight, ``(groups, rows, columns)``.
    moment
        ``X X^T``, ``(groups, columns, columns)``.

    Examples
    --------
    >>> import torch
    >>> w = torch.tensor([[[3.0, 4.0]]])
    >>> relative_error(w, torch.tensor([[[3.0, 0.0]]]), torch.eye(2)[None])
    0.800000011920929
    """
    difference = weight - sparse
    lost = (torch.matmul(difference, moment) * difference).sum().clamp_min(0)
    total = (torch.matmul(weight, moment) * weight).sum().clamp_min(0)
    if total == 0:
        return 0.0
    return float((lost / total).sqrt())
