"""Measurements of speed: everything in turn, honest ratios, nothing lost by an interruption."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import sparsight.benchmarks.machine as machine
import sparsight.benchmarks.memory as memory
import sparsight.benchmarks.speed as speed
from contracts import untouched
from sparsight.benchmarks import SpeedReport, measure_speed, noise_image, peak_memory
from sparsight.benchmarks.machine import Stopwatch, describe_machine
from sparsight.errors import InputError, NetworkError
from sparsight.networks import Network, load
from sparsight.traces import SOLVERS, trace
from sparsight.traces.options import most_views, positions_for


@pytest.fixture(scope="module")
def net() -> Network:
    return load("embedded")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What was run, in turn."""
    calls: list[tuple[str, dict[str, Any]]] = []
    for name in ("trace", "published_trace"):
        original = getattr(speed, name)

        def wrapped(*given: Any, _original: Any = original, _name: str = name, **options: Any):
            calls.append((_name, options))
            return _original(*given, **options)

        monkeypatch.setattr(speed, name, wrapped)
    return calls


def report(**changes: Any) -> SpeedReport:
    facts: dict[str, Any] = {
        "network": "net", "weights": "untrained", "image": "noise", "augmentations": 64,
        "repeats": 2, "settings": {"solver": "obs", "sparsity": {"fc": 0.5}},
        "layers": {"trace": 3}, "machine": {"device": "cpu", "processor": "P", "threads": 1},
        "seconds": {"forward": (1.0, 3.0), "fastest forward": (1.0, 1.0), "trace": (4.0, 8.0),
                    "published": (60.0,)},
        "stages": {"trace": {"solve": (3.0, 5.0)}},
        "notes": ("one",), "memory": {"process": 1.5},
    }  # fmt: skip
    return SpeedReport(**(facts | changes))


def test_everything_in_turn(net: Network, called: list[Any]) -> None:
    kept: list[SpeedReport] = []
    told: list[tuple[str, int, int]] = []
    with untouched(net.model):
        found = measure_speed(
            net, augmentations=3, repeats=2, solvers=["wanda"], seed=5,
            memory={"process": 1.0}, progress=lambda *step: told.append(step), keep=kept.append,
        )  # fmt: skip
    names = ["forward", "fastest forward", "trace", "default trace", "solver wanda"]
    assert told == [
        *((name, 0, 2) for name in [*names, "published"]),
        *((name, 1, 2) for name in names),
    ]
    assert list(found.seconds) == [*names, "published"]
    assert [len(found.seconds[name]) for name in names] == [2] * 5
    assert len(found.seconds["published"]) == 1
    assert all(spent > 0 for values in found.seconds.values() for spent in values)
    first, *rest = called
    assert first == ("trace", {"seed": 5})  # warms up, and is the default
    assert [name for name, _ in rest] == [*["trace"] * 3, "published_trace", *["trace"] * 3]
    assert rest[0][1] == {"augmentations": 3, "seed": 5}
    assert rest[1][1] == {"seed": 5}
    shares = rest[2][1].pop("sparsity")
    assert rest[2][1] == {"augmentations": 3, "solver": "wanda", "seed": 5}
    assert len(shares) == found.layers["trace"]
    assert all(0 < share < 1 for share in shares.values())
    assert rest[3][1] == {"augmentations": 3, "seed": 5}
    assert len(kept) == len(told)
    assert kept[-1] == found
    assert [report.rounds for report in kept] == [0] * 4 + [1] * 6 + [2]
    assert set(found.stages) == {"trace", "default trace", "solver wanda", "published"}
    for name, parts in found.stages.items():
        assert all(len(values) == len(found.seconds[name]) for values in parts.values())
        for index, whole in enumerate(found.seconds[name]):
            assert sum(values[index] for values in parts.values()) <= whole
    assert found.layers["trace"] == found.layers["published"] > 0
    assert (found.weights, found.notes) == ("weights.safetensors", ())
    assert found.image == "noise, 500 x 375 pixels"
    assert found.memory == {"process": 1.0}
    assert found.settings["augmentations"]["count"] == 64
    assert found.versions["torch"]


