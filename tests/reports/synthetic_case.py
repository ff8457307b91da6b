"""A made-up case: a smooth noise picture with a sticker, and maps that look like maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsight.reports import CaseFile, ClassRow, LayerRow, MapPair, ViewPair
from sparsight.reports.blame import BlamedUnit, BlameReport, Curves, Profile, SimilarImage

METHODS = {
    "saliency": ("Gradient", False),
    "input_x_gradient": ("Input × gradient", True),
    "integrated_gradients": ("Integrated gradients", True),
    "smoothgrad": ("SmoothGrad", False),
    "deconvnet": ("Deconvolution", True),
    "guided_backprop": ("Guided backpropagation", True),
    "lrp": ("Layer-wise relevance propagation", True),
    "grad_cam": ("Grad-CAM", False),
    "occlusion": ("Occlusion", True),
    "lime": ("LIME", True),
    "gradient_shap": ("Gradient SHAP", True),
}


def smooth(rng: np.random.Generator, size: int, waves: int = 6) -> NDArray[Any]:
    y, x = np.mgrid[0:size, 0:size] / size
    field = np.zeros((size, size))
    for _ in range(waves):
        fx, fy, phase = (*rng.uniform(0.5, 4, 2).tolist(), rng.uniform(0, 6.28))
        field += np.sin(6.28 * (fx * x * rng.choice([-1, 1]) + fy * y) + phase)
    return field / waves


def make_image(rng: np.random.Generator, size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    image = np.stack([0.5 + 0.45 * smooth(rng, size) for _ in range(3)], axis=2)
    y, x = np.mgrid[0:size, 0:size] / size
    sticker = (x - 0.7) ** 2 + (y - 0.3) ** 2 < 0.09**2
    image[sticker] = (0.95, 0.8, 0.1)
    return image.clip(0, 1), sticker


def make_maps(rng: np.random.Generator, size: int, count: int) -> tuple[MapPair, ...]:
    y, x = np.mgrid[0:size, 0:size] / size
    bump = np.exp(-((x - 0.7) ** 2 + (y - 0.3) ** 2) / 0.008)
    body = np.exp(-((x - 0.4) ** 2 + (y - 0.6) ** 2) / 0.05)
    pairs = []
    gaps = (0.003, 0.04, 0.35, None)
    for place, (method, (title, signed)) in enumerate(list(METHODS.items())[:count]):
        coarse = 7 if method == "grad_cam" and size >= 64 else size
        noise = rng.normal(size=(size, size))
        dense = 0.5 * body + 0.4 * bump + 0.35 * noise * (0.3 + body)
        traced = 0.15 * body + 1.2 * bump + 0.15 * rng.normal(size=(size, size)) * (0.2 + body)
        if not signed:
            dense, traced = np.abs(dense), np.abs(traced)
        if coarse != size:
            grid = size // coarse
            dense, traced = (
                heat[: coarse * grid, : coarse * grid]
                .reshape(coarse, grid, coarse, grid)
                .mean(axis=(1, 3))
                for heat in (dense, traced)
            )
        pairs.append(
            MapPair(
                method,
                title,
                1e-3 * dense,
                4.2 * traced,
                signed=signed,
                dense_gap=gaps[place % 4],
                traced_gap=gaps[(place + 1) % 4],
                gap_of="conservation" if method == "lrp" else "completeness",
                notes=("Baseline: black image.",) if place == 2 else (),
                dense_seconds=0.08 * (place + 1),
                traced_seconds=0.09 * (place + 1),
            )
        )
    return tuple(pairs)


def make_layers(rng: np.random.Generator, count: int) -> tuple[LayerRow, ...]:
    rows = []
    for place in range(count):
        depth = place / max(1, count - 1)
        asked = 0.99 - 0.09 * depth
        kind = "Conv2d" if place < count - 1 else "Linear"
        rows.append(
            LayerRow(
                name=f"layer{1 + place // 9}.{place % 9}.conv{place % 3}",
                parameter=f"layer{1 + place // 9}.{place % 9}.conv{place % 3}.weight",
                kind=kind,
                rows=64,
                columns=576,
                groups=1,
                requested=asked,
                sparsity=min(1.0, max(0.0, asked + rng.normal() * 0.002)),
                error=abs(0.08 + 0.1 * depth + 0.04 * rng.normal()),
                damping=1e-3,
                note="7 dead columns were left out of the solve" if place == count // 3 else "",
            )
        )
    return tuple(rows)


def make_views(size: int, count: int) -> tuple[ViewPair, ...]:
    """Smooth noise for so many neurons."""
    rng = np.random.default_rng(count)
    return tuple(
        ViewPair(
            f"class:{number}", f"class {number}", make_image(rng, size)[0],
            make_image(rng, size)[0], 9.5 + number, 21.25,
        )
        for number in range(count)
    )  # fmt: skip


def make_case(
    seed: int = 0,
    size: int = 64,
    methods: int = 3,
    layers: int | tuple[LayerRow, ...] = 20,
    views: int | tuple[ViewPair, ...] = 2,
    **changes: Any,
) -> CaseFile:
    """A case; keyword arguments replace fields of it."""
    rng = np.random.default_rng(seed)
    image, sticker = make_image(rng, size)
    values: dict[str, Any] = {
        "title": "golden.jpg: why golden retriever?",
        "image": image,
        "image_name": "golden.jpg",
        "network": "torchvision:resnet50",
        "target_index": 207,
        "target_label": "golden retriever",
        "classes": (
            ClassRow(207, "golden retriever", 0.874, 0.912),
            ClassRow(208, "Labrador retriever", 0.061, 0.043),
            ClassRow(213, "Irish setter", 0.012, 0.0004),
            ClassRow(222, "kuvasz", 0.009, 0.0101),
            ClassRow(852, "tennis ball", 0.004, 0.021),
            ClassRow(257, "Great Pyrenees", 0.00002, 0.006),
        ),
        "kl": 0.0231,
        "sparsity": 0.9514,
        "maps": (
            *make_maps(rng, size, methods),
            MapPair("deeplift", "DeepLIFT", refused="layer1.0.relu is used twice: not defined"),
        ),
        "layers": make_layers(rng, layers) if isinstance(layers, int) else layers,
        "views": make_views(size, views) if isinstance(views, int) else views,
        "settings": {
            "solver": "obs",
            "augmentation": {"count": 100, "crops": [0.8, 1.0]},
            "allocation": "by output error",
        },
        "versions": {"sparsight": "0.1.0", "torch": "2.15.0", "python": "3.11.9"},
        "seed": 0,
        "timings": {"load": 0.8, "trace": 41.5, "maps": 12.2, "report": 0.4},
        "warnings": ("The trace moves 2 % of the probability to tennis ball.",),
        "truth_mask": sticker,
        "truth_name": "sticker",
        "notes": "Found while looking for odd golden retrievers.",
        "command": "sparsight explain golden.jpg --network torchvision:resnet50 --seed 0",
        "created": "2026-01-01T00:00:00+00:00",
    }
    return CaseFile(**(values | changes))


def make_blame(label: str = "cat", predicted: str = "dog", size: int = 32) -> BlameReport:
    """Blame for a mistake, of the dense network and of a trace."""
    rng = np.random.default_rng(0)
    layers = [(f"layer{i}", rng.normal(size=count)) for i, count in enumerate((4, 16, 64))]
    depth = [
        (name, share, len(own) / 84)
        for (name, own), share in zip(layers, (0.1, 0.2, 0.7), strict=True)
    ]
    profiles = [
        Profile(side, layers, depth, 0.9, rng.random((size, size))) for side in ("Dense", "Traced")
    ]
    counts = [0, 1, 5]
    falling = {order: [0.9, 0.9 - fall, 0.9 - 2 * fall]
               for order, fall in (("salient", 0.3), ("random", 0.1), ("least", 0.0))}  # fmt: skip
    curves = Curves(counts, falling, falling, {order: [0.0, 0.1, 0.2] for order in falling})
    picture = rng.random((8, 8, 3)).astype(np.float32)
    near = [SimilarImage("a.png", label, predicted, 0.9, picture),
            SimilarImage("gone.png", label, predicted, 0.5)]  # fmt: skip
    units = [BlamedUnit("layer2", 7, 9.5, 9.5, 3.25, 0.5), BlamedUnit("layer1", 3, 4.0, 4.0, 1.0)]
    facts = [("ranked by", "z"), ("seed", "0")]
    return BlameReport(
        label, predicted, 2.5, "z", units, profiles, curves, near, facts, (0.5, 0.75)
    )
