"""What the page computes, without the page: one answer at a time, and a stop that stops."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.app_kit import NETWORKS
from sparsight.app import Desk, Question, Seat
from sparsight.casefile import explain
from sparsight.datasets.scenes import render_scene
from sparsight.errors import InputError, NumericalError
from sparsight.networks import load, open_image
from sparsight.reports import CaseFile

FEW = {"methods": ("saliency", "lrp"), "augmentations": 6}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORKS)
    render_scene("mug", seed=1, sticker="heart").picture().save("mug.png")
    render_scene("house", seed=2).picture().save("house.png")
    return tmp_path


@pytest.fixture
def desk(home: Path) -> Iterator[Desk]:
    with Desk({name: load(f"net.py:{name}") for name in ("network", "slow", "corrupt")}) as made:
        yield made


def question(name: str, network: str = "network", **more: object) -> Question:
    return Question(network, Path(name), name, **{**FEW, **more})


def content(case: CaseFile) -> list[object]:
    heats = [heat.tobytes() for pair in case.maps for heat in pair.heats.values()]
    return [
        case.title,
        case.kl,
        case.sparsity,
        case.classes,
        np.asarray(case.image).tobytes(),
        *heats,
    ]


def test_an_answer_is_what_explain_says(desk: Desk) -> None:
    case = desk.ask(question("mug.png", sparsity=0.5)).result()
    network = load("net.py:network")
    alone = explain(
        network, open_image("mug.png"), sparsity="network:0.5", image_name="mug.png", **FEW
    )
    assert content(case) == content(alone)
    assert 0.4 < case.sparsity <= 0.5


def test_two_at_once_get_what_each_gets_alone(home: Path) -> None:
    network = load("embedded")
    asked = [
        question(name, "embedded", sparsity=share, methods=("saliency",))
        for name, share in (("mug.png", 0.8), ("house.png", 0.8), ("mug.png", 0.5))
    ]
    with Desk({"embedded": network}) as desk:
        alone = [content(desk.ask(one).result()) for one in asked]
    together: dict[int, list[object]] = {}
    barrier = threading.Barrier(len(asked))
    with Desk({"embedded": network}) as desk:

        def person(number: int) -> None:
            barrier.wait()
            together[number] = content(desk.ask(asked[number]).result())

        people = [threading.Thread(target=person, args=(n,)) for n in range(len(asked))]
        for one in people:
            one.start()
        for one in people:
            one.join()
    assert [together[number] for number in range(len(asked))] == alone
    assert len({str(one[0]) + str(one[2]) for one in alone}) == len(asked)


def test_cancelling_stops_the_computation_and_leaves_the_network_as_it_was(
    desk: Desk, home: Path
) -> None:
    model = desk.networks["slow"].model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    job = desk.ask(question("mug.png", "slow"))
    queued = desk.ask(question("house.png", "slow"))
    while job.step is None or job.step.stage != "mapping":
        time.sleep(0.01)
    assert queued.waiting
    queued.cancel()
    job.cancel()
    with pytest.raises(CancelledError):
        job.result(timeout=5)
    with pytest.raises(CancelledError):
        queued.result(timeout=5)
    assert (job.over, job.cancelled, queued.over) == (True, True, True)
    passes = (home / "passes").stat().st_size
    time.sleep(0.7)
    assert (home / "passes").stat().st_size == passes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model._forward_pre_hooks
    assert all(parameter.grad is None for parameter in model.parameters())
    assert desk.ask(question("mug.png")).result().title.startswith("mug.png")


def test_closing_the_desk_stops_everything(home: Path) -> None:
    with Desk({"slow": load("net.py:slow")}) as desk:
        jobs = [desk.ask(question("mug.png", "slow")) for _ in range(3)]
        while jobs[0].step is None:
            time.sleep(0.01)
        started = time.perf_counter()
    assert time.perf_counter() - started < 3
    assert all(job.over and job.cancelled for job in jobs)


def test_a_new_question_of_one_person_ends_the_last_and_nobody_elses(desk: Desk) -> None:
    seat = Seat()
    other = copy.deepcopy(seat)
    assert other is not seat
    first = seat.ask(desk, question("mug.png", "slow"))
    theirs = other.ask(desk, question("mug.png"))
    second = seat.ask(desk, question("house.png"))
    assert theirs.result(timeout=20).title.startswith("mug.png")
    assert second.result(timeout=20).title.startswith("house.png")
    assert (first.cancelled, theirs.cancelled, second.cancelled) == (True, False, False)
    assert seat.job is second
    seat.cancel()
    assert not second.cancelled  # it was over


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"hello", "mine.png is not an image that Pillow can read"),
        (b"", "mine.png is not an image that Pillow can read"),
        (Image.new("RGB", (1, 1)), "the image is 1x1 pixels: nothing to explain"),
        (Image.fromarray(np.full((8, 8), np.nan, np.float32)), "image mode 'F' has no fixed value"),
    ],
)  # fmt: skip
def test_unusable_images_are_told_by_the_name_that_their_owner_gave(
    desk: Desk, home: Path, content: bytes | Image.Image, told: str
) -> None:
    path = home / "0a1b2c.tiff"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path)
    job = desk.ask(Question("network", path, "mine.png", **FEW))
    with pytest.raises(InputError, match=told) as raised:
        job.result()
    assert str(path) not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_corrupt_weights_and_networks_that_are_not_there(desk: Desk) -> None:
    with pytest.raises(NumericalError, match="NaN"):
        desk.ask(question("mug.png", "corrupt")).result()
    with pytest.raises(InputError, match="no network 'other': choose from network, slow, corrupt"):
        desk.ask(question("mug.png", "other"))
    with pytest.raises(InputError, match="class 99 does not exist"):
        desk.ask(question("mug.png", target=99)).result()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"sparsity": 1.0}, r"sparsity 1: it must lie in \[0, 1\)"),
        ({"sparsity": float("nan")}, "sparsity nan"),
        ({"augmentations": 0}, "0 views: give a whole number from 1 to 256"),
        ({"augmentations": 10**6}, "1000000 views"),
        ({"methods": ()}, "no method given"),
        ({"methods": ("guess",)}, "unknown method 'guess'"),
    ],
)
def test_questions_that_make_no_sense(more: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        question("mug.png", **more)


def test_no_weights_removed_at_all_is_a_question_too(desk: Desk) -> None:
    case = desk.ask(question("mug.png", sparsity=0.0)).result()
    assert case.sparsity == 0
    assert case.agrees
