"""What an image is made of while it is optimised.

``pixels`` change one value at a time and end in noise. ``fourier`` changes waves, whose colours are
correlated as in photographs (Olah et al., *Feature Visualization*, Distill 2017). ``maco`` changes
only where waves lie, not how strong they are (Fel et al., *Unlocking Feature Visualization for
Deeper Networks with MAgnitude Constrained Optimization*, NeurIPS 2023). ``cppn`` is a small network
from coordinates to colours (Mordvintsev et al., *Differentiable Image Parameterizations*, Distill
2018).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import pi

import torch
from torch import Tensor

from sparsight.errors import InputError
from sparsight.visualization.colours import correlate, frequencies

__all__ = ["PARAMETRIZATIONS", "Parametrization", "parametrization"]

Shape = tuple[int, int, int, int]


class Parametrization(ABC):
    """Images as a function of values that are optimised, one image not touching another's.

    Attributes
    ----------
    name
        Registry name.
    rate
        A learning rate of Adam that suits it.
    values
        Leaves with the images as first dimension.
    """

    name: str
    rate: float
    values: list[Tensor]

    @abstractmethod
    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        """Draw values for images of shape ``(N, C, H, W)``, on the CPU."""

    @abstractmethod
    def raw(self) -> Tensor:
        """Images with any values, ``(N, C, H, W)``; 0 is grey."""

    def images(self) -> Tensor:
        """Images with values in [0, 1]; differentiable."""
        return self.raw().sigmoid()

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Parametrization:
        """Move to a device, and begin to track gradients."""
        self.values = [v.to(device, dtype).requires_grad_() for v in self.values]
        return self


class Pixels(Parametrization):
    """Every value by itself."""

    name = "pixels"
    rate = 0.05

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        self.values = [0.01 * torch.randn(shape, generator=generator)]

    def raw(self) -> Tensor:
        """Return the values."""
        return self.values[0]


class Fourier(Parametrization):
    """Waves, slow ones stronger, with colours that go together."""

    name = "fourier"
    rate = 0.05

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        count, channels, self.height, self.width = shape
        scale = 1 / frequencies(self.height, self.width)
        self.scale = scale / scale.square().mean().sqrt()
        drawn = torch.randn((count, channels, *self.scale.shape, 2), generator=generator)
        self.values = [0.2 * drawn]

    def raw(self) -> Tensor:
        """Add the waves up."""
        (values,) = self.values
        waves = torch.view_as_complex(values) * self.scale.to(values)
        size = (self.height, self.width)
        return correlate(torch.fft.irfft2(waves, s=size, norm="ortho"))


class Maco(Parametrization):
    """Waves of a photograph's strength, of which only the phase changes."""

    name = "maco"
    rate = 0.3

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        count, channels, self.height, self.width = shape
        strength = 1 / frequencies(self.height, self.width)
        strength[0, 0] = 0  # the mean is grey
        self.strength = strength / strength.square().mean().sqrt().clamp_min(1e-12)
        drawn = torch.rand((count, channels, *strength.shape), generator=generator)
        self.values = [2 * pi * drawn]

    def raw(self) -> Tensor:
        """Add the waves up."""
        (phase,) = self.values
        waves = torch.polar(self.strength.to(phase).expand_as(phase).contiguous(), phase)
        return correlate(torch.fft.irfft2(waves, s=(self.height, self.width), norm="ortho") * 1.3)


class Cppn(Parametrization):
    """A small network from the place to the colour, one per image."""

    name = "cppn"
    rate = 0.005
    width, depth = 24, 6

    def __init__(self, shape: Shape, generator: torch.Generator) -> None:
        count, channels, self.height, self.breadth = shape
        sizes = [2] + [2 * self.width] * self.depth
        self.values = []
        for columns, rows in zip(sizes, [self.width] * self.depth + [channels], strict=True):
            drawn = torch.randn((count, rows, columns), generator=generator)
            self.values.append(drawn / columns**0.5 if rows != channels else 0 * drawn)

    def raw(self) -> Tensor:
        """Ask the network at every pixel."""
        like = self.values[0]
        y, x = (
            torch.linspace(-(3**0.5), 3**0.5, n, dtype=like.dtype, device=like.device)
            for n in (self.height, self.breadth)
        )
        places = torch.stack(torch.meshgrid(y, x, indexing="ij")).flatten(1)
        hidden = places.expand(len(like), -1, -1)
        for matrix in self.values[:-1]:
            bent = torch.bmm(matrix, hidden).atan()
            hidden = torch.cat([bent / 0.67, (bent.square() - 0.45) / 0.4], 1)
        found: Tensor = torch.bmm(self.values[-1], hidden)
        return found.reshape(*found.shape[:2], self.height, self.breadth)


PARAMETRIZATIONS: dict[str, Callable[[Shape, torch.Generator], Parametrization]] = {
    kind.name: kind for kind in (Pixels, Fourier, Maco, Cppn)
}
"""By name."""


def parametrization(name: str, shape: Shape, *, seed: int = 0) -> Parametrization:
    """Make a parametrization.

    Parameters
    ----------
    name
        In :data:`PARAMETRIZATIONS`.
    shape
        ``(N, C, H, W)``.
    seed
        Of the first values; drawn on the CPU, so that all devices agree.

    Raises
    ------
    InputError
        If there is none of that name.

    Examples
    --------
    >>> images = parametrization("fourier", (2, 3, 32, 48)).images()
    >>> images.shape, bool((images >= 0).all() and (images <= 1).all())
    (torch.Size([2, 3, 32, 48]), True)
    """
    if name not in PARAMETRIZATIONS:
        known = ", ".join(PARAMETRIZATIONS)
        raise InputError(f"unknown parametrization {name!r}: choose from {known}")
    return PARAMETRIZATIONS[name](shape, torch.Generator().manual_seed(seed))
