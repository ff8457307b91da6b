"""``federate``: files, a table that grows, interruptions by kill, refusals that lose nothing."""

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

from cli.command_kit import Run
from sparsight.federated import Federated

FAST = (
    "--data", "scenes:20", "--clients", "2", "--rounds", "2", "--engine", "loop", "--batch", "8",
)  # fmt: skip


def test_clients_train_and_a_page_tells_of_it(run: Run, home: Path) -> None:
    result = run("federate", *FAST, "--test", "scenes:10", "--alpha", "1", "--out", "out")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].startswith("clients differ from all images together by ")
    assert lines[1].startswith("client   0: ")
    assert lines[3].split()[:3] == ["round", "local", "global"]
    assert lines[4].split()[0] == "1"
    assert lines[-2].startswith("spatl: 2 rounds, local ")
    assert lines[-1] == "page out/federated/index.html"
    folder = home / "out" / "federated"
    assert {file.name for file in folder.iterdir()} == {
        "index.html", "federated.json", "weights.safetensors",
    }  # fmt: skip
    told = json.loads((folder / "federated.json").read_text())
    assert [row["round"] for row in told["log"]] == [1, 2]
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "Accuracy against rounds" in page
    assert "<script" not in page
    again = run("federate", *FAST, "--alpha", "1", "--out", "out")
    assert again.code == 2
    assert "is there already" in again.err
    (folder / "mine.txt").write_text("notes")
    over = run("federate", *FAST, "--alpha", "1", "--out", "out", "--overwrite", "--rounds", "9")
    assert "mine.txt" in over.err
    (folder / "mine.txt").unlink()
    more = run(
        "federate", "--data", "scenes:20", "--clients", "2", "--alpha", "1", "--engine", "loop",
        "--batch", "8", "--test", "scenes:10", "--rounds", "3", "--out", "out", "--overwrite",
        "--json",
    )  # fmt: skip
    assert [row["round"] for row in json.loads(more.out)["log"]] == [1, 2, 3]


def test_algorithms_selectors_and_ways_to_deal_out(run: Run, home: Path) -> None:
    result = run(
        "federate", *FAST, "--algorithm", "scaffold", "--selector", "blame", "--budget", "0.2",
        "--classes-each", "4", "--styles", "0.3", "--head", "shared", "--out", "out", "--json",
    )  # fmt: skip
    settings = json.loads(result.out)["settings"]
    assert (result.code, settings["algorithm"], settings["selector"]) == (0, "scaffold", "blame")
    assert (settings["budget"], settings["head"], settings["variates"]) == (0.2, "shared", "sent")
    grouped = run("federate", *FAST, "--group-norm", "--out", "group", "--json")
    assert grouped.code == 0
    found = Federated.load(home / "group" / "federated")
    assert not any("running" in name for name in found.shared)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--algorithm", "best"), "no algorithm is called 'best': choose from spatl"),
        (("--budget", "0"), "budget 0: give a share in (0, 1]"),
        (("--alpha", "0"), "alpha 0: give a positive number"),
        (("--alpha", "1", "--classes-each", "2"), "choose one"),
        (("--clients", "20"), "20 images for 20 clients: give 3 each at least"),
        (("--head-name", "nose"), "no module 'nose'"),
        (("--engine", "magic"), "no engine is called 'magic'"),
        (("--selector", "agent", "--agent", "none.safetensors"), "holds no agent"),
        (("--data", "none.npz"), "holds no images"),
        (("--data", "twice.npz", "--test", "twice.npz"), "holds the images of clients"),
        (("--algorithm", "alone", "--head", "shared"), "share nothing"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line(
    run: Run, home: Path, options: tuple[str, ...], reason: str
) -> None:
    images = np.zeros((12, 3, 64, 64), np.uint8)
    np.savez(home / "twice.npz", images=images, labels=np.arange(12) % 10)
    result = run("federate", *FAST, *options, "--out", "out")
    assert result.code == 2
    assert reason in result.err
    assert len(result.err.splitlines()) == 1
    assert not (home / "out" / "federated").exists()


def test_killed_and_started_again_it_comes_to_the_same(run: Run, home: Path) -> None:
    command = [
        sys.executable, "-m", "sparsight.cli.main", "federate", *FAST, "--rounds", "4",
        "--alpha", "1",
    ]  # fmt: skip
    whole, killed = home / "whole", home / "killed"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, "--out", str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while not (killed / "state" / "server.safetensors").exists() and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "federated").exists()
    subprocess.run([*command, "--out", str(killed)], check=True, capture_output=True)
    for name in ("weights.safetensors",):
        first, second = (f / "federated" / name for f in (whole, killed))
        assert first.read_bytes() == second.read_bytes()
    logs = [json.loads((f / "federated" / "federated.json").read_text()) for f in (whole, killed)]
    for told in logs:
        for row in told["log"]:
            row.pop("seconds")
    assert logs[0] == logs[1]


def test_interrupted_on_flower_it_ends_soon_and_can_go_on(home: Path) -> None:
    out = home / "out"
    process = subprocess.Popen(
        [
            sys.executable, "-m", "sparsight.cli.main", "federate", *FAST, "--engine", "flower",
            "--rounds", "400", "--judge", "400", "--out", str(out),
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not (out / "state" / "server.safetensors").exists() and time.monotonic() < end:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert (out / "state" / "server.safetensors").exists()
