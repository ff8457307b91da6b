"""Random moves of the image under optimisation, so that no finding hangs on one pixel."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import log, pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsight.errors import InputError

__all__ = ["Robustness"]


@dataclass(frozen=True)
class Robustness:
    """How an image is moved before the network sees it, anew in every step.

    All lengths are shares of the image's size, so that 32 pixels are treated like 224. One
    transformation per image does everything at once.

    Attributes
    ----------
    pad
        Grey border that a view may reach into.
    jitter
        Largest shift.
    scale
        Least and largest factor of size.
    rotate
        Largest turn, in degrees.

    Examples
    --------
    >>> images = torch.rand(2, 3, 32, 32)
    >>> Robustness()(images, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 32, 32])
    >>> bool(torch.equal(Robustness.none()(images, torch.Generator()), images))
    True
    """

    pad: float = 0.06
    jitter: float = 0.07
    scale: tuple[float, float] = (0.9, 1.15)
    rotate: float = 8.0

    def __post_init__(self) -> None:
        if not 0 <= self.pad <= 1 or not 0 <= self.jitter <= 1:
            raise InputError(
                f"pad {self.pad} and jitter {self.jitter} are shares of the image: between 0 and 1"
            )
        if not 0 < self.scale[0] <= self.scale[1] < float("inf"):
            raise InputError(f"scale {self.scale} must rise and be positive: (0.9, 1.1) is usual")
        if not 0 <= self.rotate <= 180:
            raise InputError(f"rotate {self.rotate} must lie in [0, 180] degrees: 8 is usual")

    @classmethod
    def none(cls) -> Robustness:
        """Return one that leaves images as they are."""
        return cls(0.0, 0.0, (1.0, 1.0), 0.0)

    def describe(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Move each image by a draw of its own.

        Parameters
        ----------
        images
            ``(N, C, H, W)`` in [0, 1]; differentiable.
        generator
            On the CPU.

        Returns
        -------
        Tensor
            Of the same shape.
        """
        if self == Robustness.none():
            return images
        height, width = images.shape[2:]
        drawn = torch.rand((4, len(images)), generator=generator)
        low, high = (log(s) for s in self.scale)
        zoom = (low + (high - low) * drawn[0]).exp()
        turn = (2 * drawn[1] - 1) * self.rotate * pi / 180
        shift = 2 * self.jitter * (2 * drawn[2:] - 1)
        cosine, sine = turn.cos() / zoom, turn.sin() / zoom
        aspect = height / width
        places = torch.stack(
            [
                torch.stack([cosine, -sine * aspect, shift[0]], 1),
                torch.stack([sine / aspect, cosine, shift[1]], 1),
            ],
            1,
        )
        border = round(self.pad * width), round(self.pad * height)
        room = torch.tensor([1 + 2 * border[0] / width, 1 + 2 * border[1] / height])
        grid = F.affine_grid(places.to(images), list(images.shape), align_corners=False)
        padded = F.pad(images, (border[0],) * 2 + (border[1],) * 2, value=0.5)
        return F.grid_sample(
            padded, grid / room.to(grid), padding_mode="reflection", align_corners=False
        )
