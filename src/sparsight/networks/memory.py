"""How a batch of images lies in memory: channels last is faster, where a network takes it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["memory_layout"]


def memory_layout(answer: Callable[[Tensor], object], images: Tensor) -> torch.memory_format:
    """Say in which layout a network answers many images fastest.

    Convolutions are faster by a fifth to a half with channels last. A network that reads its
    features by :meth:`torch.Tensor.view` refuses them, and is asked in the usual layout.

    Parameters
    ----------
    answer
        The network, or a function from images to answers. It is asked once, about two images.
    images
        ``(N, C, H, W)``, one or more; the first is asked about.

    Returns
    -------
    torch.memory_format
        ``torch.channels_last`` or ``torch.contiguous_format``.

    Examples
    --------
    >>> x = torch.rand(1, 3, 8, 8)
    >>> convolution = torch.nn.Conv2d(3, 4, 3)
    >>> memory_layout(convolution, x)
    torch.channels_last
    >>> memory_layout(lambda batch: convolution(batch).view(len(batch), -1), x)
    torch.contiguous_format
    """
    two = images[:1].detach().expand(2, -1, -1, -1)
    try:
        with torch.no_grad():
            answer(two.contiguous(memory_format=torch.channels_last))
    except RuntimeError as error:
        if "contiguous" not in str(error):
            raise
        return torch.contiguous_format
    return torch.channels_last
