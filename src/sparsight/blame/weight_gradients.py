"""Sums of absolute weight gradients, for each image of a batch its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from sparsight.networks import LayerInput, images_first
from sparsight.networks.calls import pad_input
from sparsight.networks.watching import wide

__all__ = ["sums_of_gradients"]

_CACHE = 2**18  # weight gradients at a time on a CPU: they stay in its cache
_DEVICE = 2**27
_TOGETHER = 2**24  # products of a layer, above which each image's convolution is fast by itself


def sums_of_gradients(
    uses: Sequence[tuple[LayerInput, Tensor]],
    images: int,
    single: tuple[torch.Size, torch.Size],
    axes: Sequence[str],
) -> dict[str, Tensor]:
    """Sum the absolute gradients of a weight matrix over its rows, or over its columns.

    Parameters
    ----------
    uses
        Every use of the matrix in one pass, with the gradient of its output; their gradients are
        added before absolute values are taken.
    images
        In the batch.
    single
        Shapes of input and output for one image.
    axes
        ``rows``, ``columns``, or both; of convolutions rows alone.

    Returns
    -------
    dict
        ``(images, groups, rows)`` and ``(images, groups, columns)``, by axis.
    """
    if uses[0][0].geometry is None:
        x = torch.cat([images_first(wide(use.input), images, single[0]) for use, _ in uses], 1)
        g = torch.cat([images_first(wide(back), images, single[1]) for _, back in uses], 1)
        return _absolute_sums(g[:, None], x[:, None], axes)
    if len(uses) == 1:
        return {"rows": _convolved(uses[0][0], wide(uses[0][1]), images)}
    pairs = [_unfolded(use, wide(back), images) for use, back in uses]
    g, x = (torch.cat(parts, 2) for parts in zip(*pairs, strict=True))
    return _absolute_sums(g, x, axes)


def _absolute_sums(g: Tensor, x: Tensor, axes: Sequence[str]) -> dict[str, Tensor]:
    """Sum absolute weight gradients over columns and over rows, never holding many of them.

    ``g`` is ``(images, groups, positions, rows)``, ``x`` is ``(images, groups, positions,
    columns)``; the results are ``(images, groups, rows)`` and ``(images, groups, columns)``.
    """
    if g.shape[2] == 1:  # an outer product: the sum of absolute values splits
        left, right = g[:, :, 0].abs(), x[:, :, 0].abs()
        both = {"rows": left * right.sum(2, True), "columns": right * left.sum(2, True)}
        return {axis: both[axis] for axis in axes}
    images, groups, _, rows = g.shape
    columns = x.shape[3]
    limit = _CACHE if g.device.type == "cpu" else _DEVICE
    few = max(1, limit // (groups * rows * columns))
    block = rows if few > 1 else max(1, limit // (groups * columns))
    lengths = {"rows": rows, "columns": columns}
    found = {axis: g.new_zeros(images, groups, lengths[axis]) for axis in axes}
    for start in range(0, images, few):
        some = slice(start, start + few)
        for first in range(0, rows, block):
            part = slice(first, first + block)
            gradient = (g[some, :, :, part].mT @ x[some]).abs_()
            if "rows" in found:
                found["rows"][some, :, part] = gradient.sum(3)
            if "columns" in found:
                found["columns"][some] += gradient.sum(2)
    return found


def _convolved(use: LayerInput, gradient: Tensor, images: int) -> Tensor:
    """Sum absolute gradients over each filter of a convolution: ``(images, groups, rows)``.

    The gradient of a convolution's weights is a convolution itself. Images of a batch become groups
    of channels, as many at a time as are worth it: of large layers each goes alone.
    """
    matrix = use.matrix
    planar, geometry = use.planar()
    x, g = pad_input(wide(planar), geometry), use.planar_output(gradient)
    pictures = len(x) // images
    few = max(1, _TOGETHER // (pictures * g[0].numel() * matrix.columns))
    sums = []
    for some, back in zip(x.split(few * pictures), g.split(few * pictures), strict=True):
        together = len(some) // pictures
        size = together * matrix.units, some.shape[1] // matrix.groups, *geometry.kernel
        found = conv2d_weight(
            _as_groups(some, pictures), size, _as_groups(back, pictures),
            stride=geometry.stride, dilation=geometry.dilation, groups=together * matrix.groups,
        )  # fmt: skip
        sums.append(found.abs_().sum((1, 2, 3)).reshape(together, matrix.groups, matrix.rows))
    return torch.cat(sums)


def _as_groups(x: Tensor, pictures: int) -> Tensor:
    """Bring ``(images * pictures, C, H, W)`` to ``(pictures, images * C, H, W)``."""
    if len(x) == pictures:
        return x
    split = x.reshape(-1, pictures, *x.shape[1:]).transpose(0, 1)
    return split.reshape(pictures, -1, *x.shape[2:])


def _unfolded(use: LayerInput, gradient: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Gradient and unfolded input, ``(images, groups, positions, rows or columns)``."""
    planar, geometry = use.planar()
    padded = pad_input(wide(planar), geometry)
    columns = F.unfold(padded, geometry.kernel, geometry.dilation, 0, geometry.stride)
    both = use.planar_output(gradient).permute(0, 2, 3, 1), columns.mT[:, None]
    g, x = (_by_image(part, images, use.matrix.groups) for part in both)
    return g, x


def _by_image(x: Tensor, images: int, groups: int) -> Tensor:
    """Bring pictures ``(N, H, W, C)`` to ``(images, groups, positions, C per group)``."""
    return x.reshape(images, -1, groups, x.shape[3] // groups).transpose(1, 2)
