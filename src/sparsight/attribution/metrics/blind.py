"""Maps that know no network: what a metric gives to chance, to the centre and to edges.

A map is worth as much as it is better than these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.attribution.metrics.inputs import checked_images

__all__ = ["BLIND", "centre_map", "edge_map", "random_map"]


def random_map(image: Tensor, seed: int = 0) -> Tensor:
    """Draw independent uniform numbers in [0, 1).

    Parameters
    ----------
    image
        ``(N, C, H, W)``; only its shape matters.
    seed
        Of the first image; image ``i`` is drawn with ``seed + i``, so images differ.

    Returns
    -------
    Tensor
        ``(N, H, W)`` float32 on the image's device.

    Raises
    ------
    InputError
        Another shape, NaN or infinite values.

    Examples
    --------
    >>> random_map(torch.zeros(2, 3, 4, 5)).shape
    torch.Size([2, 4, 5])
    """
    x = checked_images(_nobody, image)
    maps = torch.empty(len(x), *x.shape[-2:])
    for index, one in enumerate(maps):
        one.uniform_(generator=torch.Generator().manual_seed(seed + index))
    return maps.to(x.device)


def centre_map(image: Tensor, seed: int = 0) -> Tensor:
    """Minus the squared distance from the centre, shifted and scaled: 1 there, 0 in the corners.

    Positive, so that shares of positive relevance are defined too.

    Parameters
    ----------
    image
        ``(N, C, H, W)``; only its shape matters.
    seed
        Ignored; there so that all blind maps are called alike.

    Returns
    -------
    Tensor
        ``(N, H, W)`` float32 on the image's device.

    Raises
    ------
    InputError
        Another shape, NaN or infinite values.

    Examples
    --------
    >>> centre_map(torch.zeros(1, 3, 3, 3))[0].tolist()
    [[0.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 0.0]]
    """
    x = checked_images(_nobody, image)
    height, width = x.shape[-2:]
    down, right = (
        (torch.arange(length, dtype=torch.float64) - (length - 1) / 2).square()
        for length in (height, width)
    )
    distance = down[:, None] + right
    near = 1 - distance / distance.amax().clamp(min=1e-12)
    return near.to(x.device, torch.float32).expand(len(x), -1, -1).clone()


def edge_map(image: Tensor, seed: int = 0) -> Tensor:
    """Magnitude of the Sobel gradient of the grey image, the mean of its channels.

    The border repeats its pixels, so the frame of an image is no edge.

    Parameters
    ----------
    image
        ``(N, C, H, W)``; values in [0, 1] give the edges that the eye sees.
    seed
        Ignored.

    Returns
    -------
    Tensor
        ``(N, H, W)`` float32 on the image's device, 0 or more.

    Raises
    ------
    InputError
        Another shape, NaN or infinite values.

    References
    ----------
    Adebayo et al., *Sanity Checks for Saliency Maps*, NeurIPS 2018, arXiv:1810.03292.

    Examples
    --------
    >>> step = torch.tensor([0.0, 0.0, 1.0]).expand(1, 3, 3, 3)
    >>> edge_map(step)[0, 1].tolist()
    [0.0, 4.0, 4.0]
    """
    x = checked_images(_nobody, image)
    grey = F.pad(x.double().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")[:, 0]
    smooth_down = grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
    smooth_right = grey[..., :-2] + 2 * grey[..., 1:-1] + grey[..., 2:]
    across = smooth_down[..., 2:] - smooth_down[..., :-2]
    along = smooth_right[:, 2:] - smooth_right[:, :-2]
    return torch.hypot(across, along).float()


def _nobody(image: Tensor) -> Tensor:
    """Stand in for a network where there is none."""
    return image


BLIND: Mapping[str, Callable[[Tensor, int], Tensor]] = MappingProxyType(
    {"random": random_map, "centre": centre_map, "edge": edge_map}
)
"""Blind maps by name; each is called as ``draw(image, seed)``."""
