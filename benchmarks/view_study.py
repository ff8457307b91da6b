"""Which of two things in an image a visualization stands for, judged without people.

    python benchmarks/view_study.py [--images 12] [--twins 24] [--steps 96]

The published study showed people an image of two classes, a visualization of one class, dense or
traced, and asked which of two patches of the image it stands for. Here two photographs are put side
by side, both of classes that the network then names among its first five. A class's patch is what
Score-CAM on the dense network gives it, everything else black. The answer is given by a network
that is not the one looked at, the MobileNet-V2 of the shared data folder: the patch whose pooled
features are more like those of the visualization, by cosine, after the mean over an arm's
visualizations, and over patches, is taken off. It is undecided where the two are about equally
alike, by a margin that leaves about as many of the dense network's visualizations undecided as
people were (22.9 %).

A second question has no counterpart there. The class of two photographs is visualized on the trace
of each; the judge says once per pair which visualization belongs to which photograph, by whether
the difference of the two points the way of that of the photographs. A visualization of the dense
network cannot know, so it is right half of the time.

Arms of the first: the dense network; the trace of the image; the trace of another image for the
same class; the network pruned once for all images; and, instead of a visualization, noise and
another photograph of the class, which say what the judge can do at worst and at best. Traces prune
the last layers alone, as published for visualizations; the second question is asked of the default
trace too. Every case is kept in ``build/view-study``, so that an interrupted run goes on; remove it
after a change. Shares with 95 % bootstrap intervals, over images or pairs of them, go to
``benchmarks/results/view-study.json``, which shows no photograph.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from plant_trojans import IMAGENET, dense_network
from sparsight.benchmarks.maps.summary import Estimate, estimate
from sparsight.benchmarks.trojans import Photo, read_photos
from sparsight.networks import Network, overlay
from sparsight.storage import library_versions, write_text
from sparsight.traces import trace
from sparsight.visualization import logit, visualize
from tables import stages, write_table
from trojan_views import judge

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "view-study"
RESULT = ROOT / "benchmarks" / "results" / "view-study.json"
PAGE = ROOT / "docs" / "explanation" / "visualizations.md"
SIDE = 224
SPARSITY = {"layer3.1": 0.95, "layer4": 0.95, "fc": 0.95}
ONCE = "pruned once, half of the weights"
ARMS = ("dense", "trace", "trace of another image", ONCE, "noise", "photograph of the class")
TWIN_ARMS = ("dense", "trace", "default trace")
UNDECIDED = 0.229  # of the dense network's visualizations, as with people


@dataclass(frozen=True)
class Pair:
    """Two photographs in one image; the classes in their order, left and right."""

    name: str
    image: Image.Image
    classes: tuple[int, int]


def pairs(network: Network, photos: list[Photo], count: int) -> Iterator[Pair]:
    """Put photographs side by side that the network recognises alone and together."""
    order = np.random.default_rng(0).permutation(len(photos))
    found = 0
    for one, two in zip(order[::2], order[1::2], strict=False):
        if found == count:
            return
        left, right = photos[one], photos[two]
        if left.label == right.label or not all(recognised(network, p) for p in (left, right)):
            continue
        image = Image.new("RGB", (SIDE, SIDE))
        for photo, place in ((left, 0), (right, SIDE // 2)):
            whole = photo.open().resize((SIDE * 3 // 4, SIDE))  # a little narrower than it is,
            margin = (whole.width - SIDE // 2) // 2  # and of that the middle
            image.paste(whole.crop((margin, 0, margin + SIDE // 2, SIDE)), (place, 0))
        said = network.logits(network.prepare(image))[0].topk(5).indices.tolist()
        if left.label in said and right.label in said:
            found += 1
            yield Pair(f"{left.name} {right.name}", image, (left.label, right.label))


def twins(network: Network, photos: list[Photo], count: int) -> Iterator[tuple[Photo, Photo]]:
    """Two photographs of one class that the network recognises, of so many classes."""
    kept: dict[int, Photo] = {}
    done: set[int] = set()
    for number in np.random.default_rng(1).permutation(len(photos)):
        photo = photos[number]
        if len(done) == count:
            return
        if photo.label in done or not recognised(network, photo):
            continue
        if photo.label in kept:
            done.add(photo.label)
            yield kept[photo.label], photo
        kept[photo.label] = photo


def recognised(network: Network, photo: Photo) -> bool:
    """Say whether the network gives a photograph its class."""
    return int(network.logits(network.prepare(photo.open())).argmax()) == photo.label


@torch.no_grad()
def score_cam(network: Network, x: Tensor, classes: tuple[int, int]) -> Tensor:
    """Score-CAM of two classes on the last stage, ``(2, H, W)``.

    H. Wang et al., CVPR Workshops 2020: channels of the last stage, scaled to [0, 1], mask the
    image; a class's map is their sum, weighted by the class's probability on what they let through.
    """
    seen: list[Tensor] = []
    stage = network.model.get_submodule("layer4")
    hook = stage.register_forward_hook(lambda *given: seen.append(given[2]))
    network(x)
    hook.remove()
    maps = F.interpolate(seen[0], x.shape[2:], mode="bilinear")[0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    maps = ((maps - low) / (high - low).clamp_min(1e-8))[:, None]
    shown = [network(x * part).softmax(1)[:, list(classes)] for part in maps.split(32)]
    return torch.einsum("kc,khw->chw", torch.cat(shown), maps[:, 0])


def patches(network: Network, pair: Pair) -> list[Image.Image]:
    """Cut out of what the network saw each class's part: the half where its map is ahead."""
    x = network.prepare(pair.image)
    cams = score_cam(network, x, pair.classes)
    cams = cams / cams.mean((1, 2), keepdim=True)
    ahead = cams[0] - cams[1]
    cut = (ahead > ahead.median())[..., None].numpy()
    unit = network.preprocessing.denormalize(x[0]).permute(1, 2, 0).clamp(0, 1).numpy()
    pixels = (255 * unit).round().astype(np.uint8)
    return [Image.fromarray(pixels * part) for part in (cut, ~cut)]


