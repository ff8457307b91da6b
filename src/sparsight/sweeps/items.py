"""Images of a sweep, as they are given."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from sparsight.datasets.pixels import bytes_of
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
    stamp
        Of a file its size and time when the sweep began, nothing if it was not there; of other
        samples their digest.
    """

    number: int
    name: str
    sample: Sample
    label: int | None = None
    stamp: str = ""

    @classmethod
    def of(cls, number: int, sample: Sample, label: int | None) -> Item:
        """Name a sample and stamp it."""
        if not isinstance(sample, str | Path):
            kind = f"{sample.mode} {sample.size}" if isinstance(sample, Image.Image) else ""
            digest = hashlib.sha256(kind.encode() + bytes_of(sample)).hexdigest()
            return cls(number, f"image {number}", sample, label, digest)
        name = str(sample).encode("utf-8", "replace").decode()
        file = Path(os.path.abspath(sample))  # workers may be somewhere else
        stamp = ""
        if file.is_file():
            stat = file.stat()
            stamp = f"{stat.st_size} {stat.st_mtime_ns}"
        return cls(number, name, file, label, stamp)

    def digest(self) -> str:
        """Digest what is there: SHA-256, nothing of a file that cannot be read."""
        if not isinstance(self.sample, Path):
            return self.stamp
        try:
            with self.sample.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError:
            return ""

    def unchanged(self, stamp: str, digest: str) -> bool:
        """Say whether the sample is what it was; a file that went away, as far as it can be told.

        Parameters
        ----------
        stamp, digest
            Of the sample as it was.
        """
        return not self.stamp or self.stamp == stamp or self.digest() == digest

    def open(self) -> Image.Image | Tensor:
        """Read the image.

        Raises
        ------
        InputError
            If it cannot be used.
        """
        if isinstance(self.sample, str | Path):
            if self.stamp and not Path(self.sample).is_file():
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
