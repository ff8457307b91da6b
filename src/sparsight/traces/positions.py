"""Which positions of which images a layer is fitted on, and how to read them out of a call.

A layer multiplies one column per output position. Sparse rows have few unknowns, so a small share
of the positions decides them: of each image evenly many, spread over its positions at random,
one per stratum. The sample itself, image 0, may weigh more than its views.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsight.networks import LayerCall, LayerInput, images_first

__all__ = ["Positions", "draw", "inputs_at", "outputs_at", "wide"]


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions of a layer's calls, in the order of images.

    Attributes
    ----------
    image, position
        ``(positions,)``, int64: which image of the batch, which position of the image.
    weight
        ``(positions,)``, float32: share of each in the fit; sums to 1.
    """

    image: Tensor
    position: Tensor
    weight: Tensor

    def of(self, start: int, stop: int, device: torch.device) -> Positions:
        """Return those of images ``start`` to ``stop``, as numbered in a batch of these alone."""
        low, high = torch.searchsorted(self.image, torch.tensor([start, stop])).tolist()
        image = self.image[low:high] - start
        position, weight = self.position[low:high], self.weight[low:high]
        return Positions(image.to(device), position.to(device), weight.to(device))


def draw(
    per_image: int, images: int, count: int, focus: float, generator: torch.Generator
) -> Positions:
    """Spread about ``count`` positions over images: half on the sample, half on its views.

    Parameters
    ----------
    per_image
        How many positions an image has.
    images
        How many images there are; the first is the sample itself.
    count
        How many positions to draw, if there are as many.
    focus
        Share of the weight on the first image, in [0, 1].
    generator
        On the CPU.

    Examples
    --------
    >>> import torch
    >>> drawn = draw(100, 3, 8, 0.5, torch.Generator().manual_seed(0))
    >>> drawn.image.tolist(), float(drawn.weight[:4].sum())
    ([0, 0, 0, 0, 1, 1, 2, 2], 0.5)
    """
    others = images - 1
    focus = focus if others else 1.0
    first = min(per_image, -(-count // 2)) if focus > 0 else 0
    each = min(per_image, -(-(count - first) // others)) if others else 0
    amounts = torch.full((images,), each)
    amounts[0] = first
    image = torch.arange(images).repeat_interleave(amounts)
    stratum = torch.arange(len(image)) - (amounts.cumsum(0) - amounts)[image]
    size = per_image / amounts[image]
    low, high = (stratum * size).ceil(), ((stratum + 1) * size).ceil()
    jitter = torch.rand(len(image), generator=generator)
    position = (low + jitter * (high - low)).floor().clamp_max(per_image - 1).long()
    weight = torch.where(image == 0, focus / max(first, 1), (1 - focus) / max(each * others, 1))
    return Positions(image, position, weight / weight.sum())


def wide(x: Tensor) -> Tensor:
    """Return the values in float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def outputs_at(call: LayerCall, where: Positions, images: int, single: torch.Size) -> Tensor:
    """Read a layer's products, without the bias, at some positions.

    Parameters
    ----------
    call
        A call with a batch of ``images`` images.
    where
        Positions, images numbered as in the batch.
    images
        Number of images in the batch.
    single
        Shape of the layer's *output* for one image.

    Returns
    -------
    Tensor
        ``(groups, positions, rows)``.
    """
    output, image, position = call.output.detach(), where.image, where.position
    if call.geometry is None:
        found = images_first(output, images, single)[image, position]
    else:
        last = output.movedim(1 if output.ndim == call.batched.ndim else 0, -1)
        flat = last.reshape(-1, last.shape[-1])
        found = flat.index_select(0, image * (len(flat) // images) + position)
    found = wide(found)
    if call.bias is not None:
        found = found - wide(call.bias.detach())
    return found.reshape(len(found), call.matrix.groups, call.matrix.rows).transpose(0, 1)


def inputs_at(use: LayerInput, where: Positions, images: int, single: torch.Size) -> Tensor:
    """Read the columns that a layer multiplies at some positions.

    Parameters
    ----------
    use, where, images
        As in :func:`outputs_at`.
    single
        Shape of the layer's *input* for one image.

    Returns
    -------
    Tensor
        ``(groups, positions, columns)``.
    """
    matrix, image, position = use.matrix, where.image, where.position
    if use.geometry is None:
        return wide(images_first(use.input.detach(), images, single)[image, position])[None]
    x, geometry = use.planar()
    height, width = geometry.output_size(x.shape[2:])
    each = len(x) // images * height * width  # several convolved pictures may make one image
    row = image * each + position
    start = [
        step * coordinate - pads[0]
        for step, coordinate, pads in zip(
            geometry.stride, (row // width % height, row % width), geometry.padding, strict=True
        )
    ]
    vertical, horizontal = (
        first[:, None] + dilation * torch.arange(taps, device=first.device)
        for first, dilation, taps in zip(start, geometry.dilation, geometry.kernel, strict=True)
    )
    inside = ((vertical >= 0) & (vertical < x.shape[2]))[:, :, None]
    inside = inside & ((horizontal >= 0) & (horizontal < x.shape[3]))[:, None, :]
    line = (row // (height * width))[:, None] * x.shape[2] + vertical.clamp(0, x.shape[2] - 1)
    index = line[:, :, None] * x.shape[3] + horizontal.clamp(0, x.shape[3] - 1)[:, None, :]
    pixels = x.detach().movedim(1, -1).reshape(-1, x.shape[1])
    found = wide(pixels.index_select(0, index.flatten()))
    found = found.reshape(len(row), -1, matrix.groups, matrix.columns // inside[0].numel())
    if any(map(any, geometry.padding)):
        found = found * inside.reshape(len(row), -1, 1, 1)
    return found.permute(2, 0, 3, 1).reshape(matrix.groups, len(row), matrix.columns)
