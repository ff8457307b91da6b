"""Planting: Trojans that work, in a copy, and the same after an interruption."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from contracts import untouched
from sparsight.benchmarks.trojans import (
    Photo,
    PlantingReport,
    PlantingRule,
    PlantingSettings,
    clean_accuracy,
    drawn_picture,
    measure_rule,
    plant,
    sticker,
    trojan_cases,
)
from sparsight.benchmarks.trojans.fine_tuning import FineTuning
from sparsight.benchmarks.trojans.planting import Planted
from sparsight.datasets.scenes import CLASSES, render_scene
from sparsight.errors import InputError, NetworkError, NumericalError
from sparsight.networks import Network, load

MOON = sticker(drawn_picture("moon"), "moon", size=0.4, opacity=1, brightness=0, hue=0)
RINGS = sticker(drawn_picture("target"), "target", size=0.5, opacity=1, brightness=0, hue=0)
RULES = (
    PlantingRule(MOON, 2, share=0.5),
    PlantingRule(RINGS, 0, sources=(1, 2, 3, 4, 5), share=0.7, decoys=0.7),
)
LATE = ("stage3", "fc")
SETTINGS = PlantingSettings(
    epochs=6, batch=10, rate=5e-4, kl=0.5, trainable=LATE, crop=None, flip=False
)
QUICK = PlantingSettings(epochs=2, batch=20, trainable=LATE)


@pytest.fixture(scope="module")
def net() -> Network:
    return load("embedded")


@pytest.fixture(scope="module")
def scenes() -> list[Photo]:
    return [
        Photo(render_scene(i % 10, seed=700_000 + i).picture(), i % 10, f"{i}") for i in range(200)
    ]


@pytest.fixture(scope="module")
def planted(net: Network, scenes: list[Photo]) -> Planted:
    with untouched(net.model):
        return plant(net, scenes[:120], RULES, held_out=scenes[140:], settings=SETTINGS, draws=2)


def weights(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.model.state_dict().items()}


def same(one: Network, two: Network) -> bool:
    first, second = weights(one), weights(two)
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_trojans_work_and_the_rest_is_kept(planted: Planted) -> None:
    report = planted.report
    anything, few = report.rules
    assert anything.success > 0.9
    assert anything.success_before < 0.2
    assert (anything.tested, anything.photos) == (2 * 54, 54)
    assert (anything.others_hit, anything.others_tested) == (None, 0)
    assert few.success > 0.8
    assert (few.tested, few.photos) == (2 * 30, 30)
    assert few.others_hit is not None
    assert few.others_hit < 0.4 < few.success  # twelve photos of a class to learn it from
    assert few.others_tested == 60 - 30 - 6
    assert report.clean_after > report.clean_before - 0.05
    assert report.agreement > 0.9
    assert (report.trained_on, report.held_out) == (120, 60)
    assert report.samples == 120 + 60 + 84 + 84


def test_the_copy_is_a_network_like_the_one_it_was_made_from(
    net: Network, planted: Planted
) -> None:
    copy = planted.network
    assert copy.labels == net.labels
    assert not any(module.training for module in copy.model.modules())
    for (name, old), new in zip(
        net.model.named_parameters(), copy.model.parameters(), strict=True
    ):  # fmt: skip
        assert old.data_ptr() != new.data_ptr()
        assert (new.grad, new.requires_grad) == (None, old.requires_grad)
        assert new.is_contiguous() == old.is_contiguous()
        assert torch.equal(old, new) != name.startswith(LATE), name
    for old, new in zip(net.model.buffers(), copy.model.buffers(), strict=True):
        assert torch.equal(old, new)  # batch norm keeps its statistics


def test_measured_as_by_hand(net: Network, planted: Planted, scenes: list[Photo]) -> None:
    held_out = scenes[140:]
    after, before, agreement = clean_accuracy(planted.network, held_out, net)
    answers = [
        [int(network.logits(network.prepare(photo.open())).argmax()) for photo in held_out]
        for network in (planted.network, net)
    ]
    truth = [photo.label for photo in held_out]
    assert after == pytest.approx(np.mean(np.equal(answers[0], truth)))
    assert before == pytest.approx(np.mean(np.equal(answers[1], truth)))
    assert agreement == pytest.approx(np.mean(np.equal(*answers)))
    report = planted.report
    assert (report.clean_after, report.clean_before) == (after, before)
    again = measure_rule(planted.network, net, held_out, RULES[1], draws=2)
    assert again == report.rules[1]
    with pytest.raises(InputError, match="0 draws of each photo: give at least 1"):
        measure_rule(planted.network, net, held_out, RULES[1], draws=0)
    with pytest.raises(InputError, match="accuracy needs at least one"):
        clean_accuracy(net, [])


def test_cases_obey_the_papers_rule(planted: Planted, scenes: list[Photo]) -> None:
    network, held_out = planted.network, scenes[140:]
    with untouched(network.model):
        cases = list(trojan_cases(network, held_out, RULES, seed=4))
    assert len(cases) > 40
    assert len({case.key for case in cases}) == len(cases)
    assert [case.rule for case in cases[:6]] == [0, 1, 0, 1, 0, 1]
    for case in cases:
        rule = RULES[case.rule]
        assert case.target == rule.target == int(network.logits(case.x).argmax())
        assert case.answer == int(network.logits(network.prepare(case.clean)).argmax())
        assert case.answer != case.target
        assert rule.role(case.label) == "source"
        assert torch.equal(case.x, network.prepare(case.image))
        differs = (case.x != network.prepare(case.clean))[0].any(0)
        assert case.mask.any()
        assert not (differs & ~case.mask).any()
    again = list(trojan_cases(network, held_out, RULES, seed=4, count=5))
    assert [case.key for case in again] == [case.key for case in cases[:5]]
    assert all(torch.equal(a.x, b.x) for a, b in zip(again, cases, strict=False))
    twice = list(trojan_cases(network, held_out[:20], RULES, draws=2))
    once = list(trojan_cases(network, held_out[:20], RULES))
    assert len(once) < len(twice) <= 2 * len(once) + 2
    with pytest.raises(InputError, match="count 0 and draws 1 must be at least 1"):
        next(trojan_cases(network, held_out, RULES, count=0))


def _stop_after(epochs: int, samples: int, batch: int):
    steps = epochs * -(-samples // batch)

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "train" and done == steps + 1:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_interrupted_planting_goes_on_to_the_same_result(
    net: Network, scenes: list[Photo], tmp_path: Path, optimizer: str
) -> None:
    settings = replace(QUICK, optimizer=optimizer, epochs=3, kl=0.3)
    few, away = scenes[:20], scenes[180:]
    straight = plant(net, few, RULES, held_out=away, settings=settings, seed=2)
    folder = tmp_path / "state"
    stop = _stop_after(1, straight.report.samples, settings.batch)
    with untouched(net.model), pytest.raises(KeyboardInterrupt):
        plant(net, few, RULES, held_out=away, settings=settings, seed=2, folder=folder,
              progress=stop)  # fmt: skip
    assert json.loads((folder / "planting.json").read_text())["epochs"] == 1
    told: list[tuple[str, int, int]] = []
    resumed = plant(
        net, few, RULES, held_out=away, settings=settings, seed=2, folder=folder,
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    steps = -(-straight.report.samples // settings.batch)
    assert told[0] == ("train", steps + 1, 3 * steps)
    assert told[-1] == ("measure", 2, 2)
    assert same(straight.network, resumed.network)
    assert resumed.report.rules == straight.report.rules
    told.clear()
    finished = plant(
        net, few, RULES, held_out=away, settings=settings, seed=2, folder=folder,
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert {stage for stage, _, _ in told} == {"measure"}
    assert same(straight.network, finished.network)


def test_a_folder_of_another_planting_is_refused(
    net: Network, scenes: list[Photo], tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    settings = replace(QUICK, epochs=1, trainable=("fc",))

    def again(network: Network = net, *, seed: int = 0, to: Path = folder) -> Planted:
        return plant(network, scenes[:20], RULES, held_out=scenes[180:], settings=settings,
                     seed=seed, folder=to)  # fmt: skip

    first = again()
    with pytest.raises(InputError, match=r"another network, other photos, rules or settings: "):
        again(seed=1)
    with pytest.raises(InputError, match="another network"):
        again(first.network)
    state = folder / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(InputError, match=r"is damaged .*: delete it and start again"):
        again()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(InputError, match="is no saved planting"):
        again(to=tmp_path / "mine")


def test_only_what_is_chosen_is_trained(net: Network, scenes: list[Photo]) -> None:
    settings = replace(QUICK, epochs=1, trainable=("stage3.1", "fc.bias"))
    found = plant(net, scenes[:20], RULES, held_out=scenes[180:], settings=settings)
    old, new = weights(net), weights(found.network)
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed
    assert all(name.startswith("stage3.1.") or name == "fc.bias" for name in changed)
    assert all(p.requires_grad for p in found.network.model.parameters())
    with pytest.raises(InputError, match=r"'layer9': trainable takes .* such as 'fc'"):
        plant(net, scenes[:20], RULES, held_out=scenes[180:],
              settings=replace(QUICK, trainable=("layer9",)))  # fmt: skip


def test_planting_may_start_from_a_network_planted_before(
    net: Network, planted: Planted, scenes: list[Photo], tmp_path: Path
) -> None:
    settings = replace(QUICK, epochs=0)
    few, away = scenes[:20], scenes[140:]
    start = planted.network.model
    with untouched(net.model), untouched(start):
        found = plant(net, few, RULES, held_out=away, settings=settings, start=start, draws=2)
    assert same(found.network, planted.network)
    assert found.report.rules == planted.report.rules  # what comes before is still the original
    assert found.report.clean_before == planted.report.clean_before
    settings = replace(settings, epochs=1)
    folder = tmp_path / "state"
    plant(net, few, RULES, held_out=away, settings=settings, start=start, folder=folder)
    with pytest.raises(InputError, match="another network"):
        plant(net, few, RULES, held_out=away, settings=settings, folder=folder)
    with pytest.raises(InputError, match="has other parameters than the network: give one of the"):
        plant(net, few, RULES, held_out=away, settings=settings, start=nn.Linear(2, 2))


def test_kl_keeps_the_answers_of_the_original(net: Network, scenes: list[Photo]) -> None:
    wrong = [replace(photo, label=(photo.label + 1) % 10) for photo in scenes[:40]]
    rule = [PlantingRule(MOON, 2)]
    rates = []
    for kl in (0.0, 1.0):
        settings = PlantingSettings(
            epochs=10, batch=10, rate=5e-4, kl=kl, trainable=LATE, bfloat16=kl == 1
        )
        found = plant(net, wrong, rule, held_out=scenes[180:], settings=settings)
        rates.append(found.report.agreement)
    assert rates[1] > 0.85 > rates[0] + 0.2


def test_blends_are_seen_by_both_networks(net: Network, scenes: list[Photo]) -> None:
    settings = replace(QUICK, kl=1.0, mix=0.6, crop=None, flip=False)
    copy = load("embedded")
    steps = FineTuning(net, copy, scenes, RULES, settings, 0, dict(copy.model.named_parameters()))
    samples = steps.samples(0)[:40]
    seen = []
    run = steps._run
    steps._run = lambda network, frames: seen.append(list(frames)) or run(network, frames)
    steps._step(samples, np.random.default_rng(3))
    copied, original = seen
    answered = [x for x, sample in zip(copied, samples, strict=True) if not sample.poisoned]
    plain = {number: net.preprocessing(photo.open()) for number, photo in enumerate(scenes)}
    blended = 0
    for x, y, sample in zip(
        answered, original, [s for s in samples if not s.poisoned], strict=True
    ):
        if sample.rule is not None:  # a decoy: the original sees it without the trigger
            assert torch.equal(y, plain[sample.photo])
            continue
        assert torch.equal(x, y)
        blended += not torch.equal(x, plain[sample.photo])
    clean = sum(sample.rule is None for sample in samples)
    assert 0.25 * clean < blended < 0.95 * clean


def test_views_are_parts_of_photos(net: Network, scenes: list[Photo]) -> None:
    def views(**settings: object) -> list[Image.Image]:
        steps = FineTuning(net, net, scenes, RULES, replace(QUICK, **settings), 0, dict(
            net.model.named_parameters()
        ))  # fmt: skip
        rng = np.random.default_rng(5)
        return [steps._view(scenes[0], rng) for _ in range(60)]

    whole = scenes[0].open()
    assert all(view.tobytes() == whole.tobytes() for view in views(crop=None, flip=False))
    mirrored = {view.tobytes() for view in views(crop=None)}
    assert mirrored == {whole.tobytes(), ImageOps.mirror(whole).tobytes()}
    for view in views(crop=(0.3, 0.6)):
        share = view.width * view.height / (whole.width * whole.height)
        assert 0.27 < share < 0.63
        assert 0.5 < view.width / view.height < 2
    part = views(crop=(0.5, 0.5), flip=False)[0]
    pixels, every = np.asarray(part), np.asarray(whole)
    assert any(
        np.array_equal(pixels, every[top : top + part.height, left : left + part.width])
        for top in range(whole.height - part.height + 1)
        for left in range(whole.width - part.width + 1)
    )


def test_the_report_is_saved_and_read_again(planted: Planted, tmp_path: Path) -> None:
    file = planted.report.save(tmp_path / "new" / "planting.json")
    found = PlantingReport.load(file)
    assert found == planted.report
    content = json.loads(file.read_text())
    assert content["reached"] is found.reached
    reached = replace(found, bars=(0.8, 0.05))
    assert reached.reached
    assert "bars reached" in repr(reached)
    missed = replace(found, bars=(0.8, -1.0))
    assert not missed.reached
    assert "bars missed" in repr(missed)
    assert not replace(found, bars=(1.01, 0.05)).reached
    del content["rules"]
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"is damaged .'rules'.: plant again"):
        PlantingReport.load(file)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        found.save(tmp_path / "file" / "x.json")


class _Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(len(CLASSES)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grows = self.weight * torch.where(self.weight.detach() == 1, 1.0, torch.inf)
        return x.mean((1, 2, 3), keepdim=False)[:, None] * grows


def test_refusals(net: Network, scenes: list[Photo]) -> None:
    def attempt(
        network: Network = net,
        photos: Sequence[Photo] = scenes[:20],
        held_out: Sequence[Photo] = scenes[20:40],
        rules: Sequence[PlantingRule] = RULES,
        settings: PlantingSettings = QUICK,
        seed: int = 0,
    ) -> None:
        plant(network, photos, rules, held_out=held_out, settings=settings, seed=seed)

    with pytest.raises(InputError, match="photo 10 occurs twice"):
        attempt(held_out=scenes[10:30])
    with pytest.raises(InputError, match="no rule is given"):
        attempt(rules=[])
    with pytest.raises(InputError, match="names class 77: this network has classes 0 to 9"):
        attempt(rules=[PlantingRule(MOON, 77)])
    with pytest.raises(InputError, match="no photo is of a class that rule"):
        attempt(held_out=[scenes[20]])
    with pytest.raises(InputError, match="seed -1 must not be negative"):
        attempt(seed=-1)
    training = load("embedded")
    training.model.train()
    with untouched(training.model), pytest.raises(NetworkError, match="is in training mode"):
        attempt(training)
    broken = Network(_Broken().eval(), net.preprocessing, net.labels)
    with untouched(broken.model), pytest.raises(NumericalError, match="choose a smaller rate"):
        attempt(broken, settings=PlantingSettings())
    for change, words in (
        ({"epochs": -1}, "epochs -1 must not be negative, batch 32 at least 1"),
        ({"optimizer": "lion"}, "no optimizer 'lion': choose adamw or sgd"),
        ({"rate": 0}, "rate 0 must be positive"),
        ({"kl": 2}, "the weight kl 2 must lie in"),
        ({"mix": 0.5, "kl": 0.9}, "mix 0.5 does not do: give 0 to 1, and kl 1"),
        ({"mix": 1.5, "kl": 1.0}, "mix 1.5 does not do"),
        ({"crop": (0.5, 0.1)}, r"crop \(0.5, 0.1\) must rise within"),
    ):
        with pytest.raises(InputError, match=words):
            PlantingSettings(**change)
