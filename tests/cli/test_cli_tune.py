"""``tune``: ratios that serve as a sparsity, a comparison on other images, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.command_kit import Run
from sparsight.datasets.scenes import render_scene

FEW = ("--augmentations", "4", "--cases", "2", "--test", "2")


def test_scenes(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("tune", "--out", "found", *FEW)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "results found"
    ratios = json.loads((home / "found" / "ratios-saliency.json").read_text())
    assert next(iter(ratios)) == "fc"
    scene = render_scene(0, seed=1).picture()
    scene.save("scene.png")
    made = run(
        "trace", "scene.png", "--solver", "sparsegpt", "--sparsity", "found/ratios-saliency.json",
        "--augmentations", "4", "--out", "trace",
    )  # fmt: skip
    assert made.code == 0
    again = run("tune", "--out", "found", *FEW, "--json")
    told = json.loads(again.out)
    assert told["ratios"] == {"saliency": ratios}
    assert set(told["means"]) == {"blind", "dense", "trace", "ramp", "for saliency"}
    other = run("tune", "--out", "found", *FEW, "--metric", "pointing_game")
    assert other.code == 2
    assert "other settings" in other.err
    mixed = run("tune", "--out", "found", *FEW, "--solver", "magnitude")  # not what is solved there
    assert mixed.code == 2
    assert "other settings" in mixed.err
    search = home / "found" / "search-saliency.json"
    search.write_text("{", encoding="utf-8")
    damaged = run("tune", "--out", "found", *FEW)
    assert (damaged.code, len(damaged.err.splitlines())) == (2, 1)
    assert "search-saliency.json is damaged: delete it" in damaged.err


def test_photographs_with_masks(run: Run, home: Path) -> None:
    Path("photos").mkdir()
    Path("masks").mkdir()
    for seed in range(4):
        scene = render_scene(seed, seed=seed)
        scene.picture().save(f"photos/{seed}.png")
        mask = np.zeros((64, 64), np.uint8)
        mask[16:48, 16:48] = 255
        Image.fromarray(mask).save(f"masks/{seed}.png")
    result = run(
        "tune", "photos", "--masks", "masks", "--out", "found", *FEW, "--methods", "grad_cam",
        "--solver", "wanda",
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    few = run("tune", "photos", "--masks", "masks", "--out", "more", "--cases", "4")
    assert few.code == 2
    assert "only 4 images can be used" in few.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--trigger", "star.png=1"), "name images"),
        (("--boxes", "b.csv"), "name images"),
        (("--model", "torchvision:resnet18"), "name images for another one"),
        (("a.png", "--masks", "m", "--boxes", "b.csv"), "choose one"),
        (("--solver", "compensated"), "front to back"),
        (("--metric", "beauty"), "unknown metric"),
        (("--metric", "infidelity"), "judges no map by itself"),
        (("--out", "/proc/nowhere"), "cannot write to"),
        (("--methods", "guess"), "unknown method"),
    ],
)
def test_mistakes_are_one_line(run: Run, home: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run("tune", "--out", "found", *FEW, *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert len(result.err.splitlines()) == 1
