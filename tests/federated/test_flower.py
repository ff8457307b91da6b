"""On Flower: the same to the bit, failures and kills survived, nothing called home."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

if not all(map(find_spec, ("flwr", "ray"))):
    pytest.skip("Flower and Ray are not installed", allow_module_level=True)

from federated.federation_kit import federation_of, network_of
from federated.test_federate import assert_same
from sparsight.errors import InputError, SparsightError
from sparsight.federated import FederatedSettings, Setup, federate, flower
from sparsight.federated.client import Client
from sparsight.federated.flower import SalientStrategy
from sparsight.federated.simulation import run


@pytest.fixture(autouse=True)
def _like_workers(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # other work on the machine goes first else


def test_flower_does_what_the_loop_does(tmp_path: Path) -> None:
    """Every engine, every kind of message: heads, variates, part of what changed, samples."""
    settings = FederatedSettings.preset(rounds=4, judge=2, downlink=0.5, sample=0.75, rate=0.1)
    loop = federate(network_of(), federation_of(), settings=settings)
    rows, heard = [], set()

    def logged(log: list[dict]) -> None:
        rows.append(len(log))
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            with suppress(psutil.Error):
                heard.update(
                    c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"
                )  # fmt: skip

    found = federate(
        network_of(), federation_of(), settings=settings, engine="flower", state=tmp_path,
        logged=logged,
    )  # fmt: skip
    assert_same(found, loop)
    assert rows == [1, 2, 3, 4]
    assert heard
    assert {ip.removeprefix("::ffff:") for ip in heard} <= {"127.0.0.1", "::1"}
    assert (tmp_path / "server.safetensors").is_file()
    more = federate(
        network_of(), federation_of(), settings=settings.change(rounds=5), engine="flower",
        state=tmp_path,
    )  # fmt: skip
    assert_same(more, federate(network_of(), federation_of(), settings=settings.change(rounds=5)))


class Stubborn(Client):
    """A client whose process dies in its second round, once."""

    mark: str

    def train(self, message: bytes, memory):
        if self.number == 1 and memory.tried is not None and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(message, memory)


class StubbornSetup(Setup):
    """A federation with such a client."""

    def client(self, number: int) -> Client:
        found = super().client(number)
        found.__class__ = Stubborn
        found.mark = self.head_name_mark
        return found


def test_a_client_killed_in_a_round_does_not_stop_the_run(tmp_path: Path) -> None:
    setup = StubbornSetup(
        network_of(), federation_of(), FederatedSettings.preset(rounds=4, rate=0.1)
    )
    object.__setattr__(setup, "head_name_mark", str(tmp_path / "killed"))
    found = run(setup, setup.server(), tmp_path / "state", lambda *_: None, lambda _: None)
    answered = [row["answered"] for row in found.log]
    assert answered[0] == [0, 1, 2, 3]
    assert 1 not in answered[1]
    assert answered[3] == [0, 1, 2, 3], "it is back"
    assert "died" in found.log[1]["failed"]["1"]
    assert (tmp_path / "killed").exists()


class Late(Client):
    """A client whose first round lasts until the server has gone on without it."""

    mark: str

    def train(self, message: bytes, memory):
        if self.number == 0 and memory.tried is None:
            while not Path(self.mark).exists():
                time.sleep(0.1)
        return super().train(message, memory)


class LateSetup(Setup):
    """A federation with such a client."""

    def client(self, number: int) -> Client:
        found = super().client(number)
        found.__class__ = Late
        found.mark = self.mark
        return found


def test_a_client_that_is_late_is_left_out_and_comes_back(tmp_path: Path) -> None:
    setup = LateSetup(
        network_of(), federation_of(), FederatedSettings.preset(rounds=4, rate=0.1, judge=4)
    )
    mark = tmp_path / "gone on"
    object.__setattr__(setup, "mark", str(mark))
    # The others have to answer within the wait, also where cores are busy.
    found = run(
        setup, setup.server(), None, lambda *_: None, lambda _: mark.touch(), timeout=30.0
    )  # fmt: skip
    assert 0 not in found.log[0]["answered"]
    assert found.log[-1]["answered"] == [0, 1, 2, 3]


def test_clients_that_all_fail_say_why() -> None:
    with pytest.raises(SparsightError, match=r"client \d diverged in round \d, its loss"):
        federate(network_of(), federation_of(2), rounds=3, rate=1e30, engine="flower")


def test_nothing_is_called_home_and_ray_is_gone() -> None:
    import ray
    from flwr.supercore import telemetry

    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert not ray.is_initialized()
    assert not [t for t in threading.enumerate() if t.name.startswith("ray")]


class Nodes:
    """A grid of nodes that say which client they are, or why they are none."""

    def __init__(self, **numbers: int | str) -> None:
        self.numbers = {int(node[1:]): number for node, number in numbers.items()}

    def get_node_ids(self) -> list[int]:
        return list(self.numbers)

    def send_and_receive(self, asked, *, timeout):
        self.asked = [message.node for message in asked]
        return [self._reply(node) for node in self.asked]

    def _reply(self, node: int) -> SimpleNamespace:
        number = self.numbers[node]
        wrong = isinstance(number, str)
        return SimpleNamespace(
            metadata=SimpleNamespace(src_node_id=node), has_error=lambda: wrong,
            error=SimpleNamespace(reason=number), content={"client": {"number": number}},
        )  # fmt: skip


@pytest.fixture
def strategy(monkeypatch: pytest.MonkeyPatch) -> SalientStrategy:
    def message(content, dst_node_id, message_type):
        return SimpleNamespace(node=dst_node_id)

    monkeypatch.setattr(flower, "Message", message)
    setup = Setup(network_of(), federation_of(2), FederatedSettings.preset())
    return SalientStrategy(setup.server(), setup, timeout=1.5)


def test_a_node_that_comes_back_takes_the_place_of_the_one_that_died(strategy) -> None:
    assert strategy._find(Nodes(n10=0, n11=1)) == {0: 10, 1: 11}
    assert strategy._find(Nodes(n10=0, n11=1, n12=1)) == {0: 10, 1: 12}
    later = Nodes(n10=0, n11=1, n12=1, n13="waits for ever")
    assert strategy._find(later) == {0: 10, 1: 12}
    assert later.asked == [13], "the one that died is not asked again, which would take a timeout"
    assert strategy._find(Nodes(n10=0, n12=1)) == {0: 10, 1: 12}


def test_two_nodes_that_are_one_client_are_refused(strategy) -> None:
    with pytest.raises(InputError, match="two nodes say that they are client 1"):
        strategy._find(Nodes(n10=0, n11=1, n12=1))


def test_clients_that_cannot_begin_say_why_and_are_not_waited_for_long(strategy) -> None:
    start = time.perf_counter()
    said = "Message: no images here: give some"
    assert strategy._find(Nodes(n10=said, n11=said)) == {}
    assert time.perf_counter() - start < 6
    strategy._asked = [0]
    with pytest.raises(SparsightError, match="no images here: give some"):
        strategy.aggregate_train(1, [])
