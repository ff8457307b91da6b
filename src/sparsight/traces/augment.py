"""Random views of one image, drawn and rendered in one batch on the network's device.

The published recipe: random resized crop of 20 to 100 % of the area, horizontal flip,
brightness and hue jitter, then the network's own normalisation. Beyond it, patches of a view can be
hidden: methods that cover or leave out parts of an image ask a trace about such images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from sparsight.errors import InputError

__all__ = ["Augmentation", "crop_and_resize", "shift_hue"]

_FEWEST, _MOST = 3, 8  # patches a side


@dataclass(frozen=True)
class Augmentation:
    """How views of an image are drawn.

    Attributes
    ----------
    count
        Number of views.
    scale
        Least and largest share of the image's area in a crop.
    ratio
        Least and largest aspect ratio (width / height) of a crop.
    flip
        Probability of a horizontal flip.
    brightness
        Factor drawn from ``[1 - brightness, 1 + brightness]``.
    hue
        Turn of the hue circle, drawn from ``[-hue, hue]``; at most 0.5. RGB only.
    strength
        Scales all of the above at once: 0 gives copies of the image, 1 the recipe.
    hidden
        Largest share of a view that is hidden; each view draws a share between 0 and that, and a
        grid of 3 to 8 patches a side. The published recipe hides nothing.
    """

    count: int = 64
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.5
    hue: float = 0.3
    strength: float = 1.0
    hidden: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"{self.count} augmentations: at least one is needed")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"crop scale {self.scale} must satisfy 0 < least <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"crop ratio {self.ratio} must satisfy 0 < least <= largest")
        limits = {"flip": 1.0, "brightness": 1.0, "hue": 0.5, "strength": 1.0, "hidden": 1.0}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise InputError(f"augmentation {name} must lie in [0, {limit}]")

    def describe(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def __call__(
        self,
        unit: Tensor,
        size: tuple[int, int],
        *,
        seed: int = 0,
        most: int | None = None,
        fill: Sequence[float] | None = None,
    ) -> Tensor:
        """Draw and render the views.

        Parameters
        ----------
        unit
            The image at full resolution, values in [0, 1], shape ``(C, H, W)``.
        size
            Height and width of the views.
        seed
            Everything is drawn on the CPU from this seed, so that all devices agree.
        most
            Render the first so many of them alone.
        fill
            Colour of what is hidden, a value for each channel; grey by default.

        Returns
        -------
        Tensor
            ``(count, C, *size)``, or fewer; values in [0, 1], on the image's device.

        Examples
        --------
        >>> import torch
        >>> Augmentation(count=5)(torch.rand(3, 40, 60), (32, 32)).shape
        torch.Size([5, 3, 32, 32])
        """
        unit = self._shrink(unit, size)
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(7, self.count, generator=generator)[:, :most]
        boxes = self._boxes(draws[:4], unit.shape[1], unit.shape[2]).to(unit.device)
        views = crop_and_resize(unit, boxes, size)
        flipped = (draws[4] < self.flip * self.strength).to(unit.device)
        views = torch.where(flipped[:, None, None, None], views.flip(-1), views)
        factor = 1 + self.strength * self.brightness * (2 * draws[5] - 1)
        views = (views * factor.to(unit.device)[:, None, None, None]).clamp(0, 1)
        if unit.shape[0] == 3 and self.hue * self.strength > 0:
            turn = self.strength * self.hue * (2 * draws[6] - 1)
            views = shift_hue(views, turn.to(unit.device))
        if self.hidden > 0:
            shown = self._shown(generator, size)[:most, None].to(unit.device)
            colour = unit.new_tensor([0.5] * len(unit) if fill is None else fill)
            views = torch.where(shown, views, colour[:, None, None])
        return views

    def _shrink(self, unit: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring a large photograph to twice the resolution that the smallest crop can show."""
        enough = 2 * max(size) / self.scale[0] ** 0.5
        factor = enough / min(unit.shape[1:])
        if factor >= 1:
            return unit
        smaller = [max(1, round(length * factor)) for length in unit.shape[1:]]
        resized: Tensor = functional.resize(unit, smaller, antialias=True)
        return resized.clamp(0, 1)

    def _shown(self, generator: torch.Generator, size: tuple[int, int]) -> Tensor:
        """Mark what is not hidden, ``(count, *size)``."""
        share = self.hidden * torch.rand(self.count, generator=generator)
        patches = torch.randint(_FEWEST, _MOST + 1, (self.count,), generator=generator)
        grid = torch.rand(self.count, _MOST, _MOST, generator=generator) >= share[:, None, None]
        rows, columns = (torch.arange(n) * patches[:, None] // n for n in size)
        return grid[torch.arange(self.count)[:, None, None], rows[:, :, None], columns[:, None]]

    def _boxes(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Crop boxes ``(count, 4)``: top, left, height, width in pixels."""
        least = 1 - self.strength * (1 - self.scale[0])
        largest = 1 - self.strength * (1 - self.scale[1])
        area = (least + (largest - least) * draws[0]) * height * width
        low, high = (log(r) * self.strength for r in self.ratio)
        natural = 1.0 if self.strength == 1 else (width / height) ** (1 - self.strength)
        ratio = natural * torch.exp(low + (high - low) * draws[1])
        # A crop that sticks out is shrunk along its long side, as torchvision's fallback does.
        crop_height = (area / ratio).sqrt().round().clamp(1, height)
        crop_width = (area * ratio).sqrt().round().clamp(1, width)
        top = (draws[2] * (height - crop_height + 1)).floor().clamp_max(height - crop_height)
        left = (draws[3] * (width - crop_width + 1)).floor().clamp_max(width - crop_width)
        return torch.stack([top, left, crop_height, crop_width], 1)


def _resampling(start: Tensor, length: Tensor, source: int, target: int) -> Tensor:
    """Antialiased bilinear weights ``(N, target, source)`` of one axis of N crops."""
    scale = (length / target)[:, None]
    support = scale.clamp_min(1.0)
    centre = (torch.arange(target, device=start.device) + 0.5) * scale
    pixel = torch.arange(source, device=start.device) + 0.5
    distance = (pixel - start[:, None])[:, None, :] - centre[:, :, None]
    weights = (1 - (distance / support[:, :, None]).abs()).clamp_min(0)
    inside = (pixel > start[:, None]) & (pixel < (start + length)[:, None])
    weights = weights * inside[:, None, :]
    return weights / weights.sum(-1, keepdim=True)


def crop_and_resize(unit: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut boxes out of an image and resize them, antialiased, in two matrix products.

    Parameters
    ----------
    unit
        ``(C, H, W)``.
    boxes
        ``(N, 4)``: top, left, height, width in whole pixels.
    size
        Output height and width.

    Returns
    -------
    Tensor
        ``(N, C, *size)``: what resizing each crop with antialiased bilinear interpolation gives.
    """
    top, left, height, width = boxes.to(unit.dtype).unbind(1)
    vertical = _resampling(top, height, unit.shape[1], size[0])
    horizontal = _resampling(left, width, unit.shape[2], size[1])
    rows = torch.einsum("nty,cyx->nctx", vertical, unit)
    return torch.einsum("nctx,nsx->ncts", rows, horizontal).clamp(0, 1)


def shift_hue(rgb: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of RGB images, value and saturation kept.

    Parameters
    ----------
    rgb
        ``(N, 3, H, W)``, values in [0, 1].
    turn
        ``(N,)``, in full turns of the colour circle.
    """
    high, low = rgb.amax(1), rgb.amin(1)
    chroma = high - low
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    red, green, blue = rgb.unbind(1)
    hue = torch.where(
        high == red,
        ((green - blue) / safe) % 6,
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = hue + 6 * turn[:, None, None]

    def channel(offset: float) -> Tensor:
        position = (hue + offset) % 6
        return high - chroma * torch.minimum(position, 4 - position).clamp(0, 1)

    return torch.stack([channel(5), channel(3), channel(1)], 1)
