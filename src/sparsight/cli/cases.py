"""Images with a known reason for their answer, from what a command is given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from sparsight.benchmarks.maps import Case
    from sparsight.benchmarks.trojans import PlantingRule
    from sparsight.cli.display import Display
    from sparsight.networks import Network

__all__ = [
    "CALIBRATION",
    "SCENE_SETTINGS",
    "Cases",
    "photographs",
    "planted_photographs",
    "scenes",
]

CALIBRATION = 256
"""Images, at most, for networks that are pruned once."""

_FIRST = 900_000  # seed of the first scene for these
SCENE_SETTINGS: dict[str, dict[str, Any]] = {
    "gradient_shap": {"samples": 20},
    "integrated_gradients": {"steps": 25},
    "lime": {"samples": 300},
    "occlusion": {"window": 6, "stride": 4},
}
"""Of methods: enough for scenes of 64 pixels, in a third of the time."""

Cases = tuple[list["Case"], "Tensor", dict[str, Any]]
"""Cases, images for networks that are pruned once, and what decides about both."""


def scenes(network: Network, count: int, display: Display) -> Cases:
    """Scenes with stickers that fool the embedded network."""
    import torch

    from sparsight.benchmarks.maps import scene_cases
    from sparsight.datasets.scenes import CLASSES, render_scene

    cases = _collect(scene_cases(network, count), display, "finding cases", count)
    drawn = (render_scene(i % len(CLASSES), seed=_FIRST + i) for i in range(CALIBRATION))
    calibration = torch.cat([network.prepare(scene.picture()) for scene in drawn])
    return cases, calibration, {"cases": len(cases)}


def planted_photographs(
    network: Network,
    images: Sequence[Path],
    triggers: Sequence[str],
    count: int,
    seed: int,
    display: Display,
) -> Cases:
    """Photographs with triggers, given as ``FILE.png=CLASS``, that a planted network falls for."""
    import torch

    from sparsight.benchmarks.maps import planted_cases
    from sparsight.benchmarks.trojans import Photo
    from sparsight.cli.settings import named
    from sparsight.errors import SparsightError

    rules = [_rule(network, text) for text in triggers]
    files = _image_files(images)
    clean: list[Tensor] = []
    photos = []
    for file in files:
        try:
            x = network.prepare(file)
        except SparsightError as error:
            raise named(file, error) from error
        clean += [x] if len(clean) < CALIBRATION else []
        # what the network answers stands for the class
        photos.append(Photo(file, int(network.logits(x).argmax())))
        display.step("reading images", len(photos), len(files))
    found = planted_cases(network, photos, rules, count, seed)
    cases = _collect(found, display, "finding cases", count)
    if len(cases) < count:
        display.say(f"only {len(cases)} of {count} cases: the network falls for no other image")
    facts = {"rules": [rule.describe() for rule in rules], "images": [f.name for f in files]}
    return cases, torch.cat(clean), {"cases": len(cases), "asked": count, **facts}


def photographs(
    network: Network,
    images: Sequence[Path],
    masks: Path | None,
    boxes: Path | None,
    display: Display,
) -> list[Case]:
    """Photographs, maybe with a mask or boxes of what the network should look at."""
    from sparsight.benchmarks.maps import photo_cases
    from sparsight.errors import InputError

    files = _image_files(images)
    found = photo_cases(network, files, masks=masks, boxes=boxes)
    cases = _collect(found, display, "reading images", len(files))
    without = [case.key for case in cases if case.mask is None]
    if (masks is None and boxes is None) or not without:
        return cases
    given = masks or boxes
    if len(without) == len(cases):
        raise InputError(
            f"{given} says for no image where the object is (nowhere, everywhere, or of other "
            "names): give places of these images"
        )
    display.say(
        f"{len(without)} of {len(cases)} images have no place in {given}: {without[0]}, ..."
    )
    return cases


def _collect(found: Iterable[Case], display: Display, stage: str, total: int) -> list[Case]:
    """Take all cases, and say how many there are so far."""
    cases = []
    for case in found:
        cases.append(case)
        display.step(stage, len(cases), total)
    return cases


def _image_files(images: Sequence[Path]) -> list[Path]:
    """Find image files; one that cannot be used is an error."""
    from sparsight.cli.batch import find_images

    files, failed = find_images(images)
    for error in failed.values():
        raise error
    return files


def _rule(network: Network, text: str) -> PlantingRule:
    from sparsight.benchmarks.trojans import PlantingRule, sticker, sticker_picture
    from sparsight.errors import InputError

    file, _, name = text.rpartition("=")
    if not file:
        raise InputError(f"--trigger {text!r} makes no sense: write FILE.png=CLASS")
    target = network.class_index(name)
    picture = sticker(sticker_picture(file), Path(file).stem)
    return PlantingRule(picture, target, words=("any", network.label(target)))
