"""``sparsight bench speed``: a report on disk after every timing, and refusals before any."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sparsight.benchmarks
from cli.command_kit import Run
from sparsight.benchmarks import SpeedReport

FAST = ("--model", "net.py:network", "--augmentations", "2", "--repeats", "1")
COMMAND = [sys.executable, "-m", "sparsight.cli.main", "bench", "speed"]


@pytest.fixture
def bench(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command with no process of its own for the memory."""
    monkeypatch.setattr(sparsight.benchmarks, "peak_memory", lambda *_, **__: {"process": 1.25})
    return lambda *arguments: run("bench", "speed", *arguments)


def test_table_in_eighty_columns(bench: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = bench("a.png", *FAST, "--repeats", "2", "--solvers", "wanda, magnitude")
    assert (result.code, result.err) == (0, "")
    found = SpeedReport.load("speed-network.json")
    lines = result.out.splitlines()
    assert lines[0] == "net.py:network, weights as built · a.png, 24 x 20 pixels · 2 views"
    assert "2 of 2 repeats" in lines[1]
    names = ["forward", "fastest forward", "trace", "default trace", "solver wanda",
             "solver magnitude", "published"]  # fmt: skip
    assert list(found.seconds) == names
    assert [sum(line.startswith(f"{name}  ") for line in lines) for name in names] == [1] * 7
    for name, value in found.ratios.items():
        assert f"{name}: {value:.2f}" in lines
    assert "layers pruned: 2 by trace, 2 by published" in lines
    assert "memory of one trace, process: 1.25 GiB" in lines
    assert lines[-1] == "report speed-network.json"
    assert sum(line.lstrip().startswith("sweep") for line in lines) == 1


def test_json_and_options(bench: Run, home: Path) -> None:
    result = bench(*FAST, "--no-published", "--sparsity", "0.9", "--out", "new/r.json", "--json")
    found = SpeedReport.load("new/r.json")
    assert result.json == json.loads(json.dumps(found.describe())) | {"file": "new/r.json"}
    assert "published" not in found.seconds
    assert (found.image, found.settings["sparsity"]) == ("noise, 500 x 375 pixels", 0.9)
    assert found.memory == {"process": 1.25}
    assert [path.name for path in (home / "new").iterdir()] == ["r.json"]
    again = bench(*FAST, "--no-published", "--seed", "3", "--out", "new/r.json", "--json")
    assert again.json["settings"]["seed"] == 3
    assert SpeedReport.load("new/r.json").settings["seed"] == 3


def test_weights_are_random_if_none_are_named(bench: Run, home: Path) -> None:
    model = ("--model", "timm:test_resnet.r160_in1k", "--sparsity", "0.9")
    result = bench(*FAST, *model, "--no-published")
    assert "weights untrained" in result.out
    assert "! weights are random" in result.out
    assert SpeedReport.load("speed-test_resnet.r160_in1k.json").notes[0] in " ".join(
        line.strip() for line in result.out.splitlines()
    )


def test_refusals_before_any_work(run: Run, home: Path) -> None:
    (home / "notes.json").write_text('{"kind": "notes"}')
    (home / "folder").mkdir()
    before = sorted(path.name for path in home.iterdir())
    for options, error in [
        (["--model", "nonsense"], "cannot tell what network 'nonsense' is"),
        (["--augmentations", "0"], "--augmentations"),
        (["--repeats", "0"], "--repeats"),
        (["--solvers", "wanda,quick"], "unknown solver 'quick': choose from"),
        (["--sparsity", "no.json"], "no such sparsity file"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--weights", "no.pt"], "no such weights file: no.pt"),
        (["--out", "notes.json"], "notes.json is no report of a measurement and would be lost"),
        (["--out", "folder"], "folder is a folder: name a file in it"),
        (["--out", "a.png/r.json"], "cannot write to a.png/r.json: choose another folder"),
        (["gone.png"], "no such image file: gone.png"),
        (["net.py"], "net.py is not an image"),
        (["a.png", "--sparsity", "1.5"], "a.png: a trace in a process of its own failed: sparsity"),
    ]:
        assert error in run("bench", "speed", *FAST, *options).error
    assert "No such command 'bench'" in run("bench").error
    assert sorted(path.name for path in home.iterdir() if path.name != "__pycache__") == before
    assert (home / "notes.json").read_text() == '{"kind": "notes"}'


def test_out_in_a_folder_without_rights(run: Run, home: Path) -> None:
    (home / "closed").mkdir(mode=0o500)
    if os.access(home / "closed", os.W_OK):
        pytest.skip("this user may write everywhere")
    assert "cannot write to closed/r.json" in run("bench", "speed", "--out", "closed/r.json").error


def test_as_a_process(home: Path) -> None:
    done = subprocess.run(
        [*COMMAND, *FAST, "--no-published", "--json"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["memory"]["process"] > 0.05
    assert found["ratios"]["trace over forward"] > 0
    done = subprocess.run([*COMMAND, "--model", "nonsense"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: cannot tell what network 'nonsense' is")
    code = (
        "import sys\n"
        "from sparsight.cli.main import main\n"
        "main(['bench', 'speed', '--help'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'PIL')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "speed-MODEL.json" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is another thing there")
def test_ctrl_c_leaves_a_report_of_what_was_timed(home: Path) -> None:
    file = home / "speed-network.json"
    process = subprocess.Popen(
        [*COMMAND, *FAST, "--repeats", "99"],
        env={**os.environ, "WAIT_AFTER": str(file)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (home / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted"
    found = SpeedReport.load(file)
    assert [len(values) for values in found.seconds.values()] == [1, 0, 0, 0, 0]
    assert not list(home.glob(".*"))
