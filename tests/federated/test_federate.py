"""Rounds in one process: invariants, what leaves a client, lost replies, interruptions."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import nn

from contracts import untouched
from federated.federation_kit import Net, federation_of, images_of, network_of
from sparsight.datasets.pixels import Pixels, augment, batches, drawn
from sparsight.errors import InputError, NetworkError, NumericalError, UnsupportedError
from sparsight.federated import (
    ALGORITHMS,
    Agent,
    Client,
    ClientData,
    Division,
    Federated,
    FederatedSettings,
    Federation,
    Memory,
    Setup,
    federate,
    find_head,
    group_norms,
)
from sparsight.federated.client import CONTROL
from sparsight.federated.packing import unpack
from sparsight.networks import Network, Preprocessing
from sparsight.networks.classifier import PixelClassifier


def setup_of(algorithm: str = "spatl", **changes: object) -> Setup:
    settings = FederatedSettings.preset(algorithm, **changes)
    return Setup(network_of(), federation_of(), settings)


def play(setup: Setup, rounds: int, lost: dict[int, set[int]] | None = None):
    """Run rounds by hand; replies of some clients in some rounds are lost on their way."""
    server = setup.server()
    memories = {n: Memory() for n in range(server.clients)}
    for number in range(1, rounds + 1):
        replies = {}
        for client in server.asked():
            reply, memories[client] = setup.client(client).train(
                server.message(client), memories[client]
            )
            gone = lost is not None and client in lost.get(number, set())
            replies[client] = "no answer" if gone else reply
        server.take(replies, 0, 0.0)
    return server, memories


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_learns_and_leaves_the_network_alone(algorithm: str) -> None:
    network = network_of()
    with untouched(network.model):
        found = federate(network, federation_of(), algorithm=algorithm, rounds=8, rate=0.2, judge=8)
    losses = [row["loss"] for row in found.log]
    assert losses[-1] < losses[0] - 0.05
    assert found.log[-1]["local"] > 0.5 or found.settings["batch_norm"] == "shared"
    assert set(found.log[0]["failed"]) == set()
    again = federate(network, federation_of(), algorithm=algorithm, rounds=8, rate=0.2, judge=8)
    for one, other in zip(found.log, again.log, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}, "same seed, same result"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_can_ask_some_clients_only(algorithm: str) -> None:
    """Those that never trained are judged as well."""
    found = federate(network_of(), federation_of(), algorithm=algorithm, rounds=2, sample=0.5)
    assert found.log[0]["local"] >= 0
    assert found.log[0]["judging"] > 0


def test_what_is_sent_later_counts_once() -> None:
    """Top-k with memory: over the rounds the server moves as far as clients' changes, averaged."""
    setup = setup_of("topk", budget=0.2, rate=1e-3, augment=False)
    server, memories = play(setup, 12)
    plain, _ = play(setup_of("fedavg", rate=1e-3, augment=False), 12)
    start = setup.server().tensors
    images = {n: len(setup.federation.clients[n].train) for n in memories}
    for name in ("one.weight", "two.weight", "hidden.weight"):
        unsent = sum(
            images[n] * memory.settled(12).tensors["unsent:" + name]
            for n, memory in memories.items()
        ) / sum(images.values())  # fmt: skip
        moved = server.tensors[name] - start[name] + unsent
        expected = plain.tensors[name] - start[name]
        assert float((moved - expected).norm() / expected.norm()) < 0.05


def test_federated_averaging_is_what_it_is_called() -> None:
    """A plain loop written from the definition: train a copy on each client, average by images."""
    setup = setup_of("fedavg", augment=False, rate=0.1, epochs=1)
    server, _ = play(setup, 1)
    network, total = network_of(), 0
    sums = {name: torch.zeros_like(v).double() for name, v in network.model.state_dict().items()}
    for number, data in enumerate(setup.federation.clients):
        model = PixelClassifier.of(network).train()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=1e-5)
        order = torch.randperm(len(data.train), generator=drawn(0, 23, 1, number, 0))
        for x, y in batches(data.train, 32, order=order):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        for name, value in model.model.state_dict().items():
            sums[name] += len(data.train) * value.double()
        total += len(data.train)
    for name, value in server.tensors.items():
        assert torch.equal(value, (sums[name] / total).float()), name