def patch_features(
    network: Network, pair: Pair, features: Callable[[list[Image.Image]], Tensor]
) -> Any:
    """Features of the two patches."""
    return features(patches(network, pair)).tolist()


@cache
def pruned_once(network: Network) -> Mapping[str, Tensor]:
    """Prune for all images at once."""
    photos = read_photos(IMAGENET / "photos_labels.csv", IMAGENET / "photos")[:64]
    x = torch.cat([network.prepare(photo.open()) for photo in photos])
    return trace(network, x[:1], sparsity=0.5, solver="wanda", augmentations=x).tensors


def draw_all(
    network: Network,
    target: int,
    made: Mapping[str, Mapping[str, Tensor]],
    shown: Mapping[str, list[Image.Image]],
    steps: int,
    seed: int,
) -> None:
    """Visualize a class with the weights of each arm, and add the pictures to those there."""
    for arm, tensors in made.items():
        with overlay(network.model, tensors):
            found = visualize(network, logit(target), steps=steps, seed=seed)
        shown[arm].append(found.picture())


def case_features(
    network: Network,
    pair: Pair,
    other: Pair,
    photos: list[Photo],
    features: Callable[[list[Image.Image]], Tensor],
    steps: int,
) -> dict[str, Any]:
    """Features of every arm's picture for each of the two classes."""
    shown: dict[str, list[Image.Image]] = {arm: [] for arm in ARMS}
    for number, target in enumerate(pair.classes):
        made: dict[str, Mapping[str, Tensor]] = {
            "trace": trace(network, pair.image, target=target, sparsity=SPARSITY).tensors,
            "trace of another image": trace(
                network, other.image, target=target, sparsity=SPARSITY
            ).tensors,
            ONCE: pruned_once(network),
            "dense": {},
        }
        draw_all(network, target, made, shown, steps, seed=number)
        noise = np.random.default_rng([number, *pair.classes]).integers(0, 256, (SIDE, SIDE, 3))
        shown["noise"].append(Image.fromarray(noise.astype(np.uint8)))
        same = [p for p in photos if p.label == target and p.name not in pair.name]
        shown["photograph of the class"] += [same[0].open()] if same else []
    return {arm: features(found).tolist() for arm, found in shown.items() if len(found) == 2}


def twin_features(
    network: Network,
    both: tuple[Photo, Photo],
    features: Callable[[list[Image.Image]], Tensor],
    steps: int,
) -> dict[str, Any]:
    """Features of the two photographs, and of every arm's picture for each."""
    pictures = [photo.open() for photo in both]
    target = both[0].label
    shown: dict[str, list[Image.Image]] = {arm: [] for arm in TWIN_ARMS}
    for number, picture in enumerate(pictures):
        made: dict[str, Mapping[str, Tensor]] = {
            "dense": {},
            "trace": trace(network, picture, target=target, sparsity=SPARSITY).tensors,
            "default trace": trace(network, picture, target=target).tensors,
        }
        draw_all(network, target, made, shown, steps, seed=number)
    return {
        "photographs": features(pictures).tolist(),
        "shown": {arm: features(found).tolist() for arm, found in shown.items()},
    }


