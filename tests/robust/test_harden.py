"""Three stages: budgets met, interruptions that change nothing, files, baselines."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from lightning_fabric.plugins import Precision
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from cifar_networks import CifarResNet
from contracts import untouched
from sparsight.datasets.pixels import augment, batches, drawn, split
from sparsight.errors import InputError, NetworkError, NumericalError, UnsupportedError
from sparsight.networks import Network, Preprocessing
from sparsight.networks.state import load_weights
from sparsight.robust import (
    BASELINES,
    METHODS,
    OBJECTIVES,
    PUBLISHED,
    Attack,
    Hardened,
    HardenSettings,
    PixelClassifier,
    Pixels,
    choose_objective,
    evaluate,
    harden,
    read_arrays,
    training,
)
from sparsight.robust.masked import Masked
from sparsight.robust.training import Accuracy, Stage, _Epoch, groups_of, measure


class Net(nn.Module):
    """A small residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.two, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.three, self.norm3 = nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm1(self.one(x)))
        x = F.relu(x + self.norm2(self.two(x)))
        x = F.relu(self.norm3(self.three(x)))
        return self.fc(x.mean((2, 3)))


def network_of() -> Network:
    torch.manual_seed(0)
    frame = Preprocessing((12, 12), None, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    return Network(Net().eval(), frame, ("red", "green", "blue"), "net")


def pixels(network: Network, count: int = 60) -> Pixels:
    """Images of three colours, which can be told apart."""
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(count, 3, 12, 12, generator=generator) * 0.5
    labels = torch.arange(count) % 3
    images[torch.arange(count), labels] += 0.4
    samples = [((255 * x).to(torch.uint8).numpy(), int(y)) for x, y in zip(images, labels)]  # noqa: B905
    return Pixels(network, samples)


FAST = {
    "target": 0.2, "epochs": (1, 2, 1), "batch": 16, "attack_steps": 2, "validation": 0.2,
    "rates": (0.05, 0.05, 0.01),
}  # fmt: skip


def state_of(found: Hardened) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in found.network.model.state_dict().items()}


def same(first: Hardened, second: Hardened) -> bool:
    one, other = state_of(first), state_of(second)
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", [*METHODS, *(b for b in BASELINES if b != "dense")])
def test_every_mode_meets_the_budget_exactly(method):
    network = network_of()
    with untouched(network.model):
        found = harden(network, pixels(network), method=method, **FAST)
    total = sum(one.size for one in found.kept)
    assert sum(one.kept for one in found.kept) == round(0.2 * total)
    for one in found.kept:
        weight = found.network.model.get_parameter(one.name)
        assert int((weight != 0).sum()) == one.kept, one.name
    stages = [row["stage"] for row in found.log]
    wanted = ["pretrain", *(["prune"] * 2 if method in METHODS else []), "finetune"]
    assert stages == wanted
    assert not any("parametrizations" in name for name in found.network.model.state_dict())
    assert not found.network.model.training
    if method not in METHODS:
        assert found.reached


def test_dense_is_the_first_stage_alone():
    network = network_of()
    found = harden(network, pixels(network), method="dense", **FAST)
    assert [row["stage"] for row in found.log] == ["pretrain"]
    assert all(one.kept == one.size for one in found.kept)
    with pytest.raises(InputError, match="give it an epoch"):
        harden(network, pixels(network), method="dense", **(FAST | {"epochs": (0, 1, 1)}))


@pytest.mark.parametrize("method", METHODS)
def test_only_what_is_to_be_learnt_is(method):
    network = network_of()
    found = harden(network, pixels(network), method=method, **(FAST | {"epochs": (0, 2, 0)}))
    rates = [row["rates"] for row in found.log]
    moved = any(abs(rates[0][name] - rates[1][name]) > 1e-7 for name in rates[0])
    assert moved == (method != "scores")
    magnitude = harden(network, pixels(network), method="uniform", **(FAST | {"epochs": (0, 0, 0)}))
    kept = {one.name: one.kept for one in magnitude.kept}
    if method == "scores":
        assert {one.name: one.kept for one in found.kept} == kept, "uniform rates stay"
    for name, parameter in network.model.named_parameters():
        got = found.network.model.get_parameter(name)
        if "norm" not in name:
            assert torch.equal(got[got != 0], parameter[got != 0]), "weights are as they were"


