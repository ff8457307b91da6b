"""``sparsight sweep``: what it prints, what it refuses, and that it goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.command_kit import Run, noise

pytest.importorskip("pyarrow")

NET = ("--model", "net.py:network")
FAST = (*NET, "--augmentations", "2", "--sparsity", "0.5", "--workers", "0", "--shard", "2")


@pytest.fixture
def classes(home: Path) -> Path:
    """Folders of images, named after classes."""
    for number, name in enumerate(("cat", "hen", "ant", "bee", "cat")):
        noise(home / "images" / name / f"{number}.png", number)
    return home / "images"


def test_prints_what_it_found_and_where(run: Run, classes: Path) -> None:
    told = run("sweep", "images", "--out", "out", *FAST)
    assert told.code == 0, told
    lines = told.out.splitlines()
    assert lines[0].split() == ["images", "5"]
    assert lines[-1] == "table out/table.parquet"
    assert any(line.startswith("right") for line in lines)
    again = run("sweep", "images", "--out", "out", *FAST, "--json").json
    assert again["findings"]["images"] == 5
    assert again["unusable"] == []
    assert 0 <= again["findings"]["right"]["value"] <= 1


def test_a_bad_image_is_told_and_the_others_go_on(run: Run, classes: Path) -> None:
    (classes / "bee" / "bad.png").write_text("no image")
    told = run("sweep", "images", "--out", "out", *FAST, "--do", "trace")
    assert told.code == 0
    assert "1 images could not be used, the first: images/bee/bad.png: " in told.err
    assert told.out.splitlines()[1].split() == ["unusable", "1"]


def test_images_without_classes_want_a_word(run: Run, home: Path) -> None:
    said = run("sweep", "more", "--out", "out", *FAST).error
    assert "if the classes of the images are not known, say so: --no-truth" in said
    told = run("sweep", "more", "--out", "out", *FAST, "--no-truth")
    assert told.code == 0
    assert "right" not in told.out
    assert "give one of them" in run(
        "sweep", "more", "--out", "out", *FAST, "--no-truth", "--truth", "x.csv"
    ).error  # fmt: skip
    said = run("sweep", "scenes:5", "--out", "out", *FAST, "--no-truth").error
    assert said == "--no-truth is for files and folders, and scenes:5 is none: leave it out"


def test_mistakes_are_one_line_each(run: Run, classes: Path) -> None:
    good = ("sweep", "images", "--out", "out", *FAST)
    for extra, words in (
        (("--do", "sing"), "no thing to do is called 'sing'"),
        (("--keep", "all"), "no thing to keep is called 'all'"),
        (("--methods", "magic"), "magic"),
        (("--address", "ray://x:1"), "without workers"),
        (("--solver", "tea"), "tea"),
    ):
        assert words in run(*good, *extra).error
    assert "no such file or folder" in run("sweep", "nowhere", "--out", "out", *FAST).error
    (classes / "cat" / "0.png").write_text("x")
    assert run("sweep", "images/cat/0.png", "--out", "one", *FAST).error.startswith("none of 1")
    assert run("sweep", "images", "--out", "net.py", *FAST).error.endswith("choose another folder")


def test_other_settings_do_not_mix(run: Run, classes: Path) -> None:
    assert run("sweep", "images", "--out", "out", *FAST, "--do", "trace").code == 0
    said = run("sweep", "images", "--out", "out", *FAST, "--do", "trace", "--seed", "1").error
    assert "(--overwrite)" in said
    assert run("sweep", "images", "--out", "out", *FAST, "--do", "trace", "--seed", "1",
               "--overwrite").code == 0  # fmt: skip


def test_ctrl_c_keeps_shards_and_workers_know_the_users_own_network(classes: Path) -> None:
    pytest.importorskip("ray")
    home = classes.parent
    command = [
        sys.executable, "-m", "sparsight.cli.main", "sweep", "images", "--out", "out", *NET,
        "--augmentations", "2", "--sparsity", "0.5", "--workers", "1", "--shard", "1",
    ]  # fmt: skip
    wait = home / "wait"
    environment = {**os.environ, "WAIT_AFTER": str(wait), "RAY_worker_niceness": "0"}
    process = subprocess.Popen(
        command, cwd=home, env=environment, text=True, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    limit = time.monotonic() + 90
    while not any((home / "out").glob("shards-*/000000")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)
    wait.touch()
    os.killpg(process.pid, 2)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert not (home / "out" / "table.parquet").exists()
    command[command.index("--workers") + 1] = "0"
    done = subprocess.run(command, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (home / "out" / "table.parquet").exists()


def test_a_gallery_is_made_of_it(run: Run, classes: Path) -> None:
    assert run("sweep", "images", "--out", "out", *FAST).code == 0
    told = run("gallery", "out")
    assert told.code == 0
    assert told.out.strip() == "page out/gallery/index.html"
    page = (classes.parent / "out" / "gallery" / "index.html").read_text("utf-8")
    assert "<script>alert(1)</script>" not in page
    assert "is not empty" in run("gallery", "out").error
    assert run("gallery", "out", "--overwrite", "--cases", "none", "--json").json["images"] == 5
    assert "is no saved sweep" in run("gallery", "images").error
    assert "no choice of cases" in run("gallery", "out", "--cases", "x", "--overwrite").error
