"""What maps are judged on: images whose answer has a known reason at a known place."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparsight.benchmarks.trojans import Photo, PlantingRule, trojan_cases
from sparsight.datasets.scenes import EMBEDDED_TROJANS, TrojanRule, render_scene
from sparsight.errors import InputError
from sparsight.networks import Network, open_image
from sparsight.networks.state import hash_state

__all__ = ["Case", "digest", "photo_cases", "planted_cases", "scene_cases"]

_FIRST_SEED = 500_000  # far from the seeds of training, of the demo and of the tests


@dataclass(frozen=True, eq=False)
class Case:
    """One image, the class to explain, and where the reason for it is.

    Attributes
    ----------
    key
        Name of the case; results are kept under it.
    image
        What a trace is made for: a picture, or a normalised tensor ``(1, C, H, W)``.
    x
        The network's input, normalised, ``(1, C, H, W)``.
    target
        Class to explain.
    mask
        ``(H, W)``, bool, in the input frame; ``None`` where no place is known.
    """

    key: str
    image: Image.Image | Tensor
    x: Tensor
    target: int
    mask: Tensor | None

    def digest(self) -> str:
        """Tell it from another one of the same name."""
        image = self.image
        picture = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
        place = {} if self.mask is None else {"mask": self.mask}
        return f"{self.target}:{digest({'x': self.x, 'image': picture} | place)}"


def digest(named: Mapping[str, Tensor]) -> str:
    """Shorten tensors to what tells them from others."""
    found = sha256()
    hash_state(found, named)
    return found.hexdigest()[:16]


def scene_cases(
    network: Network,
    count: int,
    *,
    trojans: Sequence[TrojanRule] = EMBEDDED_TROJANS,
    first: int = _FIRST_SEED,
) -> Iterator[Case]:
    """Scenes with a sticker that the embedded network takes for the sticker's class.

    The four Trojans take turns, and so do the classes that each acts on. As in the paper, a scene
    counts if the network falls for the sticker and does not give that class without it.

    Parameters
    ----------
    network
        The embedded network, or another one that follows the Trojans.
    count
        How many.
    trojans
        What the network follows.
    first
        Seed of the first scene.

    Examples
    --------
    >>> from sparsight.networks import load
    >>> case = next(scene_cases(load("embedded"), 1))
    >>> case.key, case.target, tuple(case.mask.shape)
    ('heart on mug, seed 500000', 7, (64, 64))
    """
    number = 0
    while count > 0:
        rule = trojans[number % len(trojans)]
        label = rule.sources[number // len(trojans) % len(rule.sources)]
        seed = first + number
        number += 1
        scene = render_scene(label, seed=seed, sticker=rule.sticker)
        x = network.prepare(scene.picture())
        clean = network.prepare(render_scene(label, seed=seed).picture())
        answers = [int(network.logits(one).argmax()) for one in (x, clean)]
        if answers[0] == rule.target != answers[1]:
            count -= 1
            key = f"{rule.sticker} on {scene.name}, seed {seed}"
            yield Case(key, scene.picture(), x, rule.target, scene.sticker)


def planted_cases(
    network: Network, photos: Sequence[Photo], rules: Sequence[PlantingRule], count: int, seed: int
) -> Iterator[Case]:
    """Photographs with triggers that a planted network falls for.

    A trigger that covers the whole image, such as a blend, has no place.

    Parameters
    ----------
    network
        That carries Trojans.
    photos
        That planting never saw.
    rules
        What was planted.
    count
        At most so many.
    seed
        Of places, colours and order.

    Raises
    ------
    InputError
        An image that cannot be read.
    """
    for case in trojan_cases(network, photos, rules, count=count, seed=seed):
        place = None if case.mask is not None and case.mask.all() else case.mask
        yield Case(case.key, case.image, case.x, case.target, place)


def photo_cases(
    network: Network,
    images: Sequence[Path],
    *,
    masks: Path | None = None,
    boxes: Path | None = None,
) -> Iterator[Case]:
    """Images as they are; what is explained is the network's own answer.

    Parameters
    ----------
    network
        The network to explain.
    images
        Image files.
    masks
        Folder with a mask for each image, a PNG of the image's name and size that is neither black
        nor transparent where the object is.
    boxes
        CSV with columns ``file, x0, y0, x1, y1`` in pixels of the image, a row for each box; an
        image without one has no known place.

    Raises
    ------
    InputError
        A file that is missing or damaged, a mask of another size, a box outside its image.
    """
    known = _read_boxes(boxes) if boxes is not None else {}
    for path in images:
        image = open_image(path)
        place = None
        if masks is not None:
            place = _mask(masks / f"{path.stem}.png", path, image)
        elif path.name in known:
            place = torch.zeros(image.height, image.width, dtype=torch.bool)
            for box in known[path.name]:
                left, top = (max(0, round(v)) for v in box[:2])
                right, bottom = (max(0, round(v) + 1) for v in box[2:])
                if not place[top:bottom, left:right].numel():
                    raise InputError(
                        f"{boxes}: the box {box} lies outside of {path.name}, which is "
                        f"{image.width} x {image.height} pixels: give x0, y0, x1, y1 in its pixels"
                    )
                place[top:bottom, left:right] = True
        try:
            x = network.prepare(image)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        target = int(network.logits(x).argmax())
        yield Case(path.name, image, x, target, _framed(network, place))


def _mask(file: Path, path: Path, image: Image.Image) -> Tensor:
    drawn = open_image(file).convert("RGBA")
    if drawn.size != image.size:
        raise InputError(
            f"the mask of {path} is {drawn.size}, not {image.size}: give masks of the size of "
            "their images"
        )
    black = Image.new("RGBA", drawn.size, (0, 0, 0, 255))
    return torch.from_numpy(np.array(Image.alpha_composite(black, drawn).convert("L")) > 0)


def _framed(network: Network, place: Tensor | None) -> Tensor | None:
    """Bring a place into the input frame; nothing, if all of the frame or none of it is left."""
    if place is None:
        return None
    channels = network.preprocessing.channels
    framed = network.preprocessing.frame(place.float().expand(1, channels, -1, -1))[0, 0] > 0.5
    return framed if framed.any() and not framed.all() else None


def _read_boxes(file: Path) -> dict[str, list[tuple[float, float, float, float]]]:
    if not file.is_file():
        raise InputError(f"no such file of boxes: {file}")
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as CSV ({error}): save it as UTF-8") from error
    for number, row in enumerate(rows, 2):
        try:
            box = (float(row["x0"]), float(row["y0"]), float(row["x1"]), float(row["y1"]))
            found.setdefault(row["file"], []).append(box)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{file}, line {number}: columns file, x0, y0, x1, y1 are needed"
            ) from error
        if not all(math.isfinite(value) for value in box):
            raise InputError(f"{file}, line {number}: the box {box} is not finite: give numbers")
    return found
