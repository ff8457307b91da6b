"""What maps are judged on: images whose answer has a known reason at a known place."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparsight.benchmarks.trojans import Photo, PlantingRule, trojan_cases
from sparsight.datasets.scenes import EMBEDDED_TROJANS, TrojanRule, render_scene
from sparsight.errors import InputError
from sparsight.networks import Network, open_image

__all__ = ["Case", "photo_cases", "planted_cases", "scene_cases"]

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
        yield Case(case.key, case.image, case.x, case.target, case.mask)


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
        Folder with a mask for each image, a PNG of the image's name and size that is not black
        where the object is.
    boxes
        CSV with columns ``file, x0, y0, x1, y1`` in pixels of the image, a row for each box; an
        image without one has no known place.

    Raises
    ------
    InputError
        A file that is missing or damaged, or a mask of another size.
    """
    known = _read_boxes(boxes) if boxes is not None else {}
    for path in images:
        image = open_image(path)
        place = None
        if masks is not None:
            drawn = open_image(masks / f"{path.stem}.png").convert("L")
            if drawn.size != image.size:
                raise InputError(
                    f"the mask of {path} is {drawn.size}, not {image.size}: give masks of the "
                    "size of their images"
                )
            place = torch.from_numpy(np.array(drawn) > 0)
        elif path.name in known:
            place = torch.zeros(image.height, image.width, dtype=torch.bool)
            for x0, y0, x1, y1 in known[path.name]:
                place[round(y0) : round(y1) + 1, round(x0) : round(x1) + 1] = True
        x = network.prepare(image)
        target = int(network.logits(x).argmax())
        yield Case(path.name, image, x, target, _framed(network, place))


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
    with file.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), 2):
            try:
                box = (float(row["x0"]), float(row["y0"]), float(row["x1"]), float(row["y1"]))
                found.setdefault(row["file"], []).append(box)
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"{file}, line {number}: columns file, x0, y0, x1, y1 are needed"
                ) from error
    return found
