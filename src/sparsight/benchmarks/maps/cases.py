"""What maps are judged on: images whose answer has a known reason at a known place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from sparsight.datasets.scenes import EMBEDDED_TROJANS, render_scene
from sparsight.networks import Network

__all__ = ["Case", "scene_cases"]

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


def scene_cases(network: Network, count: int) -> Iterator[Case]:
    """Scenes with a sticker that the embedded network takes for the sticker's class.

    The four Trojans take turns, and so do the classes that each acts on. As in the paper, a scene
    counts if the network falls for the sticker and does not give that class without it.

    Parameters
    ----------
    network
        The embedded network.
    count
        How many.

    Examples
    --------
    >>> from sparsight.networks import load
    >>> case = next(scene_cases(load("embedded"), 1))
    >>> case.key, case.target, tuple(case.mask.shape)
    ('heart on mug, seed 500000', 7, (64, 64))
    """
    number = 0
    while count > 0:
        rule = EMBEDDED_TROJANS[number % len(EMBEDDED_TROJANS)]
        label = rule.sources[number // len(EMBEDDED_TROJANS) % len(rule.sources)]
        seed = _FIRST_SEED + number
        number += 1
        scene = render_scene(label, seed=seed, sticker=rule.sticker)
        x = network.prepare(scene.picture())
        clean = network.prepare(render_scene(label, seed=seed).picture())
        answers = [int(network.logits(one).argmax()) for one in (x, clean)]
        if answers[0] == rule.target != answers[1]:
            count -= 1
            key = f"{rule.sticker} on {scene.name}, seed {seed}"
            yield Case(key, scene.picture(), x, rule.target, scene.sticker)
