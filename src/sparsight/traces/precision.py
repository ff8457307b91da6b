"""In which precision the network runs while a trace is made; what is solved never runs in it."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from sparsight.errors import InputError

__all__ = ["PRECISIONS", "in_full", "run_in"]

PRECISIONS = ("full", "bfloat16")
"""``full`` is the network's own."""


def run_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a block in which convolutions and products of the network run in a precision.

    Parameters
    ----------
    precision
        One of :data:`PRECISIONS`.
    device
        The network's.

    Raises
    ------
    InputError
        If there is no such precision.

    Examples
    --------
    >>> x = torch.eye(2)
    >>> with run_in("bfloat16", x.device):
    ...     (x @ x).dtype
    torch.bfloat16
    """
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def in_full(device: torch.device) -> AbstractContextManager[object]:
    """Return a block that computes as if it were not within one of :func:`run_in`."""
    return torch.autocast(device.type, enabled=False)
