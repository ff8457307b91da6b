"""Every kind of bad input: one line that names it, exit code 2, nothing written, nothing lost."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sparsight.casefile
from cli.command_kit import Run, noise
from sparsight.cli.main import main
from sparsight.networks import Network


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def one_pixel(home: Path) -> None:
    Image.new("RGB", (1, 1)).save(home / "bad.png")


def text_file(home: Path) -> None:
    (home / "bad.png").write_text("no image")


def truncated(home: Path) -> None:
    whole = noise(home / "whole.png").read_bytes()
    (home / "bad.png").write_bytes(whole[: len(whole) // 2])


def floating(home: Path) -> None:
    Image.fromarray(np.random.rand(8, 8).astype(np.float32), "F").save(home / "bad.tiff")
    (home / "bad.tiff").rename(home / "bad.png")


def empty_folder(home: Path) -> None:
    (home / "bad.png").mkdir()


def absent(home: Path) -> None:
    assert not (home / "bad.png").exists()


IMAGES = [one_pixel, text_file, truncated, floating, empty_folder, absent]


@pytest.mark.parametrize("make", IMAGES, ids=lambda make: make.__name__)
def test_bad_image(explain: Run, home: Path, make: Callable[[Path], None]) -> None:
    make(home)
    before = snapshot(home)
    assert "bad.png" in explain("bad.png", "--out", "out").error
    assert snapshot(home) == before


@pytest.mark.parametrize("make", IMAGES, ids=lambda make: make.__name__)
def test_one_bad_image_stops_no_other(
    explain: Run, home: Path, make: Callable[[Path], None]
) -> None:
    make(home)
    result = explain("bad.png", "a.png", "more/b.png", "--out", "out", "--json")
    assert "bad.png" in result.error
    assert [case["image"] for case in result.json["cases"]] == ["a.png", "more/b.png"]
    assert [failure["image"] for failure in result.json["failed"]] == ["bad.png"]
    assert sorted(p.name for p in (home / "out").iterdir()) == ["a", "b", "index.html"]


OPTIONS = {
    "sparsity one": (["--sparsity", "1"], "[0, 1)"),
    "sparsity negative": (["--sparsity", "-0.1"], "[0, 1)"),
    "sparsity nan": (["--sparsity", "nan"], "[0, 1)"),
    "sparsity ramp": (["--sparsity", "ramp:1.5"], "[0, 1)"),
    "sparsity word": (["--sparsity", "much"], "unknown sparsity 'much'"),
    "sparsity preset elsewhere": (["--sparsity", "spade-lrp"], "no layer matches"),
    "sparsity no file": (["--sparsity", "no.json"], "no.json"),
    "sparsity no json": (["--sparsity", "list.json"], "must hold an object"),
    "sparsity no number": (["--sparsity", "words.json"], "is no number"),
    "sparsity broken json": (["--sparsity", "broken.json"], "cannot be read as JSON"),
    "class number": (["--target", "6"], "classes 0 to 5"),
    "class name": (["--target", "wolf"], "no class 'wolf'"),
    "method": (["--methods", "saliency,tealeaves"], "unknown method 'tealeaves': choose from"),
    "no method": (["--methods", ","], "no method given"),
    "solver": (["--solver", "guess"], "unknown solver 'guess'"),
    "damping": (["--damping", "0"], "damping 0.0 must be positive"),
    "augmentations": (["--augmentations", "0"], "--augmentations"),
    "augmentations word": (["--augmentations", "many"], "--augmentations"),
    "seed": (["--seed", "-1"], "--seed"),
    "chunk": (["--chunk", "0"], "--chunk"),
    "option": (["--bogus"], "--bogus"),
    "device": (["--device", "abacus"], "device 'abacus' cannot be used"),
    "device without data": (["--device", "meta"], "device 'meta' cannot be used"),
    "model": (["--model", "resnet50"], "cannot tell what network 'resnet50' is"),
    "model name": (["--model", "timm:resnet5000"], "timm has no model"),
    "model file": (["--model", "no.py:network"], "no such Python file: no.py"),
    "model function": (["--model", "net.py:nothing"], "no function 'nothing'"),
    "model bare": (["--model", "net.py:bare"], "bare module"),
    "model fails": (["--model", "net.py:failing"], "KeyError"),
    "model fails to import": (["--model", "broken.py:network"], "broken.py line 1"),
    "model parametrized": (["--model", "net.py:parametrized"], "computed on the fly"),
    "model with nan": (["--model", "net.py:corrupt"], "corrupt"),
    "weights absent": (["--weights", "no.pt"], "no such weights file: no.pt"),
    "weights corrupt": (["--weights", "corrupt.safetensors"], "corrupt.safetensors"),
    "weights of another": (["--weights", "other.pt"], "do not fit"),
    "weights nan": (["--weights", "nan.pt"], "NaN"),
    "weights pickled": (["--weights", "pickled.pt"], "not unpickled"),
    "labels absent": (["--labels", "no.txt"], "no such labels file"),
    "labels too few": (["--labels", "few.txt"], "names 2 classes, the network has 6"),
    "labels broken": (["--labels", "broken.json"], "malformed"),
    "out is a file": (["--out", "a.png"], "a.png is a file"),
    "out is a case": (["--out", "case"], "is itself a case"),
    "out in a file": (["--out", "a.png/out"], "cannot write to a.png/out"),
    "case folder is taken": (["--out", "taken"], "taken/a is no case and would be lost"),
}


@pytest.fixture
def stocked(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(home))
    import importlib

    sys.modules.pop("net", None)
    state = importlib.import_module("net").network().model.state_dict()
    sys.modules.pop("net", None)
    torch.save({**state, "fc.bias": torch.full((6,), float("nan"))}, home / "nan.pt")
    torch.save({"other.weight": torch.zeros(2)}, home / "other.pt")
    torch.save(torch.nn.Linear(2, 2), home / "pickled.pt")
    (home / "corrupt.safetensors").write_bytes(b"\xff" * 64)
    (home / "list.json").write_text("[0.5]")
    (home / "words.json").write_text('{"fc": "much"}')
    (home / "broken.json").write_text("{")
    (home / "broken.py").write_text("import nothing_of_that_name\n")
    (home / "few.txt").write_text("one\ntwo\n")
    (home / "case").mkdir()
    (home / "case" / "case.json").write_text("{}")
    (home / "taken" / "a").mkdir(parents=True)
    (home / "taken" / "a" / "thesis.txt").write_text("years of work")
    return home


@pytest.mark.parametrize(("options", "expected"), OPTIONS.values(), ids=OPTIONS)
def test_bad_option(explain: Run, stocked: Path, options: list[str], expected: str) -> None:
    before = snapshot(stocked)
    assert expected in explain("a.png", *options, "--overwrite").error
    assert snapshot(stocked) == before


def test_bad_option_is_told_once_for_many_images(explain: Run) -> None:
    assert "wolf" in explain("a.png", "more", "--target", "wolf").error


def test_networks_are_put_into_evaluation_mode(explain: Run, home: Path) -> None:
    result = explain("a.png", "--model", "net.py:training", "--out", "out")
    assert result.code == 0


def test_nothing_given(run: Run) -> None:
    assert "explain" in run().out
    assert "IMAGE" in run("explain").error
    assert "unknown" in run("unknown").error


def test_an_error_of_several_lines_is_one_line(explain: Run) -> None:
    assert "no\nsuch" not in explain("no\nsuch.png").error


def test_control_characters_do_not_reach_the_terminal(explain: Run) -> None:
    assert "\x1b" not in explain("\x1b[31mred.png").error


def test_lack_of_memory_has_a_remedy(
    explain: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(sparsight.casefile, "trace", hungry)
    assert "smaller chunk" in explain("a.png", "--out", "out").error
    assert not (home / "out").exists()


def test_a_failure_while_writing_leaves_nothing(
    explain: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparsight.reports.store.save_file", full)
    assert "No space left" in explain("a.png", "--out", "out").error
    assert not list((home / "out").glob("*")) if (home / "out").exists() else True


def test_interruption_is_a_line_and_a_code(
    explain: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sparsight.casefile.attribute
    asked: list[int] = []

    def interrupted(network: Network, *rest: object, **options: object) -> object:
        asked.append(1)
        if len(asked) > 2:  # dense and traced of the first image
            raise KeyboardInterrupt
        return original(network, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sparsight.casefile, "attribute", interrupted)
    result = explain("a.png", "more/b.png", "--out", "out")
    assert result.code == 130
    assert result.err.splitlines() == [
        "1 of 2 cases are in out: the same command goes on from there",
        "interrupted",
    ]
    assert [p.name for p in (home / "out").iterdir()] == ["a"]


def test_a_bug_of_ours_is_not_dressed_up_as_a_mistake_of_the_users(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sparsight.casefile, "trace", broken)
    with pytest.raises(ZeroDivisionError):
        main(["explain", "a.png", "--model", "net.py:network"])


def test_json_stays_silent_on_a_bad_option(explain: Run) -> None:
    result = explain("a.png", "--target", "wolf", "--json")
    assert result.error
    assert result.out == ""


def test_json_of_failures_parses(explain: Run) -> None:
    result = explain("no.png", "--json")
    assert json.loads(result.out)["failed"][0]["image"] == "no.png"