def test_sending_everything_is_federated_averaging_to_the_bit() -> None:
    """Whichever selector: with nothing left out, the rounds are those of FedAvg."""
    plain, _ = play(setup_of("fedavg"), 3)
    for selector in ("update", "entries", "blame"):
        other, _ = play(
            setup_of(
                "spatl", head="shared", batch_norm="shared", variates="none", budget=1.0,
                selector=selector,
            ),
            3,
        )  # fmt: skip
        assert all(torch.equal(plain.tensors[n], other.tensors[n]) for n in plain.tensors)


def test_what_is_not_sent_keeps_the_servers_value() -> None:
    setup = setup_of(budget=0.1, variates="none")
    server = setup.server()
    before = {name: value.clone() for name, value in server.tensors.items()}
    replies, sent = {}, {}
    for client in server.asked():
        replies[client], _ = setup.client(client).train(server.message(client), Memory())
        payload = server._read(client, replies[client])
        for name in payload.values:
            mask = payload.mask(name).expand_as(payload.values[name])
            sent[name] = sent.get(name, False) | mask
    server.take(replies, 0, 0.0)
    kept = 0
    for name, mask in sent.items():
        assert torch.equal(server.tensors[name][~mask], before[name][~mask])
        kept += int((~mask).sum())
    assert kept > 0
    assert any(not torch.equal(server.tensors[n], before[n]) for n in before)


@pytest.mark.parametrize("variates", ["sent", "derived"])
@pytest.mark.parametrize("budget", [1.0, 0.3])
def test_the_servers_variate_is_the_mean_of_the_clients(variates: str, budget: float) -> None:
    setup = setup_of(variates=variates, budget=budget)
    server, memories = play(setup, 4, lost={2: {1, 3}, 3: {0}})
    for name in setup.division.shared:
        own = []
        for client, memory in memories.items():
            kept = memory.settled(server.accepted.get(client, 0)).tensors
            own.append(kept.get(CONTROL + name, torch.zeros_like(server.tensors[name])))
        mean = torch.stack(own).double().mean(0)
        assert torch.allclose(server.tensors[CONTROL + name].double(), mean, atol=1e-5)


def test_variates_need_not_be_sent() -> None:
    """The server finds the same ones by itself, and a round takes half the bytes."""
    sent, _ = play(setup_of(variates="sent"), 3)
    derived, _ = play(setup_of(variates="derived"), 3)
    assert all(torch.equal(sent.tensors[name], derived.tensors[name]) for name in sent.tensors)
    assert derived.log[0]["up"] < 0.6 * sent.log[0]["up"]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gradient_control_settles_where_averages_do_not(momentum: float) -> None:
    """Quadratic losses with unlike optima and slopes: local steps drift, controlled ones do not."""
    targets, slopes = torch.tensor([[4.0], [-1.0]]), torch.tensor([[1.0], [0.1]])
    best = float((slopes * targets).sum() / slopes.sum())
    rate, steps = 0.1 * (1 - momentum), 60

    def settle(controlled: bool) -> float:
        from sparsight.federated.aggregate import effective_steps, variate_change

        x, control, own = torch.zeros(1), torch.zeros(1), [torch.zeros(1), torch.zeros(1)]
        moved = effective_steps(steps, momentum) * rate
        for _ in range(300):
            ends, changes = [], []
            for client in range(2):
                y, velocity = x.clone(), torch.zeros(1)
                for _ in range(steps):
                    pull = slopes[client] * (y - targets[client])
                    pull = pull + control - own[client] if controlled else pull
                    velocity = momentum * velocity + pull
                    y = y - rate * velocity
                ends.append(y)
                changes.append(variate_change(x, y, control, torch.ones(1).bool(), moved))
            x = torch.stack(ends).mean(0)
            if controlled:
                own = [o + change for o, change in zip(own, changes, strict=True)]
                control = control + torch.stack(changes).mean(0)
        return float(x)

    assert settle(controlled=True) == pytest.approx(best, abs=1e-3)
    assert abs(settle(controlled=False) - best) > 0.3


def test_heads_never_leave_their_clients() -> None:
    setup = setup_of(head="local", batch_norm="local")
    server = setup.server()
    message = server.message(0)
    reply, memory = setup.client(0).train(message, Memory())
    own = {"fc.weight", "fc.bias", "norm1.weight", "norm2.running_mean"}
    assert own <= set(setup.division.local)
    for data in (message, reply):
        assert not own & set(load(data)), "by name"
    assert memory.tried is not None
    head = memory.tried.tensors["local:fc.weight"].numpy()
    for data in (message, reply):
        assert head.tobytes() not in data, "nor by value"
        assert head[0].tobytes() not in data


