"""``blame-stats`` and ``blame``: files, pages, refusals that lose nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cli.command_kit import Run
from sparsight.blame import Statistics
from sparsight.datasets.scenes import render_scene

CLASSES = ("mug", "guitar", "tree")


@pytest.fixture
def scenes(home: Path) -> str:
    """A folder for each class; two mugs lie among the guitars."""
    for number in range(12):
        label = CLASSES[number % 3]
        folder = Path("scenes") / ("guitar" if number in (0, 3) else label)
        folder.mkdir(parents=True, exist_ok=True)
        render_scene(label, seed=number).picture().save(folder / f"{number}.png")
    return "scenes"


@pytest.fixture
def usual(run: Run, scenes: str) -> str:
    result = run("blame-stats", scenes, "--out", "usual.safetensors", "--profiles", "--tail", "6")
    assert (result.code, result.err) == (0, "")
    return "usual.safetensors"


def test_statistics_of_a_folder(run: Run, home: Path, scenes: str) -> None:
    result = run("blame-stats", scenes, "--out", "deep/usual.safetensors", "--json")
    told = json.loads(result.out)
    assert (told["samples"], told["correct"], told["kinds"]) == (12, 10, ["filter"])
    found = Statistics.load("deep/usual.safetensors")
    assert found.profiles is None
    assert len(found.raw.mean) == told["units"]
    assert not list(Path("deep").glob(".*"))
    again = run("blame-stats", scenes, "--out", "deep/usual.safetensors")
    assert again.code == 2
    assert again.err.count("\n") == 1
    assert "--overwrite" in again.err


def test_labels_from_a_table(run: Run, home: Path, scenes: str) -> None:
    files = sorted(Path(scenes).rglob("*.png"))
    with Path("truth.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label"])
        writer.writerows([file.name, CLASSES[int(file.stem) % 3]] for file in files)
    result = run("blame-stats", scenes, "--truth", "truth.csv", "--out", "usual", "--json")
    assert json.loads(result.out)["correct"] == 12
    Path("truth.csv").write_text("file,label\n0.png,mug\n")
    result = run("blame-stats", scenes, "--truth", "truth.csv", "--out", "other")
    assert (result.code, Path("other").exists()) == (2, False)
    assert "has no label for" in result.err


def test_a_mistake_gets_its_page(run: Run, home: Path, scenes: str, usual: str) -> None:
    result = run(
        "blame", "scenes/guitar/0.png", "--label", "guitar", "-s", usual, "--trace",
        "--augmentations", "4", "--reference", scenes, "--mend", "0.01", "--out", "found",
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "0.png: who made this mug? It should be guitar."
    assert lines[-1] == "page found/index.html"
    assert len(lines) == 12
    folder = home / "found"
    assert {p.name for p in folder.iterdir()} == {"index.html", "blame.json", "blame.safetensors"}
    told = json.loads((folder / "blame.json").read_text())
    assert (told["label"], told["predicted"]) == ("guitar", "mug")
    assert [profile["side"] for profile in told["profiles"]] == ["Dense", "Traced"]
    assert set(told["curves"]["damage"]) == {"salient", "random", "least"}
    assert told["mended"]["mode"] == "one step of rate 0.01"
    assert told["mended"]["true"]["salient"][-1] > told["mended"]["true"]["salient"][0]
    assert set(told["mended"]["damage"]) == {"salient", "random", "least"}
    assert [near["name"] for near in told["neighbours"]] == ["3.png"]
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "mug, not guitar" in page
    assert "What if they were mended" in page


@pytest.mark.parametrize("by", ["share", "raw", "percentile", "tail"])
def test_units_can_be_ranked_otherwise(run: Run, home: Path, usual: str, by: str) -> None:
    result = run(
        "blame", "scenes/guitar/0.png", "--label", "guitar", "-s", usual, "--by", by, "--map",
        "none", "--top", "3", "--out", "found", "--json",
    )  # fmt: skip
    told = json.loads(result.out)
    assert (result.code, told["ranked_by"], len(told["units"])) == (0, by, 3)
    assert "dense/map" not in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--by", "luck"], "no score is called"),
        (["--map", "nice"], "no map is called"),
        (["--off", "half"], "cannot be off by"),
        (["--off", "mean"], "give a reference"),
        (["--mend", "0"], "positive rate"),
        (["--label", "unicorn"], "unicorn"),
        (["--model", "timm:test_resnet.r160_in1k", "--weights", "random"], "other weights"),
        (["--top", "100000"], "give 1 to"),
        (["--statistics", "none"], "no such file"),
        (["--statistics", "scenes/guitar/0.png"], "cannot be read"),
    ],
)
def test_mistakes_get_one_line(run: Run, home: Path, usual: str, options, words) -> None:
    given = ["blame", "scenes/guitar/0.png", "--statistics", usual, "--out", "found", *options]
    result = run(*given)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert words in result.err
    assert not Path("found").exists()


def test_a_case_file_says_who_is_to_blame(run: Run, home: Path, usual: str) -> None:
    given = [
        "explain", "scenes/guitar/0.png", "--target", "guitar", "--blame", usual, "--methods",
        "saliency", "--augmentations", "4", "--out", "cases",
    ]  # fmt: skip
    result = run(*given)
    assert (result.code, result.err) == (0, "")
    assert "most to blame" in result.out
    assert f"--blame {usual}" in (home / "cases/0/case.json").read_text()
    told = json.loads(run(*given, "--json").out)["cases"][0]
    assert told["skipped"]
    assert len(told["blame"]) == 10
    other = run(*given[:-2], "--out", "more", "--model", "timm:test_resnet.r160_in1k",
                "--weights", "random", "--target", "3")  # fmt: skip
    assert other.code == 2
    assert "other weights" in other.err
