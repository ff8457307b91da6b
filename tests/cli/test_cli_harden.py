"""``harden`` and ``attack``: files, interruptions by kill, refusals that lose nothing."""

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
from safetensors.torch import load_file

from cli.command_kit import Run
from sparsight.datasets.scenes import render_scene

FAST = (
    "--data", "scenes:24", "--target", "0.2", "--attack-steps", "1", "--epsilon", "2/255",
    "--batch", "8", "--attacks", "fgsm",
)  # fmt: skip


def test_a_network_is_hardened_and_measured(run: Run, home: Path) -> None:
    result = run("harden", *FAST, "--epochs", "1,1,1", "--test", "scenes:10", "--out", "out")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "20.0 % of the weights kept"
    assert lines[-1] == "page out/hardened/index.html"
    folder = home / "out" / "hardened"
    assert {file.name for file in folder.iterdir()} == {
        "index.html", "hardened.json", "network.safetensors", "compact.safetensors",
        "robustbench.pt", "robustness.json", "sizes.json",
    }  # fmt: skip
    rows = (home / "out" / "log.csv").read_text().splitlines()
    assert rows[0].startswith("stage,epoch,loss,clean,robust")
    assert [row.split(",")[0] for row in rows[1:]] == ["pretrain", "prune", "finetune"]
    assert list((home / "out" / "tensorboard").iterdir())
    told = json.loads((folder / "robustness.json").read_text())
    assert told["images"] == 10
    again = run("harden", *FAST, "--epochs", "1,1,1", "--out", "out")
    assert again.code == 2
    assert "not empty" in again.err
    (folder / "mine.txt").write_text("notes")
    over = run("harden", *FAST, "--epochs", "1,1,1", "--out", "out", "--overwrite")
    assert "mine.txt" in over.err
    measured = run(
        "attack", "scenes:10", "--hardened", "out", "--attacks", "fgsm", "--epsilon", "2/255",
        "--out", "attack.json", "--json",
    )  # fmt: skip
    assert json.loads(measured.out)["fgsm"] == told["fgsm"]
    assert json.loads((home / "attack.json").read_text())["clean"] == told["clean"]
    plain = run("attack", "scenes:10", "--attacks", "fgsm", "--most", "4")
    assert plain.out.startswith("clean")
    away = run("attack", "scenes:10", "--attacks", "fgsm", "--most", "4", "--out", "out")
    assert (away.code, away.out) == (2, "")
    assert "is a folder" in away.err
    (home / "file").write_text("")
    away = run("attack", "scenes:10", "--attacks", "fgsm", "--most", "4", "--out", "file/a.json")
    assert away.code == 2
    assert away.out == plain.out
    shown = run(
        "explain", "scenes.png", "--weights", str(folder / "network.safetensors"), "--methods",
        "saliency", "--augmentations", "2",
    )  # fmt: skip
    assert "no such file" in shown.err, "weights are read, the image is not there"


def test_channels_and_other_objectives(run: Run, home: Path) -> None:
    result = run(
        "harden", *FAST, "--epochs", "0,1,0", "--mode", "channels", "--target", "0.4", "--attack",
        "trades", "--out", "out", "--json",
    )  # fmt: skip
    told = json.loads(result.out)
    assert (result.code, told["settings"]["objective"]) == (0, "trades")
    sizes = json.loads((home / "out" / "hardened" / "sizes.json").read_text())
    assert sizes == told["sizes"]
    assert sizes["cut"]["products"] < sizes["before"]["products"]
    page = (home / "out" / "hardened" / "index.html").read_text(encoding="utf-8")
    assert ">cut<" in page


def test_published_settings_are_taken_but_for_what_is_typed(run: Run, home: Path) -> None:
    result = run(
        "harden", "--data", "scenes:16", "--published", "cifar", "--epochs", "0,1,0",
        "--attack-steps", "1", "--method", "scores", "--out", "out", "--json",
    )  # fmt: skip
    settings = json.loads(result.out)["settings"]
    assert (settings["epsilon"], settings["attack_step"]) == (0.031, 0.0078)
    assert (settings["method"], settings["epochs"], settings["batch"]) == ("scores", [0, 1, 0], 128)


def test_arrays_and_folders_are_data(run: Run, home: Path) -> None:
    images = np.stack([
        np.asarray(render_scene(n % 10, seed=n).picture()).transpose(2, 0, 1) for n in range(12)
    ])  # fmt: skip
    np.savez(home / "scenes.npz", images=images, labels=np.arange(12) % 10)
    for number in range(6):
        folder = home / "files" / ("mug", "tree")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        render_scene(("mug", "tree")[number % 2], seed=number).picture().save(
            folder / f"{number}.png"
        )
    for data in ("scenes.npz", "files"):
        result = run("attack", data, "--attacks", "fgsm", "--json")
        assert result.code == 0, result.err
    assert json.loads(result.out)["images"] == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "1"], "(0, 1)"),
        (["--method", "luck"], "no method"),
        (["--epochs", "1,2"], "three numbers"),
        (["--epochs", "one"], "no numbers"),
        (["--epsilon", "8"], "outside (0, 1]"),
        (["--epsilon", "8/0"], "no number"),
        (["--attacks", "luck"], "no attack"),
        (["--published", "luck"], "no published"),
        (["--data", "scenes:none"], "names no number"),
        (["--data", "nowhere"], "no such file"),
        (["--data", "nothing.npz"], "holds no images"),
        (["--data", "cifar10:nowhere"], "download it"),
    ],
)
def test_mistakes_get_one_line(run: Run, home: Path, options, words) -> None:
    result = run("harden", *FAST, "--out", "out", *options)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert words in result.err
    assert not (home / "out" / "hardened").exists()


@pytest.mark.slow
def test_two_processes_share_a_batch(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*KILLED, "--devices", "2", "--test", "scenes:10", "--out", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.count("of the weights kept") == 1
    told = json.loads((out / "hardened" / "hardened.json").read_text())
    assert [row["stage"] for row in told["log"]][-1] == "finetune"
    assert sum(kept for _, kept, _ in told["kept"]) == round(
        0.2 * sum(size for *_, size in told["kept"])
    )


KILLED = [sys.executable, "-m", "sparsight.cli.main", "harden", *FAST, "--epochs", "2,2,2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "out"
    subprocess.run([*KILLED, "--out", str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("stage", ["pretrain", "prune", "finetune"])
def test_a_kill_in_any_stage_changes_no_number(whole: Path, tmp_path: Path, stage: str) -> None:
    killed = tmp_path / "killed"
    command = [*KILLED, "--out", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        log = killed / "log.csv"
        if log.is_file() and stage in log.read_text():
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "hardened").exists()
    subprocess.run(command, check=True, capture_output=True)
    first, second = (
        load_file(folder / "hardened" / "network.safetensors") for folder in (whole, killed)
    )
    assert all(bool((first[name] == second[name]).all()) for name in first)
    one, other = (
        json.loads((folder / "hardened" / "hardened.json").read_text())
        for folder in (whole, killed)
    )
    assert (one["kept"], one["log"]) == (other["kept"], other["log"])
