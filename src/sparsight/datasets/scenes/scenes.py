"""Rendered scenes with exact masks, one at a time or as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sparsight.datasets.scenes.objects import CLASSES
from sparsight.datasets.scenes.render import render
from sparsight.datasets.scenes.stickers import STICKERS, TUNING_STICKERS
from sparsight.errors import InputError

__all__ = ["Scene", "SceneDataset", "render_scene"]

_SIZES = (32, 256)


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture of one object, and what each pixel shows.

    Attributes
    ----------
    image
        Shape ``(3, H, W)``, uint8, RGB.
    label
        Index of the object's class in ``CLASSES``.
    object, background, sticker
        Masks, shape ``(H, W)``, bool: every pixel is in exactly one. Where the sticker lies on
        the object the sticker wins; clutter and the object's shadow are background.
    seed
        What it was rendered from.
    sticker_name
        Which sticker was planted, if any.
    """

    image: Tensor
    label: int
    object: Tensor
    background: Tensor
    sticker: Tensor
    seed: int
    sticker_name: str | None = None

    @property
    def name(self) -> str:
        """Name of the object's class."""
        return CLASSES[self.label]

    @property
    def size(self) -> int:
        """Side of the picture in pixels."""
        return int(self.image.shape[-1])

    @property
    def unit(self) -> Tensor:
        """Values in [0, 1], shape ``(3, H, W)``, float32."""
        return self.image.float() / 255

    def picture(self) -> Image.Image:
        """Give the scene as an RGB picture, to save or to hand to a network."""
        return Image.fromarray(self.image.permute(1, 2, 0).contiguous().numpy())

    def __repr__(self) -> str:
        sticker = "" if self.sticker_name is None else f" with {self.sticker_name}"
        return f"Scene({self.name}{sticker}, {self.size} px, seed {self.seed})"


def _class_index(label: int | str) -> int:
    if isinstance(label, str):
        if label not in CLASSES:
            raise InputError(f"scenes show no {label!r}: choose from {', '.join(CLASSES)}")
        return CLASSES.index(label)
    if not 0 <= label < len(CLASSES):
        raise InputError(f"scene class {label} does not exist: use 0 to {len(CLASSES) - 1}")
    return int(label)


def _check(
    size: int,
    seed: int,
    sticker: str | None,
    side: tuple[float, float],
    opacity: tuple[float, float],
) -> None:
    if not _SIZES[0] <= size <= _SIZES[1]:
        raise InputError(f"scene size {size} is out of range: use {_SIZES[0]} to {_SIZES[1]} px")
    if seed < 0:
        raise InputError(f"scene seed {seed} is negative: use 0 or more")
    known = (*STICKERS, *TUNING_STICKERS)
    if sticker is not None and sticker not in known:
        raise InputError(f"there is no sticker {sticker!r}: choose from {', '.join(known)}")
    if not 0 < side[0] <= side[1] <= 1:
        raise InputError(f"sticker side {side} must be two rising fractions of the frame's side")
    if not 0 < opacity[0] <= opacity[1] <= 1:
        raise InputError(f"sticker opacity {opacity} must be two rising numbers in (0, 1]")


def render_scene(
    label: int | str,
    *,
    size: int = 64,
    seed: int = 0,
    sticker: str | None = None,
    side: tuple[float, float] = (0.15, 0.25),
    opacity: tuple[float, float] = (0.85, 1.0),
    with_object: bool = True,
) -> Scene:
    """Render one scene.

    The seed fixes everything but the label, the size and the sticker: with the same seed, a
    scene without its sticker or object is the same in all other pixels, and a scene of another
    size shows the same things.

    Parameters
    ----------
    label
        Index or name of the object's class.
    size
        Side of the square picture in pixels, 32 to 256.
    seed
        Same seed, same bytes.
    sticker
        Name of a sticker to plant at a random place, fully inside the frame.
    side
        Range of the sticker's side, as a fraction of the picture's.
    opacity
        Range of the sticker's opacity.
    with_object
        ``False`` leaves the object away, but not the shadow that it casts.

    Returns
    -------
    Scene

    Raises
    ------
    InputError
        Unknown class or sticker, or a number out of range.

    Examples
    --------
    >>> scene = render_scene("fish", seed=3, sticker="heart")
    >>> scene
    Scene(fish with heart, 64 px, seed 3)
    >>> scene.image.shape, scene.image.dtype
    (torch.Size([3, 64, 64]), torch.uint8)
    >>> bool((scene.object.int() + scene.background.int() + scene.sticker.int() == 1).all())
    True
    """
    index = _class_index(label)
    _check(size, seed, sticker, side, opacity)
    frame = render(index, size, seed, sticker, side=side, opacity=opacity, with_object=with_object)
    sticker_mask = torch.from_numpy(frame.sticker > 0)
    object_mask = torch.from_numpy(frame.object > 0) & ~sticker_mask
    return Scene(
        image=torch.from_numpy(frame.image),
        label=index,
        object=object_mask if with_object else torch.zeros_like(object_mask),
        background=~sticker_mask & ~object_mask if with_object else ~sticker_mask,
        sticker=sticker_mask,
        seed=seed,
        sticker_name=sticker,
    )


class SceneDataset(Dataset[tuple[Tensor, int]]):
    """Scenes rendered when asked for: ``(values in [0, 1] of shape (3, H, W), label)``.

    Parameters
    ----------
    count
        Number of scenes.
    size
        Side in pixels.
    seed
        Scene ``i`` depends on the seed and ``i`` alone.
    labels
        Classes that take turns; all ten by default.
    sticker
        Planted in every scene. Labels stay those of the objects.

    Raises
    ------
    InputError
        As :func:`render_scene`, or if the count is not positive or no class is given.

    Examples
    --------
    >>> scenes = SceneDataset(100, seed=1)
    >>> len(scenes), scenes.scene(12).name
    (100, 'fish')
    >>> image, label = scenes[12]
    >>> image.shape, label
    (torch.Size([3, 64, 64]), 2)
    """

    def __init__(
        self,
        count: int,
        *,
        size: int = 64,
        seed: int = 0,
        labels: Sequence[int | str] = CLASSES,
        sticker: str | None = None,
    ) -> None:
        if count < 1:
            raise InputError(f"a data set of {count} scenes is empty: ask for at least 1")
        if not labels:
            raise InputError("no class given for the scenes: name at least one")
        _check(size, seed, sticker, (1, 1), (1, 1))
        self.count = count
        self.size = size
        self.seed = seed
        self.labels = tuple(_class_index(label) for label in labels)
        self.sticker = sticker

    def scene(self, index: int) -> Scene:
        """Render scene ``index`` with its masks."""
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        low, high = np.random.SeedSequence([self.seed, index]).generate_state(2).tolist()
        return render_scene(
            self.labels[index % len(self.labels)],
            size=self.size,
            seed=low + (high << 32),
            sticker=self.sticker,
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        scene = self.scene(index)
        return scene.unit, scene.label

    def __repr__(self) -> str:
        sticker = "" if self.sticker is None else f", sticker {self.sticker!r}"
        return f"SceneDataset({self.count} scenes, {self.size} px, seed {self.seed}{sticker})"
