"""``sparsight trace diff``: beside ``sparsight trace IMAGE``, which it leaves as it was."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.command_kit import Run, noise
from sparsight.reports.text import percent
from sparsight.traces import Trace, compare

BASE = ("--model", "net.py:network", "--augmentations", "3", "--sparsity", "0.5")
COMMAND = [sys.executable, "-m", "sparsight.cli.main"]


@pytest.fixture
def traced(run: Run, home: Path) -> Path:
    """Traces of two images, in ``one`` and ``two``."""
    for image, folder in (("a.png", "one"), ("more/b.png", "two")):
        assert run("trace", image, "--out", folder, *BASE).code == 0
    return home


def test_table_in_eighty_columns(run: Run, traced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("trace", "diff", "one", "two")
    assert (result.code, result.err) == (0, "")
    found = compare(Trace.load("one"), Trace.load("two"))
    lines = result.out.splitlines()
    for line, side, (dense, sparse) in zip(lines, "AB", found.predictions, strict=False):
        verdict = "kept" if dense == sparse else f"became {sparse}"
        assert line.startswith(f"{side}  ")
        assert line.endswith(f"class {dense} {verdict}")
    for layer in found.layers:
        (row,) = (line for line in lines if line.startswith(layer.name))
        assert percent(layer.weights.jaccard) in row
        assert f"{layer.weights.corrected:.2f}" in row
        assert row.endswith(percent(layer.difference))
    assert not any(line.startswith("conv1") for line in lines)  # the stem, dense in both


def test_json(run: Run, traced: Path) -> None:
    content = run("trace", "diff", "one", "two", "--json").json
    found = compare(Trace.load("one"), Trace.load("two"))
    assert {key: content[key] for key in found.describe()} == found.describe()
    assert (content["a"]["folder"], content["b"]["folder"]) == ("one", "two")
    assert content["a"]["sparsity"] == Trace.load("one").sparsity


def test_a_trace_inside_a_case_folder_is_found(run: Run, traced: Path) -> None:
    (traced / "case").mkdir()
    shutil.move(traced / "two", traced / "case" / "trace")
    content = run("trace", "diff", "one", "case", "--json").json
    assert content["b"]["folder"] == "case/trace"


def test_an_image_called_diff_can_still_be_traced(run: Run, traced: Path) -> None:
    noise(traced / "diff.png").rename(traced / "diff")
    assert run("trace", "./diff", "--out", "three", *BASE).code == 0
    assert run("trace", "--out", "four", "diff", *BASE).code == 0
    assert run("trace", "diff", "three", "four", "--json").json["weights"]["corrected"] == 1
    assert "no saved trace" in run("trace", "diff", "diff-of-mine", "one").error


def test_both_helps_say_how(run: Run, home: Path) -> None:
    image, diff, whole = (
        " ".join(run(*words, "--help").out.split()) for words in (["trace"], ["trace", "diff"], [])
    )
    for text in (image, diff):
        assert "./diff" in text
    assert "Usage: sparsight trace [OPTIONS]" in image
    assert "Usage: sparsight trace diff [OPTIONS]" in diff
    assert "sparsight trace diff A B" in image
    assert "trace diff" in whole


def test_bad_input(run: Run, traced: Path) -> None:
    assert "nowhere is no saved trace" in run("trace", "diff", "one", "nowhere").error
    assert "a.png" in run("trace", "diff", "a.png", "one").error
    assert "B" in run("trace", "diff", "one").error
    assert "--out" in run("trace", "diff", "one", "two", "--out", "x").error
    options = ("--model", "net.py:untransposed", "--augmentations", "3")
    assert run("trace", "a.png", "--out", "other", *options).code == 0
    refused = run("trace", "diff", "one", "other", "--json")
    assert "parameter 'fc.weight' is linear 1 x 6 x 192 in the first and absent" in refused.error
    assert refused.out == ""
    (traced / "two" / "trace.safetensors").write_bytes(b"")
    assert "two is damaged" in run("trace", "diff", "one", "two").error


def test_as_a_process_that_only_shows_help_without_torch(traced: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "trace", "diff", "one", "two", "--json"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["layers"][0]["name"] == "conv2"
    done = subprocess.run(
        [*COMMAND, "trace", "diff", "one", "gone"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == ["error: gone is no saved trace: it has no trace.json"]
    code = (
        "import sys\n"
        "from sparsight.cli.main import main\n"
        "main(['trace', 'diff', '--help'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'PIL')))\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