def twin_report(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of pairs of which each visualization is told to belong to its own photograph."""
    rows = {}
    for arm in TWIN_ARMS:
        right = []
        for case in cases:
            wanted, own = (torch.tensor(f) for f in (case["photographs"], case["shown"][arm]))
            apart = F.normalize(wanted[0] - wanted[1], dim=0) @ F.normalize(own[0] - own[1], dim=0)
            right.append(float(apart > 0))
        rows[arm] = share(torch.tensor(right))
    return {"pairs": len(cases), "right": rows}


def judged(cases: list[dict[str, Any]]) -> dict[str, Tensor]:
    """How much more a picture is like its own class's patch than the other, ``(cases, 2)``."""
    wanted = torch.tensor([case["patches"] for case in cases])
    wanted = F.normalize(wanted - wanted.mean((0, 1)), dim=-1)
    found = {}
    for arm in ARMS:
        here = [i for i, case in enumerate(cases) if arm in case["shown"]]
        own = torch.tensor([cases[i]["shown"][arm] for i in here])
        own = F.normalize(own - own.mean((0, 1)), dim=-1)
        alike = own @ wanted[here].mT  # (cases, pictures, patches)
        ahead = alike[:, :, 0] - alike[:, :, 1]
        found[arm] = torch.stack([ahead[:, 0], -ahead[:, 1]], 1)
    return found


def share(hits: Tensor) -> dict[str, float]:
    """Mean over images with its interval; ``hits`` is ``(images, 2)`` or ``(images,)``."""
    return asdict(estimate(hits.double().reshape(len(hits), -1).mean(1).numpy()))


def report(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares that agree with Score-CAM, disagree, and are undecided, by arm."""
    ahead = judged(cases)
    margin = float(ahead["dense"].abs().quantile(UNDECIDED))
    rows = {
        arm: {
            "images": len(found),
            "agree": share(found > margin),
            "disagree": share(found < -margin),
            "undecided": share(found.abs() <= margin),
            "agree if forced": share(found > 0),
        }
        for arm, found in ahead.items()
    }
    gain = (ahead["trace"] > margin).double() - (ahead["dense"] > margin).double()
    return {"margin": margin, "arms": rows, "trace more than dense, agree": share(gain)}


def table(content: dict[str, Any]) -> str:
    """Render both questions, for the page."""

    def shown(found: dict[str, float]) -> str:
        return Estimate(**found).percent(0)

    parts = ("agree", "disagree", "undecided", "agree if forced")
    lines = [
        f"| visualization of | images | {' | '.join(parts)} |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for arm, row in content["arms"].items():
        values = " | ".join(shown(row[part]) for part in parts)
        lines.append(f"| {arm} | {row['images']} | {values} |")
    same = content["photographs of one class"]
    lines += ["", f"| visualization of | right of {same['pairs']} pairs |", "|---|---:|"]
    lines += [f"| {arm} | {shown(found)} |" for arm, found in same["right"].items()]
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, and write the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--twins", type=int, default=24)
    parser.add_argument("--steps", type=int, default=96)
    options = parser.parse_args()
    if not IMAGENET.is_dir():
        sys.exit("the shared data folder is not beside this checkout: nothing can be judged")
    network, features = dense_network(options.network), judge()
    photos = read_photos(IMAGENET / "val_labels.csv", IMAGENET / "val")
    others = read_photos(IMAGENET / "photos_labels.csv", IMAGENET / "photos")
    images = list(pairs(network, photos, options.images))
    photos += others
    couples = list(twins(network, photos, options.twins))

    def cached(name: str, make: Callable[[], Any]) -> Any:
        file = FOLDER / f"{options.network}-{options.steps}-{name}.json"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(make()) + "\n")
        return json.loads(file.read_text())

    cases, same = [], []
    with stages(options.network) as progress:
        for number, pair in enumerate(images):
            progress("two classes", number, len(images))
            other = images[(number + 1) % len(images)]
            name = pair.name.replace(" ", "-")
            make = partial(case_features, network, pair, other, photos, features, options.steps)
            cut = partial(patch_features, network, pair, features)
            cases.append({"shown": cached(name, make), "patches": cached(f"patches-{name}", cut)})
        for number, couple in enumerate(couples):
            progress("one class", number, len(couples))
            name = "-".join(photo.name for photo in couple)
            make = partial(twin_features, network, couple, features, options.steps)
            same.append(cached(f"one-class-{name}", make))
    content = {
        "command": " ".join(["python", "benchmarks/view_study.py", *sys.argv[1:]]),
        "network": options.network,
        "images": [pair.name for pair in images],
        "steps": options.steps,
        "sparsity": SPARSITY,
        **report(cases),
        "photographs of one class": twin_report(same),
        "versions": library_versions(),
    }
    write_text(RESULT, json.dumps(content, indent=2) + "\n")
    write_table(PAGE, table(content))
    print(table(content))


if __name__ == "__main__":
    main()
