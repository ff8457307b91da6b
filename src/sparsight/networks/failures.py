"""What went wrong: the network, or the machine that it runs on."""

from __future__ import annotations

import torch

__all__ = ["failed_machine"]

_SIGNS = ("allocate memory", "out of memory", "not enough memory", "CUDA error")


def failed_machine(error: Exception) -> bool:
    """Say whether memory ran out or a device failed, which is no fault of a network.

    Torch has a class of errors for the memory of a GPU, but none for that of a processor.

    Examples
    --------
    >>> failed_machine(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    >>> failed_machine(RuntimeError("shape '[1, 3]' is invalid for input of size 6"))
    False
    """
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _SIGNS)
