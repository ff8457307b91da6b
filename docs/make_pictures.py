"""Render the pictures of the README and the docs into ``docs/images``.

    python docs/make_pictures.py

``maps.png``: a scene with a planted sticker, and maps of the dense network and of its trace.
``case.png``: the top of the case file of the same scene; it needs Chromium and is left as it is
without one. ``two-clusters.png``: what the page of that name computes.
"""

from __future__ import annotations

import doctest
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import sparsight
from sparsight.casefile import explain
from sparsight.datasets.scenes import Scene, render_scene
from sparsight.networks import Network
from sparsight.reports import CaseFile, write_case

IMAGES = Path(__file__).resolve().parent / "images"
METHODS = ("saliency", "integrated_gradients", "lrp")
LABEL, STICKER, SEED = "mug", "heart", 1


def make_case(network: Network, scene: Scene) -> CaseFile:
    """Explain the scene, with the sticker's mask as the answer key."""
    name = f"{scene.name}-with-{scene.sticker_name}.png"
    case = explain(network, scene.picture(), methods=METHODS, image_name=name)
    return replace(case, truth_mask=scene.sticker, truth_name="planted sticker")


def draw_maps(case: CaseFile, path: Path) -> None:
    """Draw image, dense maps above, traced maps below, the sticker outlined."""
    mask = np.asarray(case.truth_mask, dtype=float)
    figure, axes = plt.subplots(
        2, 1 + len(case.maps), figsize=(2.3 * (1 + len(case.maps)), 5.2), layout="constrained"
    )
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
    axes[0, 0].imshow(case.image)
    axes[0, 0].set_title(f"the network says “{case.dense_top.label}”", fontsize=10)
    axes[1, 0].text(
        0.5,
        0.5,
        f"trace: “{case.traced_top.label}”\n{case.sparsity:.0%} of the weights removed\n"
        f"KL {case.kl:.2g} nats\n\nsticker: {mask.mean():.0%} of the area",
        ha="center",
        va="center",
        fontsize=10,
        linespacing=1.5,
    )
    for column, pair in enumerate(case.maps, 1):
        for row, (side, heat) in enumerate((("dense", pair.dense), ("traced", pair.traced))):
            axis = axes[row, column]
            if heat is None:
                continue
            positive = np.asarray(heat).clip(0)
            axis.imshow(positive, cmap="magma", vmax=np.quantile(positive, 0.995))
            axis.contour(mask, levels=[0.5], colors="white", linewidths=1.2)
            inside = float((positive * mask).sum() / positive.sum()) if positive.any() else 0.0
            axis.set_title(f"{pair.title}, {side}", fontsize=10)
            axis.set_xlabel(f"{inside:.0%} on the sticker", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def photograph_page(page: Path, path: Path) -> bool:
    """Take a picture of the top of a page; whether there was a browser to do it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        return False
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = opened.new_page(viewport={"width": 1180, "height": 1420}, color_scheme="light")
        tab.goto(page.as_uri())
        tab.screenshot(path=path)
        opened.close()
    return True


def draw_clusters(page: Path, path: Path) -> None:
    """Run the examples of the page on two clusters and draw where visualizations land."""
    found: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples(page.read_text(encoding="utf-8")):
        exec(example.source, found)
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.3), layout="constrained", sharey=True)
    landed = {
        "dense network": found["dense"],
        "trace, small cluster": found["small"],
        "trace, large cluster": found["large"],
    }
    for axis, (title, places) in zip(axes, landed.items(), strict=True):
        for name, colour in (("outside", "0.8"), ("inside", "#7fb3d5")):
            x, y = found[name].T
            axis.scatter(x, y, s=3, color=colour, label=name, rasterized=True)
        x, y = places.T
        axis.scatter(x, y, s=9, color="#c0392b", alpha=0.5, lw=0, label="visualizations")
        at_large = found["share_at_large"](places)
        axis.set_title(f"{title}\n{at_large:.0%} nearer to the large cluster", fontsize=9)
        axis.set_aspect("equal")
    axes[0].legend(fontsize=7, loc="lower left", markerscale=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Make the pictures."""
    IMAGES.mkdir(exist_ok=True)
    network = sparsight.load("embedded")
    case = make_case(network, render_scene(LABEL, seed=SEED, sticker=STICKER))
    draw_maps(case, IMAGES / "maps.png")
    draw_clusters(IMAGES.parent / "explanation" / "two-clusters.md", IMAGES / "two-clusters.png")
    with tempfile.TemporaryDirectory() as folder:
        write_case(case, Path(folder) / "case")
        if not photograph_page(Path(folder) / "case" / "index.html", IMAGES / "case.png"):
            print("no Chromium here: case.png is left as it is")
    for picture in sorted(IMAGES.glob("*.png")):
        print(f"{picture.name}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