def test_the_default_trace_is_not_timed_twice(net: Network, called: list[Any]) -> None:
    found = measure_speed(net, noise_image(), repeats=1, published=0, sparsity=0.9)
    assert list(found.seconds) == [
        "forward", "fastest forward", "trace", "trace of all views", "trace in bfloat16",
    ]  # fmt: skip
    default = {"seed": 0, "sparsity": 0.9}
    every = {**default, "augmentations": 64, "positions": 8 * 56}
    half = {**default, "augmentations": 64, "precision": "bfloat16"}
    assert [options for _, options in called] == [default, default, every, half]
    assert found.settings["sparsity"] == 0.9
    assert found.image == "image, 500 x 375 pixels"
    assert list(found.ratios) == [
        "trace over forward", "trace over fastest forward", "trace of all views over forward",
        "trace in bfloat16 over forward",
    ]  # fmt: skip


def test_so_many_positions_use_so_many_views(net: Network) -> None:
    for views in (20, 64):
        found = trace(net, noise_image(), augmentations=views, positions=positions_for(views))
        assert found.settings["views_used"] == views
    assert most_views(positions_for(64)) == 64


def test_forward_passes_are_of_the_views_in_batches(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def watched(self: Network, x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x

    found = speed.trace(net, noise_image(), augmentations=1)
    monkeypatch.setattr(speed, "BATCH", 3)
    views = speed._views(net, noise_image(), 5, 0)
    monkeypatch.setattr(Network, "logits", watched)
    subjects = speed._subjects(net, noise_image(), views, lambda: found, found, [])
    assert [len(x) for x in seen] == [3, 2]  # warmed up
    for name, sizes in (("forward", [3, 2]), ("fastest forward", [2, 2, 1])):
        seen.clear()
        subjects[name]()
        assert [len(x) for x in seen] == sizes
        assert torch.equal(torch.cat(seen), views)
        assert name == "forward" or seen[0].is_contiguous(memory_format=torch.channels_last)


def test_names_and_notes(tmp_path: Path) -> None:
    noise_image().resize((40, 30)).save(tmp_path / "dog.png")
    torch.manual_seed(0)
    random = load("timm:test_vit.r160_in1k", weights="random")
    found = measure_speed(random, tmp_path / "dog.png", augmentations=2, repeats=1)
    assert found.image == "dog.png, 40 x 30 pixels"
    assert found.weights == "untrained"
    assert found.notes[0].startswith("weights are random")
    assert "augmentations=" not in repr(found)
    assert "2 views; forward" in repr(found)


def test_ratios_are_of_medians() -> None:
    found = report()
    assert found.medians["trace"] == 6
    assert found.stage_medians == {"trace": {"solve": 4.0}}
    assert found.ratios == {
        "trace over forward": 3, "trace over fastest forward": 6, "published over trace": 10,
        "published over default trace": 10,
    }  # fmt: skip
    many = report(seconds={**found.seconds, "default trace": (2.0,)})
    assert many.ratios["published over default trace"] == 30
    early = report(seconds={"forward": (1.0,), "trace": (), "default trace": ()}, stages={})
    assert (early.ratios, early.rounds) == ({}, 0)


def test_saved_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "new" / "speed-net.json"
    assert report().save(file) == file
    assert SpeedReport.load(file) == report()
    content = json.loads(file.read_text())
    assert content["ratios"]["trace over forward"] == 3
    report(repeats=9).save(file)
    assert SpeedReport.load(file).repeats == 9
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        report().save(tmp_path / "file" / "x.json")
    with pytest.raises(InputError, match="no saved speed report"):
        SpeedReport.load(tmp_path / "gone.json")
    for damage in ({"seconds": 3}, {"notes": None}):
        file.write_text(json.dumps(content | damage))
        with pytest.raises(InputError, match=r"is damaged .*: measure again"):
            SpeedReport.load(file)
    del content["layers"]
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"is damaged .'layers'.: measure again"):
        SpeedReport.load(file)


def test_an_interruption_leaves_what_was_timed(net: Network) -> None:
    kept: list[SpeedReport] = []

    def stop(what: str, done: int, total: int) -> None:
        if what == "published":
            raise KeyboardInterrupt

    with untouched(net.model), pytest.raises(KeyboardInterrupt):
        measure_speed(net, augmentations=2, repeats=1, progress=stop, keep=kept.append)
    assert (kept[-1].rounds, len(kept[-1].seconds["default trace"])) == (1, 1)


def test_refusals(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="0 repeats: at least one"):
        measure_speed(net, repeats=0)
    with pytest.raises(InputError, match="0 augmentations: at least one"):
        measure_speed(net, augmentations=0)
    with pytest.raises(InputError, match="unknown solver 'quick'"):
        measure_speed(net, solvers=["quick"])
    with pytest.raises(InputError, match="no such image"):
        measure_speed(net, "nowhere.png")
    assert speed.check_solvers(["all", "obs"]) == tuple(SOLVERS)
    assert speed.check_solvers(["obs", "obs"]) == ("obs",)
    training = Network(load("embedded").model.train(), net.preprocessing, net.labels)
    with pytest.raises(NetworkError, match="training mode"):
        measure_speed(training)

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(speed, "published_trace", full)
    with pytest.raises(InputError, match="device cpu has too little memory for published of 2"):
        measure_speed(net, augmentations=2, repeats=1)


def test_memory_is_that_of_another_process(tmp_path: Path, net: Network) -> None:
    found = peak_memory("embedded", augmentations=2)
    assert list(found) == ["process"]
    assert 0.1 < found["process"] < 5
    with pytest.raises(InputError, match="process of its own failed: no such image file"):
        peak_memory("embedded", image=tmp_path / "gone.png")


def test_a_process_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CHILD", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(InputError, match="stopped by signal 9, as for lack of memory: take"):
        peak_memory("embedded")


def test_the_process_says_why_it_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"spec": "embedded", "weights": None, "image": None, "device": "cpu", "sparsity": 0.5,
               "augmentations": 2, "seed": 0}  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["-c", json.dumps(options)])
    memory.main()
    assert json.loads(capsys.readouterr().out)["process"] > 0
    monkeypatch.setattr(sys, "argv", ["-c", json.dumps(options | {"spec": "nonsense"})])
    with pytest.raises(SystemExit, match="cannot tell what network 'nonsense' is"):
        memory.main()


def test_the_clock_waits_for_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(machine.torch.accelerator, "synchronize", waited.append)
    for name, times in (("cpu", 0), ("cuda:1", 3)):
        watch = Stopwatch(torch.device(name))
        watch.lap("a")
        watch.lap("b")
        assert waited == [torch.device(name)] * times
        assert watch.total == sum(watch.seconds.values()) > 0


def test_the_machine_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor : 0\nmodel\t\t: 2\nmodel name\t: Some CPU @ 3 GHz\n")
    monkeypatch.setattr(machine, "_CPU_FACTS", facts)
    assert describe_machine(torch.device("cpu"))["processor"] == "Some CPU @ 3 GHz"
    monkeypatch.setattr(machine, "_CPU_FACTS", tmp_path / "none")
    assert describe_machine(torch.device("cpu"))["processor"]
    monkeypatch.setattr(machine.torch.cuda, "get_device_name", lambda _: "Some GPU")
    assert describe_machine(torch.device("cuda"))["device"] == "Some GPU"


def test_the_noise_is_always_the_same() -> None:
    assert noise_image().tobytes() == noise_image().tobytes()
    assert isinstance(noise_image(), Image.Image)
