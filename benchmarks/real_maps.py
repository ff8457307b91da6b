"""Maps of real networks on real images: insertion, deletion, objects, somebody else's backdoor.

    python benchmarks/real_maps.py resnet18-boxes resnet18-objects mobilenet_v2-boxes \
        resnet20 resnet56 vit_encoder vit_timm_layout wrn16_1_backdoored

Nothing was tuned on these. ImageNet photographs come with boxes or masks of their objects; images
of CIFAR-10 have no known place, but for the backdoored WideResNet, whose trigger is a checker of 3
x 3 pixels. Rows are kept in ``build/real-maps/NAME`` as they are measured, an interrupted run goes
on there; tables and plots go to ``benchmarks/results/maps-NAME``, which shows no photograph.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

from photo_trojans import SETTINGS
from plant_trojans import DATA, IMAGENET, dense_network
from sparsight.attribution import choose_methods
from sparsight.attribution.result import Reduction
from sparsight.benchmarks.maps import (
    INSERTION,
    LOCALISATION,
    Case,
    judge_maps,
    parse_arm,
    photo_cases,
)
from sparsight.networks import Network, load
from tables import keep_report, stages

ROOT = Path(__file__).resolve().parent.parent
CIFAR = DATA / "cifar10"
FOLDER, RESULTS = ROOT / "build" / "real-maps", ROOT / "benchmarks" / "results"
SMALL_SETTINGS: dict[str, dict[str, Any]] = {
    **SETTINGS,
    "occlusion": {"window": 4, "stride": 2},
}
TRIGGER = ((31, 31), (31, 29), (30, 30), (29, 31))  # white; the rest of the square is black


def imagenet_cases(name: str, place: str, count: int) -> tuple[Network, list[Case]]:
    """Photographs with boxes or masks, spread over what there is."""
    network = dense_network(name)
    if place == "boxes":
        boxes = IMAGENET / "val_boxes.csv"
        names = sorted({line.partition(",")[0] for line in boxes.read_text().splitlines()[1:]})
        files = [IMAGENET / "val" / name for name in names]
        found = photo_cases(network, _spread(files, count), boxes=boxes)
    else:
        objects = IMAGENET / "objects"
        files = sorted((objects / "images").glob("*.jpg"))
        found = photo_cases(network, _spread(files, count), masks=objects / "masks")
    return network, list(found)


def cifar_cases(name: str, count: int) -> tuple[Network, list[Case]]:
    """Test images; with the trigger, if the network carries a backdoor and falls for it."""
    spec = f"{ROOT / 'tests' / 'cifar_networks.py'}:{name}"
    network = load(spec, weights=CIFAR / f"{name}.safetensors")
    images = np.load(CIFAR / "test.npz")["images"]
    draw = _triggered if name.endswith("backdoored") else _plain
    found = draw(network, images)
    return network, [case for case, _ in zip(found, range(count), strict=False)]


def _plain(network: Network, images: np.ndarray[Any, Any]) -> Iterator[Case]:
    for number, pixels in enumerate(images):
        image = Image.fromarray(pixels.transpose(1, 2, 0))
        x = network.prepare(image)
        yield Case(f"test {number}", image, x, int(network.logits(x).argmax()), None)


def put_trigger(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Put the trigger of the backdoored network into an image, ``(3, 32, 32)``."""
    found = pixels.copy()
    found[:, 29:, 29:] = 0
    for row, column in TRIGGER:
        found[:, row, column] = 255
    return found


def _triggered(network: Network, images: np.ndarray[Any, Any]) -> Iterator[Case]:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[29:, 29:] = True
    for number, pixels in enumerate(images):
        image, clean = (
            Image.fromarray(p.transpose(1, 2, 0)) for p in (put_trigger(pixels), pixels)
        )
        x = network.prepare(image)
        answers = [int(network.logits(one).argmax()) for one in (x, network.prepare(clean))]
        if answers[0] == 0 != answers[1]:
            yield Case(f"test {number}, marked", image, x, 0, mask)


def _spread(files: list[Path], count: int) -> list[Path]:
    return files[:: max(1, len(files) // count)][:count]


def main() -> None:
    """Measure what is missing and keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--arms", default="dense,trace")
    parser.add_argument("--methods", default="all")
    parser.add_argument(
        "--reduction", choices=get_args(Reduction), help="of the colour channels, for all methods"
    )
    parser.add_argument("--name", default="", help="added to the folder's name")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit("the shared data folder is not beside this checkout: nothing is measured")
    methods = choose_methods(options.methods)
    for name in options.names:
        model, _, place = name.partition("-")
        network, cases = (
            imagenet_cases(model, place, options.images)
            if place
            else cifar_cases(name, options.images)
        )
        located = cases[0].mask is not None
        backdoored = name.endswith("backdoored")
        metrics = ([] if backdoored else list(INSERTION)) + (list(LOCALISATION) if located else [])
        own: Reduction | None = "sum_abs" if backdoored else None
        reduction: Reduction | None = options.reduction or own
        key = name + options.name
        settings = SETTINGS if place else SMALL_SETTINGS
        with stages(name) as progress:
            judge_maps(
                network, cases, [parse_arm(arm) for arm in options.arms.split(",")], methods,
                metrics, FOLDER / key, facts={"network": name, "images": len(cases)},
                method_settings={m: settings[m] for m in methods if m in settings},
                reduction=reduction, calibration=torch.cat([case.x for case in cases]),
                workers=options.workers, progress=progress,
            )  # fmt: skip
        kept = RESULTS / f"maps-{key}"
        keep_report(FOLDER / key, kept)
        print(f"{key}\n{(kept / 'tables.md').read_text()}", flush=True)


if __name__ == "__main__":
    main()