@pytest.mark.parametrize("policy", ["train", "statistics", "frozen"])
def test_normalisations_do_what_they_are_told(policy):
    network = network_of()
    options = FAST | {"epochs": (0, 2, 0), "batch_norm": policy}
    model = harden(network, pixels(network), **options).network.model
    scale = torch.equal(model.norm1.weight, network.model.norm1.weight)
    running = torch.equal(model.norm1.running_mean, network.model.norm1.running_mean)
    assert (scale, running) == {
        "train": (False, False), "statistics": (True, False), "frozen": (True, True)
    }[policy]  # fmt: skip


def test_channels_begin_above_their_budget():
    network = network_of()
    found = harden(
        network,
        pixels(network),
        **(FAST | {"mode": "channels", "target": 0.3, "epochs": (0, 12, 0)}),
    )
    assert found.log[0]["share"] > 0.3
    assert found.reached
    few = HardenSettings(mode="channels", target=0.3, epochs=(0, 2, 0))
    assert few.enough(4, 3) > 1


def test_free_training_takes_a_last_batch_that_is_larger():
    network = network_of()
    options = FAST | {"objective": "free", "replays": 2, "epochs": (1, 1, 0), "batch": 47}
    found = harden(network, pixels(network), **options)  # 48 images are trained on
    assert all(row["loss"] > 0 for row in found.log)


def test_fewer_steps_of_the_optimizer_make_the_budget_weigh_more():
    network, gammas = network_of(), []
    for more in ({}, {"accumulate": 3}, {"objective": "free", "replays": 3}):
        options = FAST | {"target": 0.05, "epochs": (0, 1, 0)} | more
        gammas.append(harden(network, pixels(network), **options).log[0]["gamma"])
    assert gammas[1] == pytest.approx(3 * gammas[0])
    assert gammas[2] == pytest.approx(gammas[0] / 3)


def test_few_steps_are_enough_to_meet_the_budget():
    network = network_of()
    options = FAST | {"target": 0.05, "epochs": (0, 6, 0), "rates": (0.1, 0.1, 0.1)}
    found = harden(network, pixels(network), **options)
    assert found.reached
    slow = harden(network, pixels(network), **(options | {"gamma": 1.0}))
    assert not slow.reached


def test_no_step_throws_a_layer_to_its_bound():
    network = network_of()
    settings = HardenSettings(**FAST)
    classifier = PixelClassifier.of(network)
    masked = Masked(classifier, "weights", 0.2, torch.rand(1, 3, 12, 12))
    fabric = Fabric(accelerator="cpu", devices=1)
    stage = Stage("prune", classifier, masked)
    optimizer = torch.optim.SGD(groups_of(stage, settings), 0.1)
    model, wrapped = fabric.setup(classifier, optimizer)
    objective = choose_objective("natural", settings.attack)
    run = _Epoch(
        stage, model, wrapped, pixels(network), settings, objective, fabric, lambda *_: None
    )
    for scores in masked.layers.values():
        scores.quota.grad = torch.tensor(-1e6)
    run._clip()
    assert all(float(scores.quota.grad) == -1.0 for scores in masked.layers.values())
    with pytest.raises(InputError, match="positive number, or none"):
        HardenSettings(clip=0.0)


def test_a_budget_that_is_never_met_is_met_in_the_end_and_said():
    network = network_of()
    options = FAST | {"target": 0.05, "epochs": (0, 1, 0), "rates": (0.1, 1e-6, 0.1), "gamma": 1.0}
    found = harden(network, pixels(network), **options)
    assert found.log[-1]["over budget"] > 0.5
    assert not found.reached
    total = sum(one.size for one in found.kept)
    assert sum(one.kept for one in found.kept) == round(0.05 * total)


