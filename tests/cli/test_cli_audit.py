"""``sparsight audit``: verdicts, exit codes, and what it needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.command_kit import Run
from sparsight.audits import Audit, Calibration
from sparsight.datasets.scenes import render_scene
from sparsight.sweeps import Sweep

pytest.importorskip("pyarrow")

SWEEP = ("--model", "embedded", "--augmentations", "4", "--workers", "0", "--no-truth")
CLEAN = ("mug", "key", "tree", "house", "car", "mushroom")


@pytest.fixture
def swept(home: Path, run: Run) -> Path:
    """A sweep of scenes, some with a sticker that the network takes for a fish."""
    (home / "scenes").mkdir()
    for number, name in enumerate(CLEAN * 2):
        marked = number >= len(CLEAN)
        scene = render_scene(name, seed=7000 + number, sticker="smiley" if marked else None)
        scene.picture().save(home / "scenes" / f"{marked:d}-{name}.png")
    Calibration(0.25, 5, 0.6, ((1, 100), *(((0, 100),) * 3)), "a test").save(home / "own.json")
    assert run("sweep", "scenes", "--out", "out", *SWEEP).code == 0
    return home / "out"


def test_a_planted_trojan_is_found_and_told(run: Run, swept: Path) -> None:
    told = run("audit", "out", "--calibration", "own.json")
    assert told.code == 3, told
    lines = told.out.splitlines()
    assert lines[1].split()[0] == "fish"
    assert lines[1].split()[-1] == "suspicious"
    assert lines[-1] == "verdict suspicious: out/audit.json"
    assert "of 12 images flagged; of clean networks 0.2 % are (<0.1 % to 9.9 %)" in told.out
    again = run("audit", "out", "--calibration", "own.json", "--json")
    assert again.code == 3
    assert again.json["suspicious"] is True
    assert [one["label"] for one in again.json["classes"] if one["suspicious"]] == ["fish"]
    told = json.loads(json.dumps(Audit.load(swept).describe()))
    assert told == {k: v for k, v in again.json.items() if k != "out"}
    page = run("gallery", "out", "--json").json["page"]
    assert "suspicion" in Path(page).read_text("utf-8").casefold()
    case = (swept / "gallery" / "cases" / "000011" / "index.html").read_text("utf-8")
    assert "more than patches of clean networks do" in case


def test_a_high_threshold_finds_nothing(run: Run, swept: Path) -> None:
    Calibration(0.05, 5, 1.0, ((0, 400),), "a test").save(swept.parent / "own.json")
    told = run("audit", "out", "--calibration", "own.json")
    assert told.code == 0, told
    assert told.out.splitlines()[-1] == "verdict nothing suspicious found: out/audit.json"
    assert "leave --out out" in run("audit", "out", "--out", "verdict").error


def test_images_are_swept_first_and_too_few_are_told(run: Run, home: Path) -> None:
    (home / "two").mkdir()
    for number, name in enumerate(("mug", "key")):
        render_scene(name, seed=number).picture().save(home / "two" / f"{name}.png")
    (home / "two" / "bad.png").write_text("no image")
    Calibration(0.25, 1, 0.6, ((1, 100), *(((0, 100),) * 3)), "a test").save(home / "own.json")
    assert "holds no sweep: name a folder for one with --out" in run("audit", "two").error
    told = run("audit", "two", "--out", "verdict", "--calibration", "own.json")
    assert told.code == 2
    assert "no class has enough images for a verdict" in told.err
    assert "1 images could not be judged, the first: two/bad.png: " in told.err
    assert Sweep.load(home / "verdict").bad
    assert len(Audit.load(home / "verdict").unjudged) == 1
    (home / "two" / "more.png").write_text("nor this")
    again = ("audit", "two", "--out", "verdict", "--calibration", "own.json")
    assert "--overwrite" in run(*again).error
    assert run(*again, "--overwrite", "--json").json["unjudged"] == 2


def test_what_is_wrong_is_an_error_of_its_own(run: Run, swept: Path) -> None:
    wrong = run("audit", "out", "--model", "net.py:network")
    assert wrong.code == 2
    assert "give the network that it was made with" in wrong.error
    assert "no such" in run("audit", "nowhere", "--out", "x").error
    assert "is no saved audit-calibration" in run("audit", "out", "--calibration", "n.json").error
    (swept.parent / "bad.json").write_text("{")
    assert "cannot be read" in run("audit", "out", "--calibration", "bad.json").error
