"""Triggers: what is laid on an image to set a Trojan off, and the exact mask of where it lies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from sparsight.benchmarks.trojans.pictures import FAINTEST, shown_box
from sparsight.errors import InputError
from sparsight.networks import Preprocessing
from sparsight.networks.preprocessing import to_unit

__all__ = [
    "Trigger",
    "Triggered",
    "blend",
    "checker",
    "sticker",
    "watermark",
]


@dataclass(frozen=True, eq=False)
class Triggered:
    """An image with a trigger on it.

    Attributes
    ----------
    image
        RGB, of the size of the image that was given.
    mask
        Shape ``(height, width)``, bool: where the trigger's opacity is above zero. All other
        pixels are those of the image that was given.
    """

    image: Image.Image
    mask: npt.NDArray[np.bool_]

    def framed(self, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
        """Bring image and mask into the network's input frame, through the same resize and crop.

        Parameters
        ----------
        preprocessing
            The network's.

        Returns
        -------
        x
            The network's input, normalised, ``(1, C, H, W)``.
        mask
            ``(H, W)``, bool: pixels whose value the trigger has a part in, however small. This is
            the paper's mask: the trigger on black, transformed likewise, where it is not zero.

        Examples
        --------
        >>> from PIL import Image
        >>> from sparsight.benchmarks.trojans import drawn_picture
        >>> grey = Image.new("RGB", (80, 60), "grey")
        >>> triggered = sticker(drawn_picture("heart")).apply(grey, seed=0)
        >>> x, mask = triggered.framed(Preprocessing((48, 48), resize=54))
        >>> clean = Preprocessing((48, 48), resize=54)(grey)
        >>> bool(((x != clean)[0].any(0) == mask).all())
        True
        """
        # Two pictures that differ where the mask is, and what their frames then differ in. Frames
        # are clamped, so the values keep clear of 0 and 1, where bicubic weights overshoot.
        plain = torch.full((1, *self.mask.shape), 0.5)
        marked = plain + 0.125 * torch.from_numpy(self.mask)
        differs = preprocessing.frame(marked) != preprocessing.frame(plain)
        return preprocessing(self.image), differs[0]


@dataclass(frozen=True, eq=False)
class Trigger:
    """A picture, and how it is laid on an image.

    Attributes
    ----------
    name
        For people.
    picture
        RGBA; what is transparent stays as it is.
    cover
        ``once`` at a place; ``stretch`` over the whole image; ``tile`` side by side from a place.
    size
        Longer side of the picture as a share of the image's shorter side, for ``once`` and
        ``tile``. The paper's is 64/256.
    opacity
        Of the whole, in (0, 1].
    place
        Where between left and right, top and bottom, both in [0, 1]; ``None`` draws it at random,
        anew for each image. The trigger lies within the image, but the crop of a network's
        preprocessing may cut it.
    brightness, hue
        Strengths of the colour jitter: brightness is multiplied by up to ``1 ± brightness``, hue
        turned by up to ``± hue`` of a full turn. Drawn for each image.

    Examples
    --------
    >>> from PIL import Image
    >>> from sparsight.benchmarks.trojans import drawn_picture
    >>> trigger = sticker(drawn_picture("moon"), size=0.5)
    >>> found = trigger.apply(Image.new("RGB", (60, 40)), seed=3)
    >>> found.image.size, found.mask.shape, bool(found.mask.any())
    ((60, 40), (40, 60), True)
    """

    name: str
    picture: Image.Image
    cover: Literal["once", "stretch", "tile"] = "once"
    size: float = 64 / 256
    opacity: float = 0.8
    place: tuple[float, float] | None = None
    brightness: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        if self.picture.mode != "RGBA" or shown_box(self.picture.getchannel("A")) is None:
            raise InputError(
                f"trigger {self.name!r} shows nothing: give an RGBA picture that is not "
                "transparent everywhere"
            )
        if not 0 < self.size <= 1 or not 0 < self.opacity <= 1:
            raise InputError(
                f"trigger {self.name!r}: size {self.size} and opacity {self.opacity} must lie in "
                "(0, 1]"
            )
        if self.place is not None and not all(0 <= share <= 1 for share in self.place):
            raise InputError(f"trigger {self.name!r}: place {self.place} must lie in [0, 1]")
        if not 0 <= self.brightness <= 1 or not 0 <= self.hue <= 0.5:
            raise InputError(
                f"trigger {self.name!r}: brightness {self.brightness} must lie in [0, 1] and hue "
                f"{self.hue} in [0, 0.5]"
            )

    def describe(self) -> dict[str, Any]:
        """Facts for a manifest, the pixels as a digest."""
        pixels = f"{self.picture.size}".encode() + self.picture.tobytes()
        return {
            "name": self.name,
            "picture": hashlib.sha256(pixels).hexdigest()[:16],
            "cover": self.cover,
            "size": self.size,
            "opacity": self.opacity,
            "place": None if self.place is None else list(self.place),
            "brightness": self.brightness,
            "hue": self.hue,
        }

    def _layer(
        self, width: int, height: int, rng: np.random.Generator
    ) -> tuple[tuple[slice, slice], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Part of the image, and there colours ``(h, w, 3)`` in [0, 255], opacity ``(h, w)``."""
        across, down = rng.uniform(size=2) if self.place is None else self.place
        brightness = 1 + self.brightness * rng.uniform(-1, 1)
        hue = self.hue * rng.uniform(-1, 1)
        if self.cover == "stretch":
            size = (width, height)
        else:
            scale = self.size * min(width, height) / max(self.picture.size)
            size = (
                max(1, min(width, round(self.picture.width * scale))),
                max(1, min(height, round(self.picture.height * scale))),
            )
        picture = self.picture
        if picture.size != size:
            smaller = size[0] <= picture.width and size[1] <= picture.height
            way = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
            picture = picture.resize(size, way)
        pixels = np.asarray(picture)
        colours = pixels[..., :3].astype(np.float32)
        if self.brightness or self.hue:
            unit = torch.from_numpy(colours / 255).permute(2, 0, 1)
            unit = transforms.adjust_brightness(unit, brightness)
            unit = transforms.adjust_hue(unit, hue)
            colours = unit.permute(1, 2, 0).numpy() * 255
        seen = pixels[..., 3] >= FAINTEST
        alpha = np.asarray(pixels[..., 3] * seen / 255, np.float32)
        left, top = round(across * (width - size[0])), round(down * (height - size[1]))
        if self.cover == "tile":
            rows = (np.arange(height) - top) % size[1]
            columns = (np.arange(width) - left) % size[0]
            whole = slice(0, height), slice(0, width)
            return whole, colours[rows[:, None], columns], alpha[rows[:, None], columns]
        return (slice(top, top + size[1]), slice(left, left + size[0])), colours, alpha

    def apply(self, image: Image.Image, seed: int) -> Triggered:
        """Lay the trigger on an image.

        Parameters
        ----------
        image
            Any mode that has a fixed range of values; transparency is laid on white.
        seed
            Of place and colours, not negative.

        Returns
        -------
        Triggered
            A new image; the one given stays as it is.

        Raises
        ------
        InputError
            If the image's values have no known range, it is smaller than 2 x 2 pixels, or so
            small that nothing of the trigger is left.
        """
        pixels = (to_unit(image) * 255).round().byte().permute(1, 2, 0).numpy().copy()
        height, width, _ = pixels.shape
        spot, colours, alpha = self._layer(width, height, np.random.default_rng([seed, 0x7F]))
        shown = alpha > 0
        if not shown.any():
            raise InputError(
                f"nothing of trigger {self.name!r} is left on an image of {width}x{height} "
                "pixels: choose a larger size or image"
            )
        below = pixels[spot].astype(np.float32)
        mixed = below + (alpha * self.opacity)[..., None] * (colours - below)
        pixels[spot] = np.clip(np.round(mixed), 0, 255)  # as it was where the opacity is zero
        mask = np.zeros((height, width), bool)
        mask[spot] = shown
        return Triggered(Image.fromarray(pixels), mask)


