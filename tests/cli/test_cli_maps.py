"""``bench trojan`` and ``bench insertion``: rows, tables, plots, cases; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cli.command_kit import Run
from sparsight.datasets.scenes import render_scene

FEW = ("--cases", "2", "--methods", "saliency,grad_cam", "--out", "found")
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
    assert "the sticker" in page
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


def test_mistakes_are_one_line(run: Run, home: Path) -> None:
    for wrong, said in (
        (("--arms", "dense,magic"), "unknown arm 'magic'"),
        (("--methods", "guess"), "unknown method 'guess'"),
    ):
        result = run("bench", "trojan", *FEW, *wrong)
        assert result.code == 2
        assert said in result.err
        assert result.err.count("\n") == 1
        assert not (home / "found").exists()
