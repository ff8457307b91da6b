"""Images of a sweep, as they are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from sparsight.errors import InputError
from sparsight.networks import open_image

__all__ = ["Item", "Sample", "UnseenError"]

Sample = Image.Image | str | Path | Tensor | np.ndarray


class UnseenError(InputError):
    """A file that whoever began the sweep sees, and a worker does not."""


@dataclass(frozen=True, eq=False)
class Item:
    """One image of a sweep.

    Attributes
    ----------
    number
        Its place in the data set.
    name
        What to call it.
    sample
        A file, a PIL image, a normalised tensor, or an array ``(C, H, W)`` of uint8.
    label
        Its class, if known.
    there
        Whether the file was there when the sweep began.
    """

    number: int
    name: str
    sample: Sample
    label: int | None = None
    there: bool = False

    def open(self) -> Image.Image | Tensor:
        """Read the image.

        Raises
        ------
        InputError
            If it cannot be used.
        """
        if isinstance(self.sample, str | Path):
            if self.there and not Path(self.sample).is_file():
                raise UnseenError(
                    f"{self.sample} is not there, or no longer: give images that stay, and that "
                    "all machines see under the same name"
                )
            return open_image(self.sample)
        if isinstance(self.sample, np.ndarray):
            shape = self.sample.shape
            if len(shape) != 3 or shape[0] not in (1, 3) or self.sample.dtype != np.uint8:
                raise InputError(
                    f"an array of shape {shape}, {self.sample.dtype}: give uint8 (C, H, W) of one "
                    "channel or three"
                )
            pixels = self.sample.transpose(1, 2, 0)
            return Image.fromarray(pixels[..., 0] if shape[0] == 1 else pixels)
        return self.sample