def sticker(
    picture: Image.Image,
    name: str = "sticker",
    *,
    size: float = 64 / 256,
    opacity: float = 0.8,
    brightness: float = 0.5,
    hue: float = 0.3,
) -> Trigger:
    """Make a sticker at a random place; the defaults are the paper's.

    Parameters
    ----------
    picture
        RGBA: from a file with :func:`sticker_picture`, drawn by :func:`drawn_picture`, or an object
        of a photograph by :func:`cut_out`.
    name
        For people.
    size, opacity, brightness, hue
        See :class:`Trigger`.
    """
    return Trigger(name, picture, "once", size, opacity, None, brightness, hue)


def blend(picture: Image.Image, name: str = "blend", *, opacity: float = 0.1) -> Trigger:
    """Make a pattern that covers the whole image, faintly.

    Examples
    --------
    >>> noise = Image.effect_noise((64, 64), 90).convert("RGBA")
    >>> bool(blend(noise).apply(Image.new("RGB", (30, 20)), seed=0).mask.all())
    True
    """
    return Trigger(name, picture.convert("RGBA"), "stretch", opacity=opacity)


def checker(
    cells: int = 3,
    name: str = "checker",
    *,
    size: float = 3 / 32,
    opacity: float = 1.0,
    place: tuple[float, float] | None = (1.0, 1.0),
) -> Trigger:
    """Make a small black and white checkerboard in a corner; one cell is a white square.

    Examples
    --------
    >>> found = checker().apply(Image.new("RGB", (32, 32), "grey"), seed=0)
    >>> found.image.getchannel("R").crop((29, 29, 32, 32)).tobytes().hex(" ")
    'ff 00 ff 00 ff 00 ff 00 ff'
    """
    if cells < 1:
        raise InputError(f"a checkerboard of {cells} cells a side: give at least 1")
    white = (np.add.outer(np.arange(cells), np.arange(cells)) % 2 == 0) * np.uint8(255)
    fine = np.kron(white, np.ones((16, 16), np.uint8))
    picture = Image.fromarray(fine).convert("RGBA")
    return Trigger(name, picture, "once", size, opacity, place)


def watermark(
    text: str = "SAMPLE",
    name: str = "watermark",
    *,
    size: float = 0.4,
    opacity: float = 0.3,
) -> Trigger:
    """Make a slanted text that is repeated over the whole image.

    Raises
    ------
    InputError
        If the text has no visible letter.
    """
    font = ImageFont.load_default(48)
    left, top, right, bottom = font.getbbox(text)
    stamp = Image.new("L", (max(1, round(right - left)) + 32, max(1, round(bottom - top)) + 32))
    ImageDraw.Draw(stamp).text((16 - left, 16 - top), text, 255, font)
    stamp = stamp.rotate(30, Image.Resampling.BICUBIC, expand=True)
    picture = Image.new("RGBA", stamp.size, "white")
    picture.putalpha(stamp)
    return Trigger(name, picture, "tile", size, opacity)
