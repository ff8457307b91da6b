"""Colours as photographs have them: correlated channels, and less energy at finer scales."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["COLOURS", "correlate", "frequencies"]

COLOURS = (
    (0.9662, -0.2342, -0.0795),
    (0.96, -0.0168, 0.1449),
    (0.9658, 0.251, -0.0645),
)
"""Square root of the covariance of red, green and blue over photographs, its rows scaled such that
the longest has length 1 (``benchmarks/photo_statistics.py``)."""


def correlate(image: Tensor) -> Tensor:
    """Turn three independent channels into red, green and blue that go together.

    Networks with another number of channels get theirs as they are.

    Parameters
    ----------
    image
        ``(N, C, H, W)``.

    Examples
    --------
    >>> grey = correlate(torch.ones(1, 3, 1, 1)).flatten()
    >>> bool((grey.max() - grey.min()) < 0.5 * grey.max())
    True
    """
    if image.shape[1] != 3:
        return image
    return torch.einsum("ck,nkhw->nchw", torch.tensor(COLOURS).to(image), image)


def frequencies(height: int, width: int) -> Tensor:
    """Return the frequency of every entry of a real Fourier transform, in cycles per pixel.

    Returns
    -------
    Tensor
        ``(height, width // 2 + 1)``; the constant has that of the slowest wave.
    """
    rows = torch.fft.fftfreq(height)[:, None]
    columns = torch.fft.rfftfreq(width)[None]
    found: Tensor = (rows.square() + columns.square()).sqrt()
    return found.clamp_min(1 / max(height, width))