def test_bytes_fall_with_the_budget_and_are_those_of_the_messages() -> None:
    sizes = []
    for budget in (1.0, 0.5, 0.2, 0.05):
        found = federate(network_of(), federation_of(), rounds=1, budget=budget, variates="none")
        sizes.append(found.bytes("up"))
    assert sizes == sorted(sizes, reverse=True)
    setup = setup_of()
    server = setup.server()
    replies = {n: setup.client(n).train(server.message(n), Memory())[0] for n in server.asked()}
    assert server.take(replies, 5, 0.0)["up"] == sum(map(len, replies.values()))


def test_part_of_what_changed_goes_down_and_clients_hold_what_the_server_thinks() -> None:
    setup = setup_of(downlink=0.3, variates="derived")
    server, memories = play(setup, 4, lost={2: {1}, 3: {2}})
    whole, _ = play(setup_of(variates="derived"), 1)
    assert len(server.message(0)) < 0.6 * len(whole.message(0))
    for client, known in server.known.items():
        kept = memories[client].settled(server.accepted[client]).tensors
        for name, value in known.items():
            assert torch.equal(kept["base:" + name], value), (client, name)
    with pytest.raises(InputError, match="this client knows no other"):
        setup.client(0).train(_with(server.message(0), accepted=0), Memory())


def test_who_began_with_old_weights_does_not_pull_new_ones_back() -> None:
    """A client learns next to nothing, on weights of which it has heard only in part."""
    setup = setup_of(downlink=0.1, variates="none", budget=1.0)
    server, memories = play(setup, 3)
    assert any(not torch.equal(server.known[0][n], v) for n, v in server.tensors.items())
    idle = replace(setup, settings=setup.settings.change(rate=1e-12)).client(0)
    before = {name: value.clone() for name, value in server.tensors.items()}
    reply, _ = idle.train(server.message(0), memories[0])
    server.take({0: reply}, 0, 0.0)
    for name, value in server.tensors.items():
        assert torch.allclose(value, before[name], atol=1e-6), name


def _with(message: bytes, **facts: int) -> bytes:
    """Change the plain values of a message."""
    length = int.from_bytes(message[:8], "little")
    head = json.loads(message[8 : 8 + length])
    told = json.loads(head["__metadata__"]["facts"]) | facts
    head["__metadata__"]["facts"] = json.dumps(told)
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + message[8 + length :]


def test_what_was_not_sent_is_added_later() -> None:
    """Whole weights come to the server in the end: nothing that a client learnt is lost."""
    setup = setup_of("topk", budget=0.2, augment=False)
    server = setup.server()
    reply, memory = setup.client(0).train(server.message(0), Memory())
    payload = server._read(0, reply)
    assert memory.tried is not None
    for name in ("one.weight", "two.weight", "hidden.weight"):
        mask = payload.mask(name)
        moved = (payload.values[name] - server.tensors[name]) * mask
        unsent = memory.tried.tensors["unsent:" + name]
        assert not bool((unsent[mask.expand_as(unsent)] != 0).any())
        whole, _ = play_one(setup_of("fedavg", augment=False))
        assert torch.allclose(moved + unsent, whole[name] - server.tensors[name], atol=1e-6)


def play_one(setup: Setup):
    server = setup.server()
    reply, memory = setup.client(0).train(server.message(0), Memory())
    return server._read(0, reply).values, memory


def test_a_lost_reply_costs_a_round_and_nothing_else() -> None:
    """A client whose reply is lost goes on as if it had not been asked."""
    setup = setup_of()
    server, memories = play(setup, 2, lost={2: {1}})
    assert server.log[1]["failed"] == {"1": "no answer"}
    _, others = play(setup, 1)
    assert server.accepted == {0: 2, 1: 1, 2: 2, 3: 2}
    first, second = memories[1].settled(1), others[1].settled(1)
    assert all(torch.equal(first.tensors[n], second.tensors[n]) for n in first.tensors)
    with pytest.raises(InputError, match="this client remembers round 1: they are not of one run"):
        memories[1].settled(7)


