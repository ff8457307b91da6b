"""One use of a weight matrix: what goes in and comes out, and where each image's part of it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.errors import UnsupportedError
from sparsight.networks.matrices import WeightMatrix

__all__ = [
    "ConvGeometry",
    "LayerCall",
    "LayerInput",
    "image_dimension",
    "images_first",
    "pad_input",
]


@dataclass(frozen=True)
class ConvGeometry:
    """How a convolution walks over its input: one entry per spatial dimension.

    ``padding`` holds zeros before and after, innermost dimension last; other padding modes
    arrive already padded and read as zero padding here.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    @property
    def pointwise(self) -> bool:
        """Whether every output sees one input position only."""
        return all(k == 1 for k in self.kernel) and not any(map(any, self.padding))

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Spatial size of the output for an input of spatial size ``size``.

        Examples
        --------
        >>> ConvGeometry((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)).output_size((8, 7))
        (4, 4)
        """
        return tuple(
            (length + sum(pads) - d * (k - 1) - 1) // s + 1
            for length, pads, k, d, s in zip(
                size, self.padding, self.kernel, self.dilation, self.stride, strict=True
            )
        )


@dataclass(frozen=True, eq=False)
class LayerInput:
    """What a weight matrix is about to be used on.

    Attributes
    ----------
    matrix
        Which one.
    input
        ``(N, C, *spatial)`` for convolutions, ``(..., columns)`` otherwise.
    bias
        What will be added to the product, ``(groups * rows,)``, if anything.
    geometry
        For convolutions.
    """

    matrix: WeightMatrix
    input: Tensor
    bias: Tensor | None = None
    geometry: ConvGeometry | None = None

    @property
    def batched(self) -> Tensor:
        """The input, with a batch dimension also where a convolution was called without."""
        lacks = self.geometry is not None and self.input.ndim == len(self.geometry.kernel) + 1
        return self.input[None] if lacks else self.input

    def planar(self) -> tuple[Tensor, ConvGeometry]:
        """Return the input of a convolution and its geometry with two spatial dimensions.

        One spatial dimension becomes two, the first of size one.
        """
        assert self.geometry is not None, "only convolutions have a geometry"
        x, geometry = self.batched, self.geometry
        if x.ndim == 3:
            x = x[:, :, None]
            geometry = ConvGeometry(
                (1, *geometry.kernel),
                (1, *geometry.stride),
                ((0, 0), *geometry.padding),
                (1, *geometry.dilation),
            )
        return x, geometry

    def planar_output(self, output: Tensor) -> Tensor:
        """Bring a convolution's output, or its gradient, to ``(N, C, height, width)``."""
        batched = output if output.ndim == self.batched.ndim else output[None]
        return batched if batched.ndim == 4 else batched[:, :, None]

    def columns(self) -> Tensor:
        """Return the input as the matrix sees it: ``(groups, columns, N * positions)``."""
        if self.geometry is None:
            return self.input.reshape(-1, self.matrix.columns).t()[None]
        x, geometry = self.planar()
        x = pad_input(x, geometry)
        unfolded = F.unfold(x, geometry.kernel, geometry.dilation, 0, geometry.stride)
        n, _, positions = unfolded.shape
        grouped = unfolded.reshape(n, self.matrix.groups, self.matrix.columns, positions)
        return grouped.permute(1, 2, 0, 3).reshape(self.matrix.groups, self.matrix.columns, -1)


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerCall(LayerInput):
    """One use of a weight matrix, done.

    Attributes
    ----------
    output
        What the operation returned, bias included: ``(N, C, *spatial)`` or ``(..., rows)``.
    """

    output: Tensor

    def squared_output(self) -> Tensor:
        """Squared norm of the product without the bias, summed over everything, a scalar."""
        product = self.output.detach()
        if self.bias is not None:
            spatial = len(self.geometry.kernel) if self.geometry is not None else 0
            product = product - self.bias.detach().reshape(-1, *[1] * spatial)
        wide = torch.float64 if product.dtype == torch.float64 else torch.float32
        norm: Tensor = torch.linalg.vector_norm(product, dtype=wide)
        return norm.double().square()


def image_dimension(shape: torch.Size, images: int, single: torch.Size) -> tuple[int, int]:
    """Find the dimension that holds the images, and how many of its entries each image has.

    It is the one in which the shape differs from ``single``, that of a call with one image.

    Raises
    ------
    UnsupportedError
        If there is none.
    """
    if images == 1:
        return 0, shape[0]
    if tuple(shape) == (images, *single):  # a single image was squeezed
        return 0, 1
    if len(shape) == len(single):
        for dimension, (now, then) in enumerate(zip(shape, single, strict=True)):
            if now == images * then and now != then:
                return dimension, then
    raise UnsupportedError(
        f"an input of shape {tuple(shape)} does not tell which part belongs to which "
        f"of {images} images"
    )


def images_first(x: Tensor, images: int, single: torch.Size) -> Tensor:
    """View ``(..., columns)`` as ``(images, positions, columns)``, see :func:`image_dimension`."""
    dimension, _ = image_dimension(x.shape, images, single)
    return x.movedim(dimension, 0).reshape(images, -1, x.shape[-1])


def pad_input(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Pad a convolution's input with zeros as its geometry says."""
    pads = [amount for pair in reversed(geometry.padding) for amount in pair]
    return F.pad(x, pads) if any(pads) else x
