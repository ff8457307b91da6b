"""``visualize`` and ``layers``: pictures, page, refusals that lose nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cli.command_kit import Run
from sparsight.datasets.scenes import render_scene
from sparsight.traces import Trace
from sparsight.visualization import Visualization

FAST = ("--steps", "2", "--augmentations", "4")


@pytest.fixture
def scene(home: Path) -> str:
    render_scene("mug", seed=1).picture().save("scene.png")
    return "scene.png"


def test_dense_and_traced_side_by_side(run: Run, home: Path, scene: str) -> None:
    result = run(
        "visualize", scene, "--neuron", "class:guitar", "--neuron", "stage3.1:4", "--images", "2",
        "--out", "seen", *FAST,
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "page seen/index.html"
    assert result.out.startswith("class:guitar: dense ")
    seen = home / "seen"
    assert {path.name for path in seen.iterdir()} == {"index.html", "dense", "traced", "trace"}
    dense, traced = (Visualization.load(seen / side) for side in ("dense", "traced"))
    assert dense.images.shape == traced.images.shape == (2, 2, 3, 64, 64)
    assert traced.network.endswith("(traced)")
    Trace.load(seen / "trace")
    with Image.open(seen / "traced" / "001-01.png") as picture:
        assert picture.size == (64, 64)
    page = (seen / "index.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 4
    assert page.count("data:image/png") == 9  # and the image
    assert "<script" not in page
    assert "scene.png: mug" in page


def test_the_answer_is_shown_by_default(run: Run, home: Path, scene: str) -> None:
    result = run("visualize", scene, "--out", "seen", "--no-dense", "--json", *FAST)
    told = json.loads(result.out)
    assert (result.code, told["neurons"], list(told["scores"])) == (0, ["class:mug"], ["Traced"])


def test_examples_are_shown_too(run: Run, home: Path, scene: str) -> None:
    Path("scenes").mkdir()
    for number in range(4):
        render_scene(number, seed=number).picture().save(f"scenes/{number}.png")
    result = run(
        "visualize", scene, "--neuron", "stage3.1:4", "--examples", "scenes", "--out", "seen", *FAST
    )
    assert (result.code, result.err) == (0, "")
    for side in ("dense", "traced"):
        (found,) = json.loads((home / "seen" / side / "examples.json").read_text())
        assert len(found) == 4
        assert [e["score"] for e in found] == sorted((e["score"] for e in found), reverse=True)
    page = (home / "seen" / "index.html").read_text(encoding="utf-8")
    assert page.count('class="crops"') == 2
    wrong = run("visualize", scene, "--examples", "none", "--out", "other", *FAST)
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    wrong = run(
        "visualize", scene, "--neuron", "stage3:all", "--examples", "scenes", "--out", "other",
        *FAST,
    )  # fmt: skip
    assert "cannot be searched" in wrong.err


def test_without_an_image_the_network_alone(run: Run, home: Path) -> None:
    result = run("visualize", "--neuron", "class:mug - class:tree", "--out", "seen", *FAST)
    assert (result.code, result.err) == (0, "")
    assert not (home / "seen" / "traced").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name an image"),
        (("--neuron", "class:mug", "--no-dense"), "needs an image"),
        (("scene.png", "--no-dense", "--no-traced"), "--no-dense needs an image"),
        (("scene.png", "--neuron", "stage9:1"), "no layer 'stage9'"),
        (("scene.png", "--neuron", "nonsense"), "names no neuron"),
        (("scene.png", "--neuron", "class:cow"), "no class 'cow'"),
        (("missing.png",), "no such image file"),
        (("scene.png", "--parametrization", "oil"), "unknown parametrization"),
        (("scene.png", "--diversity", "-1"), "are weights"),
    ],
)
def test_mistakes_are_one_line(
    run: Run, home: Path, scene: str, arguments: tuple[str, ...], said: str
) -> None:
    result = run("visualize", "--out", "seen", *FAST, *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert len(result.err.splitlines()) == 1
    assert not (home / "seen").exists()


def test_results_are_replaced_only_if_asked(run: Run, home: Path, scene: str) -> None:
    command = ("visualize", "--neuron", "class:mug", "--out", "seen", *FAST)
    assert run(*command).code == 0
    again = run(*command)
    assert again.code == 2
    assert "not empty" in again.err
    assert run(*command, "--overwrite").code == 0


def test_layers_are_listed(run: Run, home: Path) -> None:
    result = run("layers", "--contains", "stage3")
    assert result.code == 0
    assert any(line.startswith("stage3.1.conv2") for line in result.out.splitlines())
    told = json.loads(run("layers", "--json").out)
    assert told["layers"][-1] == {"name": "fc", "kind": "Linear", "channels": 10, "shape": [10]}
    none = run("layers", "--contains", "nothing")
    assert (none.code, "no layer has 'nothing'" in none.err) == (2, True)
