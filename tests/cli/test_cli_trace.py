"""``sparsight trace``: saved whole, read back, never over something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cli.command_kit import Run
from sparsight.networks import load
from sparsight.traces import Trace

BASE = ("--model", "net.py:network", "--augmentations", "3", "--sparsity", "0.5")


def test_trace_is_saved_and_fits_its_network(run: Run, home: Path) -> None:
    result = run("trace", "a.png", "--out", "traces/a", *BASE)
    assert (result.code, result.err) == (0, "")
    assert all(layer in result.out for layer in ("conv1", "conv2", "fc", "traces/a"))
    found = Trace.load(home / "traces" / "a")
    network = load("net.py:network")
    with found.applied(network) as model, torch.no_grad():
        assert torch.allclose(model(network.prepare("a.png"))[0], found.traced_logits, atol=1e-5)
    assert [layer.requested for layer in found.layers] == [0, 0.5, 0.5]


def test_options_reach_the_trace(run: Run, home: Path) -> None:
    result = run(
        *("trace", "a.png", "--out", "t", *BASE, "--stem", "--seed", "5"),
        *("--chunk", "2", "--damping", "0.1", "--json"),
    )
    settings = result.json["settings"]
    assert (settings["stem"], settings["seed"], settings["chunk"], settings["damping"]) == (
        *(True, 5, 2, 0.1),
    )
    assert result.json["layers"][0]["requested"] == 0.5
    assert result.err == ""


def test_options_of_the_default_solver_reach_the_trace(run: Run) -> None:
    result = run(
        *("trace", "a.png", "--out", "t", *BASE, "--target", "1", "--focus", "0.25"),
        *("--positions", "64", "--gradients", "4", "--refitted", "9"),
        *("--precision", "bfloat16", "--json"),
    )
    settings = result.json["settings"]
    names = ("target", "focus", "positions", "gradients", "refitted", "precision")
    assert [settings[name] for name in names] == [1, 0.25, 64, 4, 9, "bfloat16"]


def test_json(run: Run) -> None:
    summary = run("trace", "a.png", "--out", "t", *BASE, "--json").json
    assert summary["folder"] == "t"
    assert [layer["name"] for layer in summary["layers"]] == ["conv1", "conv2", "fc"]
    assert summary["prediction"]["kept"] in (True, False)


def test_existing_folders_are_safe(run: Run, home: Path) -> None:
    assert run("trace", "a.png", "--out", "t", *BASE).code == 0
    before = (home / "t" / "trace.json").read_bytes()
    assert "--overwrite" in run("trace", "a.png", "--out", "t", *BASE).error
    assert (home / "t" / "trace.json").read_bytes() == before
    assert run("trace", "a.png", "--out", "t", *BASE, "--seed", "1", "--overwrite").code == 0
    assert (home / "t" / "trace.json").read_bytes() != before
    (home / "t" / "thesis.txt").write_text("years of work")
    assert "thesis.txt" in run("trace", "a.png", "--out", "t", *BASE, "--overwrite").error
    assert (home / "t" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["no.png"], "no.png"),
        (["net.py"], "net.py is not an image"),
        (["more"], "no such image file: more"),
        (["a.png", "--sparsity", "2"], "[0, 1)"),
        (["a.png", "--solver", "guess"], "unknown solver"),
        (["a.png", "--model", "net.py:corrupt"], "corrupt"),
        (["a.png", "--model", "net.py:parametrized"], "computed on the fly"),
        (["a.png", "--out", "a.png"], "a.png is a file"),
        (["a.png", "--target", "no such thing"], "no such thing"),
        (["a.png", "--focus", "2"], "[0, 1]"),
        (["a.png", "--positions", "0"], "positions is 0"),
        (["a.png", "--precision", "half"], "unknown precision"),
    ],
)
def test_bad_input_writes_nothing(run: Run, home: Path, options: list[str], expected: str) -> None:
    assert expected in run("trace", "--out", "t", *BASE, *options).error
    assert not (home / "t").exists()


def test_out_is_required(run: Run) -> None:
    assert "--out" in run("trace", "a.png").error