def test_only_weights_decay():
    settings = HardenSettings(**FAST)
    classifier = PixelClassifier.of(network_of())
    dense = groups_of(Stage("pretrain", classifier), settings)
    decays = {id(p) for group in dense if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in classifier.named_parameters() if id(p) in decays}
    assert names == {f"model.{name}.weight" for name in ("one", "two", "three", "fc")}
    masked = Masked(classifier, "weights", 0.2, torch.rand(1, 3, 12, 12))
    groups = groups_of(Stage("prune", classifier, masked), settings)
    assert all(not group["weight_decay"] for group in groups)
    held = {id(p) for group in groups for p in group["params"]}
    assert {id(s.quota) for s in masked.layers.values()} <= held
    assert not {id(w) for w in masked.originals().values()} & held


class Interrupted(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_teaches_every_score(objective):
    network = network_of()
    classifier = PixelClassifier.of(network)
    masked = Masked(classifier, "weights", 0.3, torch.rand(1, 3, 12, 12))
    chosen = choose_objective(objective, Attack(steps=1))
    x, y = torch.rand(8, 3, 12, 12), torch.arange(8) % 3
    for weight in masked.originals().values():
        weight.requires_grad_(False)
    with masked.cached():
        moved = chosen.attacked(classifier, x, y, drawn(1))
        chosen.loss(classifier, x, moved, y).backward()
    for name, scores in masked.layers.items():
        assert scores.scores.grad is not None, name
        assert scores.scores.grad.abs().sum() > 0, name
        assert scores.quota.grad is not None, name


class Dropped(Net):
    """Draws while it trains."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.dropout(x, 0.3, self.training))


def test_what_a_network_draws_is_drawn_again(tmp_path):
    torch.manual_seed(0)
    network = replace(network_of(), model=Dropped().eval())
    before = torch.get_rng_state()
    whole = harden(network, pixels(network), **FAST)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert same(whole, harden(network, pixels(network), **FAST))

    def stopping(rows):
        if len(rows) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        harden(network, pixels(network), state=tmp_path / "s", logged=stopping, **FAST)
    torch.rand(3)
    assert same(whole, harden(network, pixels(network), state=tmp_path / "s", **FAST))


@pytest.mark.parametrize(
    "more",
    [
        {"mode": "weights"}, {"mode": "channels"}, {"scores": "traces"},
        {"mode": "channels", "objective": "free", "replays": 2},
    ],
)  # fmt: skip
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_an_interruption_after_any_epoch_changes_nothing(tmp_path, stop, more):
    network = network_of()
    options = FAST | {"epochs": (1, 2, 2), "target": 0.4} | more
    whole = harden(network, pixels(network), **options)

    def stopping(rows):
        if len(rows) == stop:
            raise Interrupted

    with pytest.raises(Interrupted):
        harden(network, pixels(network), state=tmp_path / "state", logged=stopping, **options)
    again = harden(network, pixels(network), state=tmp_path / "state", **options)
    assert same(whole, again)
    assert list(again.log) == list(whole.log)
    assert again.kept == whole.kept
    assert again.reached == whole.reached
    third = harden(network, pixels(network), state=tmp_path / "state", **options)
    assert same(whole, third), "a finished one gives the same again"


def test_what_scales_losses_is_resumed(tmp_path, monkeypatch):
    network = network_of()
    state, given = {"scale": 4.0}, []
    monkeypatch.setattr(Precision, "state_dict", lambda self: dict(state))
    monkeypatch.setattr(Precision, "load_state_dict", lambda self, told: given.append(told))

    def stopping(rows):
        if len(rows) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        harden(network, pixels(network), state=tmp_path / "s", logged=stopping, **FAST)
    harden(network, pixels(network), state=tmp_path / "s", **FAST)
    assert given == [state]


def test_an_interruption_within_an_epoch_loses_that_epoch_alone(tmp_path):
    network = network_of()
    whole = harden(network, pixels(network), **FAST)
    calls = []

    def stopping(stage, done, total):
        calls.append(stage)
        if stage == "prune" and done == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        harden(network, pixels(network), state=tmp_path / "s", progress=stopping, **FAST)
    assert same(whole, harden(network, pixels(network), state=tmp_path / "s", **FAST))


def test_a_state_of_something_else_is_refused(tmp_path):
    network = network_of()
    harden(network, pixels(network), state=tmp_path / "s", **FAST)
    with pytest.raises(InputError, match="hardening of another network"):
        harden(network, pixels(network), state=tmp_path / "s", **(FAST | {"seed": 1}))
    (tmp_path / "s" / "state.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="damaged"):
        harden(network, pixels(network), state=tmp_path / "s", **FAST)
    again = harden(network, pixels(network), state=tmp_path / "s", overwrite=True, **FAST)
    assert same(again, harden(network, pixels(network), **FAST))


def test_epochs_are_chosen_by_images_that_are_not_trained_on(monkeypatch):
    network, judged, trained = network_of(), set(), set()

    def watched(model, data, *rest):
        judged.update(x.numpy().tobytes() for x, _ in data)
        return measure(model, data, *rest)

    class Watched(_Epoch):
        def __call__(self, epoch):
            trained.update(x.numpy().tobytes() for x, _ in self.data)
            return super().__call__(epoch)

    monkeypatch.setattr(training, "measure", watched)
    monkeypatch.setattr(training, "_Epoch", Watched)
    harden(network, pixels(network), **FAST)
    assert (len(judged), len(trained)) == (12, 48)
    assert not judged & trained


@pytest.mark.parametrize(("objective", "wanted"), [("natural", 3), ("pgd", 1)])
def test_natural_training_is_judged_by_the_images_as_they_are(monkeypatch, objective, wanted):
    shares = iter([(0.5, 0.4), (0.6, 0.3), (0.9, 0.1), (0.8, 0.2)])
    monkeypatch.setattr(training, "measure", lambda *_: Accuracy(*next(shares)))
    network, states = network_of(), []
    options = FAST | {"method": "dense", "objective": objective, "epochs": (4, 0, 0)}
    step = training._Epoch.__call__

    def kept(self, epoch):
        row = step(self, epoch)
        states.append(self.stage.classifier.model.fc.weight.detach().clone())
        return row

    monkeypatch.setattr(training._Epoch, "__call__", kept)
    found = harden(network, pixels(network), **options)
    assert torch.equal(found.network.model.fc.weight, states[wanted - 1])


def test_what_is_left_of_accumulated_batches_counts_as_much():
    network = network_of()
    base = {"epochs": (0, 1, 0), "augment": False, "momentum": 0.0, "target": 0.4}
    data = pixels(network, 60)  # 48 are trained on, three batches
    some = harden(network, data, **(FAST | base | {"accumulate": 3}))
    more = harden(network, data, **(FAST | base | {"accumulate": 100}))
    assert same(some, more)


def test_half_precision_trains():
    network = network_of()
    found = harden(network, pixels(network), **(FAST | {"precision": "bf16-mixed"}))
    assert all(torch.isfinite(value).all() for value in state_of(found).values())
    total = sum(one.size for one in found.kept)
    assert sum(one.kept for one in found.kept) == round(0.2 * total)


@pytest.mark.parametrize("objective", ["natural", "pgd", "trades", "mart", "free"])
def test_every_objective_trains(objective):
    network = network_of()
    options = FAST | {"objective": objective, "epochs": (6, 1, 2), "replays": 2, "target": 0.5}
    found = harden(network, pixels(network, 120), **options)
    assert found.log[-1]["clean"] > 0.6
    assert all(row["robust"] <= row["clean"] for row in found.log)


def test_the_weight_of_the_budget_grows_until_it_is_met():
    settings = HardenSettings(target=0.01)
    assert [settings.weight_of_budget(epoch) for epoch in range(3)] == [0.01, 0.02, 0.03]
    assert settings.enough(21, 390) == 1.0, "as published where there are as many steps"
    assert HardenSettings(gamma=3.0).enough(8, 1) == 3.0
    network = network_of()
    options = FAST | {
        "epochs": (0, 8, 0), "rates": (0.1, 0.5, 0.1), "start": 0.25, "gamma": 50.0,
    }  # fmt: skip
    found = harden(network, pixels(network), **options)
    rows = found.log
    met = next(k for k, row in enumerate(rows) if row["over budget"] <= 5e-5)
    assert [row["gamma"] for row in rows[: met + 1]] == [
        pytest.approx(10 * (k + 1)) for k in range(met + 1)
    ]
    assert {row["gamma"] for row in rows[met:]} == {rows[met]["gamma"]}
    assert found.reached


def test_channels_are_cut_out_and_the_answers_stay():
    network = network_of()
    found = harden(network, pixels(network), **(FAST | {"mode": "channels", "target": 0.3}))
    x = torch.rand(5, 3, 12, 12)
    with torch.no_grad():
        smaller = found.smaller(x)
        assert torch.allclose(smaller(x), found.classifier(x), atol=1e-5)
    sizes = found.sizes(network, x)
    assert sizes["cut"].parameters < sizes["masked"].parameters
    assert sizes["cut"].products <= 0.3 * sizes["before"].products * 1.0001
    assert sizes["cut"].file < sizes["before"].file
    assert all(one.kept >= 1 for one in found.kept)


def test_weights_cannot_be_cut_out(tmp_path):
    network = network_of()
    found = harden(network, pixels(network), **FAST)
    with pytest.raises(InputError, match="mode='channels'"):
        found.smaller(torch.rand(1, 3, 12, 12))
    sizes = found.sizes(network, torch.rand(1, 3, 12, 12))
    assert sizes["masked"].products == sizes["before"].products, "masked is not faster"
    assert sizes["masked"].nonzero < 0.5 * sizes["before"].nonzero
    found.save(tmp_path / "out")
    assert sizes["masked"].file == (tmp_path / "out" / "compact.safetensors").stat().st_size


@pytest.mark.parametrize("mode", ["weights", "channels"])
def test_what_is_saved_comes_back(tmp_path, mode):
    network = network_of()
    found = harden(network, pixels(network), **(FAST | {"mode": mode, "target": 0.4}))
    found.save(tmp_path / "out")
    back = Hardened.load(tmp_path / "out", network_of())
    assert same(found, back)
    assert (back.kept, back.reached) == (found.kept, found.reached)
    assert back.describe() == json.loads(json.dumps(found.describe()))
    assert {n: v.tolist() for n, v in back.channels.items()} == {
        n: v.tolist() for n, v in found.channels.items()
    }
    again = network_of()
    load_weights(again.model, tmp_path / "out" / "network.safetensors")
    x = torch.rand(3, 3, 12, 12)
    normal = network.preprocessing.normalize(x)
    with torch.no_grad():
        assert torch.equal(again.model(normal), found.network.model(normal)), "as evaluated"
    held = torch.load(tmp_path / "out" / "robustbench.pt", weights_only=True)["state_dict"]
    found.classifier.load_state_dict(held)
    assert "compact.safetensors" in {file.name for file in (tmp_path / "out").iterdir()}
    assert load_file(tmp_path / "out" / "network.safetensors")
    plain = nn.Sequential(nn.Flatten(), nn.Linear(432, 3)).eval()
    other = Network(plain, network.preprocessing, network.labels)
    with pytest.raises(NetworkError, match="another architecture"):
        Hardened.load(tmp_path / "out", other)
    (tmp_path / "out" / "compact.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="damaged"):
        Hardened.load(tmp_path / "out", network_of())


def test_other_images_are_another_hardening(tmp_path):
    network = network_of()
    data = pixels(network)
    harden(network, data, state=tmp_path / "s", **FAST)
    samples = [
        (255 - image if 5 < k < 50 else image, y) for k, (image, y) in enumerate(data._samples)
    ]
    with pytest.raises(InputError, match="replace it"):
        harden(network, Pixels(network, samples), state=tmp_path / "s", **FAST)
    frame = replace(network.preprocessing, mean=(0.1, 0.1, 0.1))
    other = replace(network, preprocessing=frame)
    with pytest.raises(InputError, match="replace it"):
        harden(other, Pixels(other, data._samples), state=tmp_path / "s", **FAST)
    found = harden(
        other, Pixels(other, data._samples), state=tmp_path / "s", overwrite=True, **FAST
    )
    assert same(found, harden(other, Pixels(other, data._samples), **FAST))
    rows = []
    again = harden(
        other, Pixels(other, data._samples), state=tmp_path / "s", logged=rows.append, **FAST
    )
    assert rows[-1] == list(again.log), "a finished one is logged again"


def test_a_hardened_network_can_be_hardened_again():
    network = network_of()
    dense = harden(network, pixels(network), method="dense", **FAST).network
    found = harden(dense, pixels(network), **FAST)
    one = {name: p.clone() for name, p in dense.model.named_parameters()}
    moved = [not torch.equal(p, one[name]) for name, p in found.network.model.named_parameters()]
    assert all(moved)
    sparse = harden(found.network, pixels(network), **(FAST | {"target": 0.1})).network
    assert sparse.model.one.weight.count_nonzero() < found.network.model.one.weight.count_nonzero()


def test_half_precision_weights_are_evaluated_and_not_trained():
    network = network_of()
    network.model.to(torch.bfloat16)
    data = pixels(network, 20)
    result = evaluate(PixelClassifier.of(network), data, "fgsm", epsilon=0.03)
    assert result.accuracy("fgsm") <= result.accuracy()
    with pytest.raises(InputError, match="single precision"):
        harden(network, data, **FAST)


class Grouped(Net):
    """Normalises over channels, which counts those that are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.norm3 = nn.GroupNorm(2, 16)


def test_what_cannot_be_cut_is_refused_before_it_is_trained():
    torch.manual_seed(0)
    network = replace(network_of(), model=Grouped().eval())
    rows = []
    with pytest.raises(UnsupportedError, match="channels"):
        harden(network, pixels(network), logged=rows.append, **(FAST | {"mode": "channels"}))
    assert not rows
    with pytest.raises(InputError, match="no allocation"):
        harden(network, pixels(network), start="luck", **FAST)
    with pytest.raises(InputError, match="no allocation"):
        harden(
            network_of(),
            pixels(network),
            logged=rows.append,
            **(FAST | {"mode": "channels", "method": "lamp"}),
        )
    assert not rows


def test_shortcuts_without_weights_are_refused_in_words():
    network = replace(network_of(), model=CifarResNet(1).eval())
    x = torch.rand(1, 3, 32, 32)
    with pytest.raises(UnsupportedError, match="prune weights"):
        Masked(PixelClassifier.of(network), "channels", 0.4, x)


def test_divergence_says_what_to_do():
    network = network_of()
    with pytest.raises(NumericalError, match="smaller rate"):
        harden(network, pixels(network), **(FAST | {"rates": (1e18, 1e18, 1e18)}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": 1.5}, r"in \(0, 1\)"),
        ({"method": "luck"}, "no method"),
        ({"objective": "luck"}, "no objective"),
        ({"mode": "heads"}, "no mode"),
        ({"precision": "bf16-true"}, "no precision"),
        ({"epochs": (1, 0, 1)}, "an epoch"),
        ({"epochs": (1, -1, 1)}, "none negative"),
        ({"rates": (0.1, 0.0, 0.1)}, "positive numbers"),
        ({"validation": 0.0}, "share of images"),
        ({"validation": 0.001}, "give more images"),
        ({"batch": 0}, "1 or more"),
        ({"gamma": 0.0}, "positive number"),
        ({"momentum": 1.0}, r"in \[0, 1\)"),
        ({"epsilon": 8}, "8/255"),
        ({"speed": 1}, "no option"),
        ({"method": "scores", "start": 0.9}, "learns none"),
        ({"method": "lamp", "start": 0.5}, "leave start out"),
        ({"batch": 1}, "less than two"),
        ({"validation": 0.98}, "less than two"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    network = network_of()
    with pytest.raises(InputError, match=words):
        harden(network, pixels(network), **(FAST | options))


def test_published_settings_are_as_published():
    cifar = PUBLISHED["cifar"]
    assert (cifar.epochs, cifar.rates, cifar.batch) == ((100, 20, 100), (0.1, 0.1, 0.01), 128)
    assert (cifar.epsilon, cifar.attack_step, cifar.attack_steps) == (0.031, 0.0078, 10)
    assert cifar.first_rate == 0.1
    assert cifar.weight_of_budget(0) == pytest.approx(0.01)
    assert PUBLISHED["imagenet"].weight_of_budget(0, 10.0) == pytest.approx(0.1)
    assert PUBLISHED["imagenet"].enough(54, 5000) == 10.0


def test_data_sets_are_checked(tmp_path):
    network = network_of()
    with pytest.raises(InputError, match="empty"):
        Pixels(network, [])
    with pytest.raises(InputError, match="classes 0 to 2"):
        Pixels(network, [(torch.zeros(3, 12, 12, dtype=torch.uint8).numpy(), 7)])
    (tmp_path / "bad.npz").write_bytes(b"no")
    with pytest.raises(InputError, match="images \\(N, C, H, W\\)"):
        read_arrays(tmp_path / "bad.npz")


def test_parts_and_batches_are_the_same_for_the_same_seed():
    data = pixels(network_of(), 20)
    first, second = split(data, 0.25, 3), split(data, 0.25, 3)
    assert list(first[0].indices) == list(second[0].indices)
    assert not set(first[0].indices) & set(first[1].indices)
    assert len(first[1]) == 5
    whole = torch.cat([y for _, y in batches(data, 6)])
    halves = [torch.cat([y for _, y in batches(data, 6, share=(k, 2))]) for k in (0, 1)]
    assert sorted(torch.cat(halves).tolist()) == sorted(whole.tolist())


def test_shifts_move_images_and_mirrors_turn_them():
    x = torch.rand(40, 3, 16, 16)
    moved = augment(x, drawn(1))
    assert torch.equal(moved, augment(x, drawn(1)))
    wide = F.pad(x, (2, 2, 2, 2))
    for one, own in zip(moved, wide, strict=True):
        places = [own[:, r : r + 16, c : c + 16] for r in range(5) for c in range(5)]
        assert any(torch.equal(one, p) or torch.equal(one, p.flip(-1)) for p in places)


def test_accuracies_are_counted_image_by_image():
    network = network_of()
    found = harden(network, pixels(network, 90), **(FAST | {"target": 0.5, "epochs": (4, 1, 2)}))
    data = pixels(network, 30)
    result = evaluate(found.classifier, data, "fgsm,pgd10,cw", epsilon=0.05, batch=7)
    x, y = torch.stack([data[i][0] for i in range(30)]), data.labels
    with torch.no_grad():
        right = found.classifier(x).argmax(1) == y
    assert torch.equal(result.right["clean"], right)
    assert all((result.right[name] <= right).all() for name in result.right)
    assert result.accuracy("pgd10") <= result.accuracy()
    shares = [float(right[y == label].double().mean()) for label in range(3)]
    assert result.balanced() == pytest.approx(sum(shares) / 3)
    low, high = result.interval()
    assert low <= result.accuracy() <= high
    told = result.describe()
    assert told["images"] == 30
    assert set(told["cw"]) == {"accuracy", "interval", "balanced"}
    with pytest.raises(InputError, match="no attack is called"):
        evaluate(found.classifier, data, "luck")


def test_the_official_attack_is_as_strong_as_the_standard_one(monkeypatch):
    official = pytest.importorskip("pyautoattack").AutoAttack
    asked = []

    def run(self, x, y, batch_size):
        asked.append(self)
        return x

    monkeypatch.setattr(official, "run_standard_evaluation", run)
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).eval()
    network = Network(model, network_of().preprocessing, tuple("abcde"))
    evaluate(PixelClassifier.of(network), pixels(network, 40), "autoattack", epsilon=0.01)
    assert asked
    for one in asked:
        steps = one.apgd.n_iter, one.apgd_targeted.n_iter, one.fab.n_iter
        assert (*steps, one.square.n_queries) == (100, 100, 100, 5000)
        assert one.attacks_to_run == ["apgd-ce", "apgd-t", "fab-t", "square"]


def test_the_official_attack_is_not_weaker_than_ours():
    pytest.importorskip("pyautoattack")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 20), nn.ReLU(), nn.Linear(20, 5)).eval()
    network = Network(model, network_of().preprocessing, tuple("abcde"))
    x = torch.rand(9, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    answers = network.logits(network.preprocessing.normalize(x)).argmax(1)
    data = Pixels(network, [((255 * one).byte().numpy(), int(y)) for one, y in zip(x, answers)])  # noqa: B905
    result = evaluate(PixelClassifier.of(network), data, ["pgd10", "autoattack"], epsilon=0.01)
    assert result.accuracy() > 0.5
    assert result.accuracy("autoattack") <= result.accuracy("pgd10")


def test_batches_are_alike_for_all_devices_and_never_of_one():
    data = pixels(network_of(), 9)
    for world in (2, 4):
        parts = [[len(y) for _, y in batches(data, 4, share=(k, world))] for k in range(world)]
        assert all(part == parts[0] for part in parts)
        assert all(parts[0])
    assert [len(y) for _, y in batches(data, 4)] == [4, 5]
    assert [len(y) for _, y in batches(pixels(network_of(), 1), 4)] == [1]


def test_files_are_framed_as_the_network_has_it(tmp_path):
    frame = Preprocessing((12, 12), 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    network = replace(network_of(), preprocessing=frame)
    image = Image.fromarray(torch.randint(0, 256, (12, 12, 3), dtype=torch.uint8).numpy())
    image.save(tmp_path / "a.png")
    unit, _ = Pixels(network, [(tmp_path / "a.png", 0)])[0]
    assert torch.allclose(frame.normalize(unit)[None], network.prepare(image), atol=1e-6)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": np.zeros((2, 12, 12, 3), np.uint8), "labels": np.zeros(2, int)}, "channels"),
        ({"images": np.zeros((2, 1, 12, 12), np.uint8), "labels": np.zeros(2, int)}, "channels"),
        ({"images": np.zeros((2, 3, 12, 12), np.uint8), "labels": np.eye(2)}, "integer labels"),
        ({"images": np.zeros((2, 3, 12, 12), np.uint8), "labels": np.zeros(2)}, "integer labels"),
        ({"images": np.zeros((2, 3, 12, 12)), "labels": np.zeros(2, int)}, "uint8"),
        ({"images": np.zeros((3, 3, 12, 12), np.uint8), "labels": np.zeros(2, int)}, "uint8"),
        ({"pictures": np.zeros(1)}, "holds no images"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(tmp_path, content, words):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(InputError, match=words):
        Pixels(network_of(), read_arrays(tmp_path / "a.npz"))[0]


def test_a_broken_archive_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 3, 12, 12), np.uint8), labels=np.zeros(2, int))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="holds no images"):
        read_arrays(tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(InputError, match="holds no images"):
        read_arrays(tmp_path / "b.npy")


def test_an_image_that_cannot_be_read_is_named_by_any_process(tmp_path):
    (tmp_path / "a.png").write_bytes(b"none")
    data = Pixels(network_of(), [(tmp_path / "a.png", 0)])
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"a\.png is not an image") as told:
            list(batches(data, 4, workers=workers))
        assert "\n" not in str(told.value)


def test_the_same_attack_twice_is_once():
    network = network_of()
    assert set(evaluate(PixelClassifier.of(network), pixels(network, 6), "fgsm,fgsm").right) == {
        "clean", "fgsm"
    }  # fmt: skip


def test_the_official_attack_needs_four_classes():
    pytest.importorskip("pyautoattack")
    network = network_of()
    with pytest.raises(InputError, match="three other classes"):
        evaluate(PixelClassifier.of(network), pixels(network, 9), "autoattack")
