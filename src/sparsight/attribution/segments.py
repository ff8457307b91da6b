"""Superpixels without a further dependency: k-means on colour and position."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsight.errors import InputError

__all__ = ["superpixels"]


def superpixels(
    image: Tensor, count: int = 50, compactness: float = 4.0, iterations: int = 10
) -> Tensor:
    r"""Divide an image into patches of like colour.

    Lloyd iterations on :math:`d^2 = \|\Delta c\|^2 / \sigma^2 + m\,\|\Delta p\|^2 / S^2`, where
    :math:`S` is the spacing of the starting grid and :math:`\sigma` the colours' deviation: SLIC
    (Achanta et al., TPAMI 2012) without its search window and without its last step, so a segment
    need not be connected. No random numbers: centres start on a grid.

    Parameters
    ----------
    image
        ``(C, H, W)``.
    count
        Segments to start with; empty ones vanish.
    compactness
        ``m``: 0 looks at colour alone, large values give a plain grid.
    iterations
        Lloyd iterations.

    Returns
    -------
    Tensor
        ``(H, W)`` int64 labels ``0 .. K-1``, each occurring, ``K <= count`` rounded to a grid.

    Raises
    ------
    InputError
        If fewer than two segments are asked for, or more than there are pixels.

    Examples
    --------
    >>> image = torch.zeros(3, 8, 8)
    >>> image[:, :, 4:] = 1
    >>> labels = superpixels(image, 2, compactness=0.1)
    >>> bool((labels[:, :4] == labels[0, 0]).all()), int(labels.max())
    (True, 1)
    """
    channels, height, width = image.shape
    if not 2 <= count <= height * width:
        raise InputError(
            f"{count} segments asked of an image with {height * width} pixels: ask for 2 or more, "
            "and no more than pixels"
        )
    columns = max(1, min(width, round((count * width / height) ** 0.5)))
    rows = max(1, min(height, round(count / columns)))
    spacing = (height * width / (rows * columns)) ** 0.5
    colours = image.detach().cpu().double()
    deviation = colours.flatten(1).std(1).square().mean().sqrt().clamp_min(1e-12)
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64),
        torch.arange(width, dtype=torch.float64),
        indexing="ij",
    )
    scale = compactness**0.5 / spacing
    points = torch.cat([colours / deviation, (y * scale)[None], (x * scale)[None]])
    at_y = ((torch.arange(rows) + 0.5) * height / rows).long()
    at_x = ((torch.arange(columns) + 0.5) * width / columns).long()
    centres = points[:, at_y][:, :, at_x].reshape(channels + 2, -1).T
    points = points.reshape(channels + 2, -1).T
    labels = torch.cdist(points, centres).argmin(1)
    for _ in range(iterations):
        member = torch.nn.functional.one_hot(labels, len(centres)).double()
        sizes = member.sum(0)[:, None]
        centres = torch.where(sizes > 0, member.T @ points / sizes.clamp_min(1), centres)
        labels = torch.cdist(points, centres).argmin(1)
    consecutive: Tensor = labels.unique(return_inverse=True)[1]
    return consecutive.reshape(height, width)
