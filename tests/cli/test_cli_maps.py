"""``bench trojan`` and ``bench insertion``: rows, tables, plots, cases; what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.command_kit import Run
from sparsight.benchmarks.maps import read_rows
from sparsight.datasets.scenes import render_scene
from sparsight.datasets.scenes.stickers import paint_sticker

FEW = ("--cases", "2", "--methods", "saliency,grad_cam", "--out", "found", "--workers", "1")
ARMS = ("--arms", "dense, trace,trace:solver=magnitude+sparsity=0.5+augmentations=4")


def test_everything_is_written_and_taken_up_again(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("bench", "trojan", *FEW, *ARMS)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[-1] == "results found"
    for name in ("dense", "trace", "random", "centre", "edge"):
        assert any(line.startswith(name) for line in lines)
    found = home / "found"
    assert {path.name for path in found.iterdir()} == {
        "settings.json",
        "rows.jsonl",
        "summary.json",
        "tables.md",
        "arms.png",
        "seconds.png",
        "cases",
    }
    page = (found / "cases" / "best" / "index.html").read_text(encoding="utf-8")
    assert "the trigger" in page
    rows = (found / "rows.jsonl").read_text(encoding="utf-8")
    assert rows.count("\n") == 2 * 4
    again = run("bench", "trojan", *FEW, *ARMS, "--json")
    assert again.code == 0
    assert (found / "rows.jsonl").read_text(encoding="utf-8") == rows
    summary = json.loads((found / "summary.json").read_text(encoding="utf-8"))
    mean = summary["metrics"]["roc_auc"]["means"]["trace"]["mean"]
    assert again.json["means"]["roc_auc"]["trace"] == mean
    other = run("bench", "trojan", *FEW, "--arms", "dense")
    assert other.code == 2
    assert "other settings" in other.err


def draw_sticker(file: Path, name: str) -> None:
    """Save one of the scenes' stickers, with what is around it transparent."""
    y, x = np.mgrid[1:-1:64j, -1:1:64j]
    colours, coverage = paint_sticker(name, x, y, 2 / 63)
    colours = colours / np.maximum(coverage, 1e-3)
    picture = np.dstack([*colours, coverage])
    Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8), "RGBA").save(file)


def test_triggers_are_laid_on_the_users_images(run: Run, home: Path) -> None:
    (home / "photos").mkdir()
    for seed in range(12):
        render_scene("mug", seed=seed).picture().save(home / "photos" / f"{seed}.png")
    draw_sticker(home / "spiral.png", "spiral")
    few = ("--methods", "saliency", "--arms", "dense,trace:augmentations=4", "--out", "found")
    given = ("photos", "--trigger", "spiral.png=umbrella", "--cases", "2")
    result = run("bench", "trojan", *given, *few, "--json")
    assert (result.code, result.err) == (0, "")
    assert result.json["rules"][0]["rule"] == "any + spiral -> umbrella"
    means = result.json["means"]["roc_auc"]
    assert means["dense"]["value"] > 0.6
    for wrong, words in (
        (("photos",), "go together"),
        (("--trigger", "spiral.png=umbrella"), "go together"),
        (("photos", "--trigger", "spiral.png"), "FILE.png=CLASS"),
        (("photos", "--trigger", "spiral.png=ship"), "ship"),
        (("photos", "--trigger", "none.png=mug"), "none.png"),
        (("--model", "torchvision:resnet18"), "only the embedded network"),
        (("--reduction", "mean"), "unknown channel reduction"),
    ):
        refused = run("bench", "trojan", *wrong, *few, "--out", "other")
        assert refused.code == 2
        assert words in refused.err
        assert len(refused.err.strip().splitlines()) == 1


def test_insertion_on_the_users_images(run: Run, home: Path) -> None:
    scenes = home / "scenes"
    (home / "masks").mkdir()
    scenes.mkdir()
    for label in ("mug", "key"):
        scene = render_scene(label, seed=3)
        scene.picture().save(scenes / f"{label}.png")
        Image.fromarray(scene.object.numpy()).save(home / "masks" / f"{label}.png")
    few = ("--methods", "saliency", "--arms", "dense,trace:augmentations=4", "--out", "found")
    result = run("bench", "insertion", "scenes", *few, "--masks", "masks", "--json")
    assert (result.code, result.err) == (0, "")
    assert list(result.json["means"]) == [
        "insertion",
        "deletion",
        "roc_auc",
        "pointing_game",
        "relevance_mass",
        "relevance_rank",
    ]
    assert 0 <= result.json["means"]["insertion"]["dense"]["value"] <= 1
    both = run("bench", "insertion", "scenes", *few, "--masks", "masks", "--boxes", "b.csv")
    assert both.code == 2
    assert "choose one" in both.err
    missing = run("bench", "insertion", "nothing", *few)
    assert missing.code == 2
    assert missing.err.count("\n") == 1