def test_replies_that_make_no_sense_are_left_out() -> None:
    setup = setup_of()
    server = setup.server()
    good, _ = setup.client(0).train(server.message(0), Memory())
    other, _ = setup.client(1).train(server.message(1), Memory())
    cut = setup_of(head="shared").server().message(0)
    row = server.take({0: good, 1: good, 2: b"noise", 3: cut}, 0, 0.0)
    assert row["answered"] == [0]
    assert "came from client 1" in row["failed"]["1"]
    assert "cannot be used" in row["failed"]["2"]
    assert set(row["failed"]) == {"1", "2", "3"}
    before = {name: value.clone() for name, value in server.tensors.items()}
    server.take({0: "no answer", 1: other}, 0, 0.0)
    assert server.log[-1]["answered"] == []
    assert all(torch.equal(before[name], value) for name, value in server.tensors.items())


class Kill(BaseException):
    """What no handler of errors catches."""


@pytest.mark.parametrize("stop", [1, 5, 10])
def test_a_killed_run_goes_on_at_its_last_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Killed after some clients of a round: they trained, the server never heard of it."""
    settings = FederatedSettings.preset(rounds=5, judge=2, downlink=0.5)
    whole = federate(network_of(), federation_of(), settings=settings, state=tmp_path / "whole")
    state, original, asked = tmp_path / "killed", Client.train, []

    def train(self: Client, message: bytes, memory: Memory):
        asked.append(self.number)
        if len(asked) > stop:
            raise Kill
        return original(self, message, memory)

    monkeypatch.setattr(Client, "train", train)
    with pytest.raises(Kill):
        federate(network_of(), federation_of(), settings=settings, state=state)
    monkeypatch.setattr(Client, "train", original)
    found = federate(network_of(), federation_of(), settings=settings, state=state)
    assert_same(found, whole)


def assert_same(one: Federated, other: Federated) -> None:
    """Two federations came to the same, to the bit."""
    assert [{**row, "seconds": 0} for row in one.log] == [{**r, "seconds": 0} for r in other.log]
    assert all(torch.equal(one.shared[name], other.shared[name]) for name in other.shared)
    assert one.own.keys() == other.own.keys()
    for client, own in other.own.items():
        assert all(torch.equal(one.own[client][name], own[name]) for name in own)


def test_more_rounds_go_on_from_the_last_one(tmp_path: Path) -> None:
    first = federate(network_of(), federation_of(), rounds=2, state=tmp_path)
    assert len(first.log) == 2
    found = federate(network_of(), federation_of(), rounds=4, state=tmp_path)
    assert_same(found, federate(network_of(), federation_of(), rounds=4))
    with pytest.raises(InputError, match="another network, other images or settings"):
        federate(network_of(), federation_of(), rounds=4, state=tmp_path, budget=0.5)
    anew = federate(
        network_of(), federation_of(), rounds=1, state=tmp_path, budget=0.5, overwrite=True
    )
    assert len(anew.log) == 1
    (tmp_path / "server.safetensors").write_bytes(b"noise")
    with pytest.raises(InputError, match="is damaged: delete it"):
        federate(network_of(), federation_of(), rounds=4, state=tmp_path)
    (tmp_path / "server.safetensors").unlink()
    (tmp_path / "client-0-9.safetensors").write_bytes(b"noise")
    with pytest.raises(InputError, match="what a client kept is damaged"):
        federate(network_of(), federation_of(), rounds=4, state=tmp_path)


def test_some_clients_a_round_and_one_that_returns() -> None:
    found = federate(network_of(), federation_of(), rounds=5, sample=0.5, judge=5)
    asked = [row["answered"] for row in found.log]
    assert all(len(clients) == 2 for clients in asked)
    assert len({tuple(clients) for clients in asked}) > 1
    assert set(found.own) == {n for clients in asked for n in clients}


def test_a_new_client_fits_its_head_and_leaves_the_encoder() -> None:
    setup = setup_of(rate=0.1)
    server, _ = play(setup, 3)
    client = setup.client(0)
    fresh = replace(setup.settings, seed=5)
    newcomer = Client(0, setup.network, setup.federation.clients[0], fresh, setup.division, None)
    message = _with(server.whole(0), accepted=0)
    payload, kept = newcomer._receive(message, Memory())
    classifier = newcomer._classifier(payload, kept)
    before = {n: v.clone() for n, v in classifier.model.state_dict().items()}
    newcomer._adapt(classifier)
    after = classifier.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in setup.division.shared)
    assert not torch.equal(before["fc.weight"], after["fc.weight"])
    counts = client.judge(message, Memory())
    assert counts["local images"] == len(setup.federation.clients[0].test)


def test_who_comes_later_gets_a_network_as_well() -> None:
    network = network_of()
    found = federate(network, federation_of(), rounds=2)
    data = Pixels(network, images_of(24, 7))
    with untouched(network.model):
        own = found.newcomer(network, data)
    made = own.model.state_dict()
    assert all(torch.equal(made[name], value) for name, value in found.shared.items())
    assert not torch.equal(made["fc.weight"], network.model.fc.weight)
    assert FederatedSettings.restore(found.settings).describe() == found.settings
    with pytest.raises(InputError, match="give it more"):
        found.newcomer(network, Pixels(network, images_of(2)))


def test_a_client_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Client.train

    def train(self: Client, message: bytes, memory: Memory):
        if self.number == 2:
            raise NumericalError("its images are gone: give others")
        return original(self, message, memory)

    monkeypatch.setattr(Client, "train", train)
    found = federate(network_of(), federation_of(), rounds=2)
    assert [row["answered"] for row in found.log] == [[0, 1, 3]] * 2
    assert found.log[0]["failed"] == {"2": "its images are gone: give others"}
    alone = federate(network_of(), federation_of(), rounds=8, sample=0.25)
    assert [] in [row["answered"] for row in alone.log], "a round nobody answers changes nothing"
    monkeypatch.setattr(Client, "train", lambda *_: (_ for _ in ()).throw(NumericalError("all")))
    with pytest.raises(NumericalError, match="all"):
        federate(network_of(), federation_of(), rounds=2)


def test_a_client_that_cannot_be_judged_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Client.judge

    def judge(self: Client, message: bytes, memory: Memory):
        if self.number == 1:
            raise InputError("its images are gone: give others")
        return original(self, message, memory)

    monkeypatch.setattr(Client, "judge", judge)
    assert federate(network_of(), federation_of(), rounds=1).log[0]["local"] >= 0


def test_a_normalisation_over_one_image_is_said() -> None:
    class Flat(Net):
        def __init__(self) -> None:
            super().__init__()
            self.norm3 = nn.BatchNorm1d(12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.norm1(self.one(x)))
            x = self.hidden(F.relu(self.norm2(self.two(x))).mean((2, 3)))
            return self.fc(F.relu(self.norm3(x)))

    with pytest.raises(InputError, match=r"cannot train on a batch of 1 .* or group norms"):
        federate(network_of(Flat().eval()), federation_of(), rounds=1, batch=1)


def test_a_state_that_is_replaced_is_set_aside_and_nothing_else_is(tmp_path: Path) -> None:
    federate(network_of(), federation_of(), rounds=1, state=tmp_path)
    kept = (tmp_path / "server.safetensors").read_bytes()
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    (tmp_path / "client-0-mine.safetensors").write_bytes(b"mine")
    federate(network_of(), federation_of(), rounds=1, state=tmp_path, rate=0.3, overwrite=True)
    assert (tmp_path / "mine.safetensors").read_bytes() == b"mine"
    assert (tmp_path / "client-0-mine.safetensors").exists()
    assert (tmp_path / "former" / "server.safetensors").read_bytes() == kept
    again = federate(network_of(), federation_of(), rounds=1, state=tmp_path / "former")
    assert len(again.log) == 1, "it can be gone on from"


def test_a_state_stays_if_the_engine_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federate(network_of(), federation_of(), rounds=1, state=tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setitem(sys.modules, "sparsight.federated.simulation", None)
    with pytest.raises(ImportError):
        federate(
            network_of(), federation_of(), rounds=1, rate=0.3, state=tmp_path, overwrite=True,
            engine="flower",
        )  # fmt: skip
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_test_set_of_the_clients_images_is_refused() -> None:
    data = Pixels(network_of(), images_of(60))
    with pytest.raises(InputError, match="test holds the images of clients"):
        Federation.of(data, [list(range(60))], Pixels(network_of(), images_of(60)))


def test_nothing_is_taken_from_a_damaged_state(tmp_path: Path) -> None:
    settings = {"rounds": 1, "downlink": 0.5}
    federate(network_of(), federation_of(), state=tmp_path, **settings)
    file = tmp_path / "server.safetensors"
    with safe_open(file, "pt") as held:
        facts, names = json.loads(held.metadata()["facts"]), list(held.keys())
        tensors = {name: held.get_tensor(name) for name in names}
    save_file(tensors, file, {"facts": json.dumps(facts | {"accepted": [["none", 1]]})})
    again = federate(
        network_of(), federation_of(), state=tmp_path, overwrite=True, **settings
    )  # fmt: skip
    assert_same(again, federate(network_of(), federation_of(), **settings))


def test_fewer_rounds_than_there_are_is_said(tmp_path: Path) -> None:
    federate(network_of(), federation_of(), rounds=2, state=tmp_path)
    with pytest.raises(InputError, match="holds 2 rounds already, and 1 are asked for"):
        federate(network_of(), federation_of(), rounds=1, state=tmp_path)


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [("fedavg", {}), ("fedprox", {"proximal": 0.5}), ("scaffold", {}), ("fednova", {})],
)
def test_algorithms_are_what_their_papers_say(algorithm: str, changes: dict[str, float]) -> None:
    """Plain loops of four rounds, clients of different sizes."""
    rate = 0.1
    setup = setup_of(algorithm, augment=False, rate=rate, batch=4, **changes)
    server, _ = play(setup, 4)
    clients = setup.federation.clients
    state = {name: v.clone() for name, v in network_of().model.state_dict().items()}
    learnt = [name for name, _ in network_of().model.named_parameters()]
    control = {name: torch.zeros_like(state[name]) for name in learnt}
    own = [dict(control) for _ in clients]
    shares = [len(data.train) / sum(len(d.train) for d in clients) for data in clients]
    for number in range(1, 5):
        ends, steps, variates = [], [], []
        for client, data in enumerate(clients):
            model = PixelClassifier.of(network_of()).train()
            model.model.load_state_dict(state)
            optimizer = torch.optim.SGD(model.parameters(), rate, weight_decay=1e-5)
            count = 0
            for epoch in range(2):
                order = torch.randperm(
                    len(data.train), generator=drawn(0, 23, number, client, epoch)
                )
                for x, y in batches(data.train, 4, order=order):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    for name, parameter in model.model.named_parameters():
                        if algorithm == "scaffold":
                            parameter.grad += control[name] - own[client][name]
                        if algorithm == "fedprox":
                            parameter.grad += 0.5 * (parameter.detach() - state[name])
                    optimizer.step()
                    count += 1
            end = {name: value.clone() for name, value in model.model.state_dict().items()}
            ends.append(end)
            steps.append(count)
            variates.append({
                name: own[client][name] - control[name] + (state[name] - end[name]) / (count * rate)
                for name in learnt
            })  # fmt: skip
        assert len(set(steps)) > 1
        before, state = state, {}
        for name, old in before.items():
            mean = sum(share * end[name] for share, end in zip(shares, ends, strict=True))
            if algorithm == "fednova" and name in learnt:
                pace = sum(
                    share * (old - end[name]) / count
                    for share, end, count in zip(shares, ends, steps, strict=True)
                )
                mean = old - sum(s * k for s, k in zip(shares, steps, strict=True)) * pace
            state[name] = mean.to(old.dtype) if old.is_floating_point() else old
        for name in learnt:
            change = sum(new[name] - c[name] for new, c in zip(variates, own, strict=True))
            control[name] = control[name] + change / len(clients)
        own = variates
    for name, value in server.tensors.items():
        if name in state:
            assert torch.allclose(value, state[name], atol=2e-6), name


def _spread(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return mask.reshape(*mask.shape, *(1,) * (like.ndim - mask.ndim)).expand(like.shape)


@pytest.mark.parametrize("memory", [False, True])
def test_who_did_not_send_an_entry_counts_only_where_it_sends_it_later(memory: bool) -> None:
    setup = setup_of(budget=0.4, memory=memory, augment=False)
    server = setup.server()
    before = {name: value.double() for name, value in server.tensors.items()}
    replies = {
        client: setup.client(client).train(server.message(client), Memory())[0]
        for client in range(4)
    }
    sent = [unpack(reply, server.tensors) for reply in replies.values()]
    images = [payload.facts["images"] for payload in sent]
    server.take(replies, 0, 0.0)
    differ = False
    for name in setup.division.shared:
        masks = [_spread(payload.mask(name), before[name]) for payload in sent]
        who = sum(n * mask.double() for n, mask in zip(images, masks, strict=True))
        moved = sum(
            n * mask * (payload.values[name].double() - before[name])
            for n, mask, payload in zip(images, masks, sent, strict=True)
        )
        over = torch.full_like(who, float(sum(images))) if memory else who.clamp_min(1)
        assert torch.allclose(server.tensors[name].double(), before[name] + moved / over, atol=1e-6)
        differ |= bool((who < sum(images)).any())
    assert differ


def test_hostile_counts_are_refused() -> None:
    setup = setup_of()
    server = setup.server()
    good, _ = setup.client(0).train(server.message(0), Memory())
    before = {name: value.clone() for name, value in server.tensors.items()}
    for facts in ({"images": 10**400}, {"images": 1e308}, {"steps": float("inf")}, {"loss": 1e99},
                  {"loss": "much"}, {"images": [7]}):  # fmt: skip
        row = server.take({0: _with(good, round=server.round + 1, **facts)}, 0, 0.0)
        assert row["answered"] == []
    assert all(torch.equal(before[name], value) for name, value in server.tensors.items())
    row = server.take({0: _with(good, round=server.round + 1, loss="1.0", images="7")}, 0, 0.0)
    assert (row["answered"], row["loss"]) == ([0], 1.0)


def test_another_test_set_is_another_federation(tmp_path: Path) -> None:
    network = network_of()
    data = Pixels(network, images_of(60))
    parts = [list(range(30)), list(range(30, 60))]
    for number, test in enumerate([None, Pixels(network, images_of(6, 3))]):
        federation = Federation.of(data, parts, test)
        if number:
            with pytest.raises(InputError, match="other images"):
                federate(network, federation, rounds=2, state=tmp_path)
        else:
            federate(network, federation, rounds=1, state=tmp_path)


def test_a_rate_that_is_too_large_is_said() -> None:
    with pytest.raises(NumericalError, match="client 3 diverged in round"):
        federate(network_of(), federation_of(), rounds=3, rate=1e30)


def test_results_are_saved_and_read_and_make_networks(tmp_path: Path) -> None:
    network = network_of()
    found = federate(network, federation_of(), rounds=2, rate=0.1)
    found.save(tmp_path / "out")
    again = Federated.load(tmp_path / "out")
    assert_same(found, again)
    assert "2 rounds, local" in str(again)
    assert again.until(0.0) == 1
    assert again.until(1.1) is None
    x = torch.rand(3, 3, 8, 8)
    one, two = again.network(network, 0), again.network(network, 1)
    assert not torch.equal(one.logits(x), two.logits(x))
    shared = again.network(network)
    assert torch.equal(shared.model.fc.weight, network.model.fc.weight)
    with pytest.raises(InputError, match="client 9 never trained"):
        again.network(network, 9)
    with pytest.raises(InputError, match="give the one that was trained"):
        again.network(Network(nn.Linear(2, 3), Preprocessing((8, 8), 8), ("a", "b", "c")))
    (tmp_path / "out" / "weights.safetensors").write_bytes(b"noise")
    with pytest.raises(InputError, match="is damaged: make it again"):
        Federated.load(tmp_path / "out")
    client = Setup(network, federation_of(), FederatedSettings.preset()).client(0)
    server = Setup(network, federation_of(), FederatedSettings.preset()).server()
    assert client.network_of(server.whole(0), Memory()).spec.endswith("(client 0)")


def test_group_norms_take_over_scales_and_keep_no_statistics() -> None:
    network = network_of()
    with torch.no_grad():
        network.model.norm1.weight.fill_(2.0)
    found = group_norms(network, 4)
    assert isinstance(found.model.norm1, nn.GroupNorm)
    assert found.model.norm1.num_groups == 4
    assert bool((found.model.norm1.weight == 2).all())
    assert isinstance(network.model.norm1, nn.BatchNorm2d)
    trained = federate(found, federation_of(), algorithm="fedavg", rounds=1)
    assert not any("running" in name for name in trained.shared)
    personal = federate(found, federation_of(), rounds=1)
    assert personal.network(found, 0).logits(torch.rand(1, 3, 8, 8)).shape == (1, 3)
    with pytest.raises(InputError, match=r"nobody trained norm1.running_mean .*group_norms"):
        personal.network(network, 0)


def test_heads_are_found_by_use_and_named_where_they_are_more() -> None:
    network = network_of()
    assert find_head(network) == "fc"
    division = Division.of(network, head_name="hidden")
    assert {"hidden.weight", "hidden.bias"} <= set(division.local)
    assert "fc.weight" in division.shared
    whole = Division.of(network, "whole")
    assert (whole.shared, whole.statistics) == ((), ())
    shared = Division.of(network, "shared", "shared")
    assert "norm1.running_var" in shared.statistics
    assert shared.local == ("norm1.num_batches_tracked", "norm2.num_batches_tracked")
    with pytest.raises(InputError, match="means nothing"):
        Division.of(network, "shared", head_name="fc")
    tied = Net()
    tied.hidden = nn.Linear(8, 8)
    tied.fc = nn.Linear(8, 8)
    tied.fc.weight = tied.hidden.weight
    twins = Network(tied.eval(), Preprocessing((8, 8), 8), tuple("abcdefgh"))
    with pytest.raises(UnsupportedError, match="is one with a weight that lives elsewhere"):
        Division.of(twins, head_name="fc")
    with pytest.raises(InputError, match="no normalisations over a batch"):
        group_norms(group_norms(network))
    with pytest.raises(InputError, match="no module 'nose'"):
        Division.of(network, head_name="nose")

    class Odd(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)[:, :2]

    odd = Network(Odd().eval(), Preprocessing((8, 8), 8), ("a", "b"))
    with pytest.raises(UnsupportedError, match="name the head"):
        find_head(odd)
    lone = Network(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval(), Preprocessing((8, 8), 8),
        ("a", "b", "c"),
    )  # fmt: skip
    with pytest.raises(InputError, match="nothing is left to share"):
        Division.of(lone)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"algorithm": "best"}, "no algorithm is called 'best'"),
        ({"budget": 0.0}, r"budget 0: give a share in \(0, 1\]"),
        ({"sample": 1.5}, "sample 1.5"),
        ({"rounds": 0}, "rounds is 0: give 1 or more"),
        ({"rate": float("nan")}, "rate nan"),
        ({"momentum": 1.0}, "momentum 1 and weight decay"),
        ({"proximal": -1.0}, "proximal -1"),
        ({"head": "nowhere"}, "no head is called"),
        ({"selector": "best"}, "no selector is called"),
        ({"memory": True, "variates": "sent"}, "choose memory, or variates"),
        ({"normalised": True, "variates": "sent"}, "FedNova has no gradient control"),
        ({"speed": 9}, "no setting 'speed'"),
        ({"algorithm": "fedavg", "budget": 0.1}, "selector 'all' sends everything"),
        ({"head": "whole"}, "the whole network stays"),
        ({"algorithm": "alone", "head": "shared"}, "share nothing"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        FederatedSettings.preset(**changes)


def test_what_cannot_be_trained_is_refused() -> None:
    network = network_of()
    with pytest.raises(InputError, match="no engine is called"):
        federate(network, federation_of(), engine="magic")
    with pytest.raises(InputError, match=r"give settings.change"):
        federate(network, federation_of(), settings=FederatedSettings(), rounds=2)
    with pytest.raises(InputError, match="timeout 0: give seconds"):
        federate(network, federation_of(), timeout=0.0)
    with pytest.raises(InputError, match="asks no agent"):
        federate(network_of(), federation_of(), agent=Agent.load())
    with pytest.raises(NetworkError):
        federate(network_of(Net().train()), federation_of())
    with pytest.raises(TypeError):
        FederatedSettings(algorithm="fedavg")
    half = Network(Net().half().eval(), Preprocessing((8, 8), 8), ("a", "b", "c"))
    with pytest.raises(InputError, match="half precision cannot be trained"):
        federate(half, federation_of())


def test_messages_of_another_run_are_refused() -> None:
    setup, other = setup_of(), setup_of(head="shared")
    with pytest.raises(InputError, match="was it sent by this run"):
        other.client(0).train(setup.server().message(0), Memory())
    with pytest.raises(InputError, match="has no"):
        setup_of(batch_norm="shared").client(0).train(setup.server().message(0), Memory())
    memory = Memory.from_bytes(play(setup, 1)[1][0].to_bytes())
    assert memory.tried is not None
    assert memory.tried.round == 1


def test_styles_make_clients_differ() -> None:
    plain, styled = federation_of(), federation_of(styles=0.5)
    assert plain.digest != styled.digest
    one, other = plain.clients[0].train[0][0], styled.clients[0].train[0][0]
    assert not torch.equal(one, other)


def test_augmentation_can_be_left_out() -> None:
    x = torch.rand(4, 3, 8, 8)
    assert not torch.equal(augment(x, drawn(0)), x)
    one, _ = play(setup_of(augment=False), 1)
    other, _ = play(setup_of(augment=True), 1)
    assert one.log[0]["loss"] != other.log[0]["loss"]


def test_a_client_of_three_images_takes_part() -> None:
    network = network_of()
    data = Pixels(network, images_of(33))
    federation = Federation.of(data, [list(range(30)), [30, 31, 32]])
    assert len(federation.clients[1].train) == 1
    found = federate(network, federation, rounds=1)
    assert found.log[0]["answered"] == [0, 1]
    assert isinstance(federation.clients[0], ClientData)
