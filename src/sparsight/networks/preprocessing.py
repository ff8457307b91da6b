"""From an image file to the tensor that a network was trained on, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from sparsight.errors import InputError

__all__ = ["Preprocessing", "to_unit"]

_INTERPOLATIONS = {mode.value: mode for mode in InterpolationMode}


def to_unit(image: Image.Image, channels: int = 3) -> Tensor:
    """Turn a PIL image into values in [0, 1].

    Parameters
    ----------
    image
        Any mode that Pillow converts to RGB or L without loss of meaning.
    channels
        1 (grey) or 3 (RGB).

    Returns
    -------
    Tensor
        Shape ``(channels, height, width)``, float32, range [0, 1].

    Raises
    ------
    InputError
        If the image is smaller than 2 x 2 pixels, or of an integer or float mode whose
        value range is unknown.

    Examples
    --------
    >>> from PIL import Image
    >>> to_unit(Image.new("RGB", (4, 3), (255, 0, 0))).shape
    torch.Size([3, 3, 4])
    """
    if min(image.size) < 2:
        raise InputError(
            f"the image is {image.width}x{image.height} pixels: nothing to explain; "
            "give one of at least 2x2"
        )
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        raise InputError(
            f"image mode {image.mode!r} has no fixed value range: convert it to 8-bit RGB first"
        )
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        flat = Image.new("RGBA", image.size, "white")
        flat.alpha_composite(image.convert("RGBA"))
        image = flat
    image = image.convert("RGB" if channels == 3 else "L")
    pixels: Tensor = transforms.pil_to_tensor(image)
    return pixels.float() / 255


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its images, as its own source configures it.

    Attributes
    ----------
    size
        Height and width of the network's input frame, in pixels.
    resize
        Length of the shorter side before the centre crop, or ``None`` to resize straight to
        ``size`` without keeping the aspect ratio.
    mean, std
        Per-channel normalisation of values in [0, 1].
    interpolation
        ``nearest``, ``bilinear`` or ``bicubic``.
    """

    size: tuple[int, int]
    resize: int | None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return len(self.mean)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(self.mean, dtype=like.dtype, device=like.device)
        std = torch.tensor(self.std, dtype=like.dtype, device=like.device)
        return mean[:, None, None], std[:, None, None]

    def normalize(self, unit: Tensor) -> Tensor:
        """Map values in [0, 1], shape ``(..., C, H, W)``, to the network's range."""
        mean, std = self._statistics(unit)
        return (unit - mean) / std

    def denormalize(self, x: Tensor) -> Tensor:
        """Undo :meth:`normalize`; values are clamped to [0, 1]."""
        mean, std = self._statistics(x)
        return (x * std + mean).clamp(0, 1)

    def frame(self, unit: Tensor) -> Tensor:
        """Resize and crop values in [0, 1], shape ``(C, H, W)``, to the network's input frame."""
        out: Tensor
        mode = _INTERPOLATIONS[self.interpolation]
        height, width = self.size
        if self.resize is None:
            out = transforms.resize(unit, [height, width], mode, antialias=True)
        else:
            out = transforms.resize(unit, [self.resize], mode, antialias=True)
            out = transforms.center_crop(out, [height, width])
        return out.clamp(0, 1)

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess one image: shape ``(1, C, H, W)``, float32, normalised."""
        return self.normalize(self.frame(to_unit(image, self.channels)))[None]