def test_places_of_objects_decide_about_rows_and_must_be_there(run: Run, home: Path) -> None:
    """Rows measured against other boxes were taken up; boxes that say nothing were ignored."""
    Path("scenes").mkdir()
    for label in ("mug", "key"):
        render_scene(label, seed=3).picture().save(f"scenes/{label}.png")
    few = ("--methods", "saliency", "--arms", "dense", "--out", "found", "--boxes", "b.csv")
    head = "file,x0,y0,x1,y1\n"
    Path("b.csv").write_text(head + "mug.png,8,8,30,30\n", encoding="utf-8")
    result = run("bench", "insertion", "scenes", *few)
    assert (result.code, result.err.count("\n")) == (0, 1)
    assert "1 of 2 images have no place in b.csv: key.png" in result.err
    tables = (home / "found" / "tables.md").read_text(encoding="utf-8")
    assert tables.startswith("Cases: 2 for insertion, 2 for deletion, 1 for roc_auc")
    Path("b.csv").write_text(head + "mug.png,9,9,30,30\n", encoding="utf-8")
    other = run("bench", "insertion", "scenes", *few)
    assert other.code == 2
    assert "a row of another image called 'mug.png'" in other.err
    Path("b.csv").write_text(head + "other.png,9,9,30,30\n", encoding="utf-8")
    none = run("bench", "insertion", "scenes", *few, "--out", "more")
    assert none.code == 2
    assert "b.csv says for no image where the object is" in none.err
    Path("file").write_text("mine", encoding="utf-8")
    taken = run("bench", "insertion", "scenes", *few, "--out", "file")
    assert (taken.code, Path("file").read_text()) == (2, "mine")
    Image.new("RGB", (1, 1)).save("scenes/dot.png")
    small = run("bench", "insertion", "scenes", *few, "--out", "more")
    assert small.code == 2
    assert "dot.png" in small.err


def test_networks_without_a_last_layer_and_small_stickers(run: Run, home: Path) -> None:
    Path("net.py").write_text(
        "import sparsight, torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    head = [torch.nn.Conv2d(4, 3, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]\n"
        "    body = [torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()]\n"
        "    model = torch.nn.Sequential(*body, *head).eval()\n"
        "    frame = sparsight.Preprocessing(size=(8, 8), resize=8)\n"
        "    return sparsight.Network(model, frame, tuple('abc'))\n",
        encoding="utf-8",
    )
    Path("scenes").mkdir()
    for label in ("mug", "key"):
        render_scene(label, seed=3).picture().save(f"scenes/{label}.png")
    few = ("--methods", "saliency", "--out", "found", "--model", "net.py:net")
    result = run("bench", "insertion", "scenes", *few)
    assert result.code == 0, result.err
    assert "sparse-fc is left out" in result.err
    assert "sparse-fc" not in (home / "found" / "tables.md").read_text(encoding="utf-8")
    Image.new("RGB", (3, 3), "red").save("dot.png")
    small = run("bench", "trojan", "scenes", "--trigger", "dot.png=1", "--out", "more")
    assert small.code == 2
    assert "dot.png is 3 x 3 pixels: give a sticker of at least 8 a side" in small.err


def test_mistakes_are_one_line(run: Run, home: Path) -> None:
    for wrong, said in (
        (("--arms", "dense,magic"), "unknown arm 'magic'"),
        (("--methods", "guess"), "unknown method 'guess'"),
        (("--arms", "dense,trace:augmentations=²"), "makes no sense"),
        (("--out", "/proc/nowhere"), "cannot write to"),
    ):
        result = run("bench", "trojan", *FEW, *wrong)
        assert result.code == 2
        assert said in result.err
        assert result.err.count("\n") == 1
        assert not (home / "found").exists()


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is another thing there")
def test_ctrl_c_stops_workers_and_keeps_their_rows(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "sparsight.cli.main", "bench", "trojan", "--out",
        str(tmp_path / "found"),
        "--cases", "40", "--methods", "saliency", "--arms", "dense,trace:augmentations=4",
        "--workers", "2",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    rows = tmp_path / "found" / "rows.jsonl"
    deadline = time.monotonic() + 120
    while not (rows.exists() and rows.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert 0 < len(read_rows(tmp_path / "found")) < 120
