"""In which precision the network runs while a trace is made; what is solved never runs in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from sparsight.errors import InputError

__all__ = ["PRECISIONS", "in_full", "run_in"]

PRECISIONS = ("full", "bfloat16")
"""``full`` is the network's own."""

P = ParamSpec("P")
R = TypeVar("R")


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


def in_full(watch: Callable[P, R]) -> Callable[P, R]:
    """Let a function compute as if it were not called from within such a block."""

    @wraps(watch)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((a.input.device.type for a in args if hasattr(a, "input")), "cpu")
        with torch.autocast(device, enabled=False):
            return watch(*args, **kwargs)

    return inner
