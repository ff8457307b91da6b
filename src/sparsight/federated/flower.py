"""A federation on Flower: a strategy for its server, an app for its clients.

What is sent is the bytes of :mod:`sparsight.federated.packing`, in one array; what a client keeps
is in its ``context.state``, and in a folder where it has one. Flower's telemetry and Ray's are off
unless their variables say otherwise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsight.errors import InputError, SparsightError
from sparsight.federated.federate import Logged, Progress, Setup
from sparsight.federated.memory import Memory, read_memory, write_memory
from sparsight.federated.server import Server

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # it listens on loopback only
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns

try:
    from flwr.app import (
        Array,
        ArrayRecord,
        ConfigRecord,
        Context,
        Message,
        MessageType,
        MetricRecord,
        RecordDict,
    )
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import Strategy
    from flwr.supercore import telemetry
except ImportError as error:
    raise InputError(
        "federations on Flower need it: pip install 'sparsight[federated]', or choose the engine "
        "loop"
    ) from error

# Of a Flower that was imported before.
telemetry.FLWR_TELEMETRY_ENABLED = os.environ["FLWR_TELEMETRY_ENABLED"]

__all__ = ["TIMEOUT", "Make", "SalientStrategy", "client_app", "server_app"]

Make = Callable[[Mapping[str, Any], int | None], Setup]
"""From an app's run configuration, and the number of the client that asks (``None``: the server),
to what all agree on; of images, a client needs its own only, and the server none."""

_ARRAYS, _PAYLOAD, _MEMORY, _COUNTS, _CLIENT = "arrays", "payload", "memory", "metrics", "client"
_NUMBER = "partition-id"
_WAIT = 1.0  # seconds between looks for nodes
TIMEOUT = 3600.0
"""Seconds that a round waits for replies, unless another number is given."""

_BEGINNING = 600.0  # most seconds for nodes to come up
_SILENCE = "no answer: see that it runs, and give it time"
_DEATH = "its process died: see that it has memory"


def _record(data: bytes) -> ArrayRecord:
    return ArrayRecord({_PAYLOAD: Array(np.frombuffer(data, np.uint8))})


def _bytes(record: Any) -> bytes:
    found: bytes = record[_PAYLOAD].numpy().tobytes()
    return found


class SalientStrategy(Strategy):
    """Flower's strategy of a federation, whatever its algorithm.

    Parameters
    ----------
    server
        At its beginning, or taken up.
    setup
        What server and clients agree on.
    folder
        Where the state is kept after every round.
    timeout
        Seconds to wait for nodes, and for replies.
    progress
        Called with stage, rounds done and rounds in all.
    logged
        Called with all rows after every round.
    """

    def __init__(
        self,
        server: Server,
        setup: Setup,
        *,
        folder: Path | None = None,
        timeout: float = TIMEOUT,
        progress: Progress = lambda stage, done, total: None,
        logged: Logged = lambda rows: None,
    ) -> None:
        self.server, self.setup, self.folder, self.timeout = server, setup, folder, timeout
        self._progress, self._logged = progress, logged
        self._nodes: dict[int, int] = {}
        self._heard: set[int] = set()
        self._met = False
        self._refused = _SILENCE
        self._asked: list[int] = []
        self._down, self._judging, self._start = 0, 0, 0.0

    def rounds(self, grid: Grid) -> None:
        """Do all rounds that are left.

        Raises
        ------
        SparsightError
            If every client fails in the same round.
        """
        left = self.setup.settings.rounds - self.server.round
        if left > 0:
            self.start(grid, ArrayRecord(), left, self.timeout)

    def summary(self) -> None:
        """Say nothing: settings are in the log of the federation."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Write what the clients of the next round are sent."""
        self._progress("rounds", self.server.round, self.setup.settings.rounds)
        self._start, self._down = time.perf_counter(), 0
        self._asked = self.server.asked()
        nodes = self._find(grid)
        found = []
        for client in self._asked:
            if client in nodes:
                message = self.server.message(client)
                self._down += len(message)
                found.append(self._message(message, MessageType.TRAIN, nodes[client]))
        return found

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take what clients sent."""
        got: dict[int, bytes | str] = dict.fromkeys(self._asked, self._refused)
        clients = {node: client for client, node in self._nodes.items()}
        for reply in replies:
            client = clients[reply.metadata.src_node_id]
            if reply.has_error():
                got[client] = _reason(str(reply.error.reason))
            else:
                got[client] = _bytes(reply.content[_ARRAYS])
        row = self.server.take(got, self._down, time.perf_counter() - self._start)
        if self.server.silent:
            raise SparsightError(next(iter(row["failed"].values())))
        return None, MetricRecord({"loss": float(row.get("loss", 0.0))})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Write what clients are judged on, after rounds that are judged."""
        settings = self.setup.settings
        number = self.server.round
        if number % settings.judge and number != settings.rounds:
            return []
        nodes = sorted(self._find(grid).items())
        messages = [(self.server.whole(client), node) for client, node in nodes]
        self._judging = sum(len(message) for message, _ in messages)
        return [self._message(data, MessageType.EVALUATE, node) for data, node in messages]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Take what clients counted, and keep the state."""
        clients = {node: client for client, node in self._nodes.items()}
        counts = {
            clients[reply.metadata.src_node_id]: {
                name: float(str(value)) for name, value in reply.content[_COUNTS].items()
            }
            for reply in replies
            if not reply.has_error()
        }
        if counts:
            self.server.judged(counts, self._judging)
        if self.folder is not None:
            self.server.save(self.folder, self.setup.digest)
        self._logged(self.server.log)
        return None

    def _message(self, data: bytes, kind: str, node: int) -> Message:
        return Message(RecordDict({_ARRAYS: _record(data)}), dst_node_id=node, message_type=kind)

    def _find(self, grid: Grid) -> dict[int, int]:
        """Find the nodes of clients that are there; at the beginning wait for all.

        Raises
        ------
        InputError
            If two nodes say from the beginning that they are the same client, or one is none.
        """
        wait = min(_BEGINNING, self.timeout)
        end = time.perf_counter() + wait
        while True:
            there = set(grid.get_node_ids())
            strange = there - self._heard
            if strange:
                asked = [
                    Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY)
                    for node in sorted(strange)
                ]
                for reply in grid.send_and_receive(asked, timeout=wait):
                    if reply.has_error():
                        self._refused = _reason(str(reply.error.reason))
                        continue
                    number = int(str(reply.content[_CLIENT]["number"]))
                    if not 0 <= number < self.server.clients:
                        raise InputError(
                            f"a node says that it is client {number} of {self.server.clients}: "
                            f"number nodes from 0 ({_NUMBER})"
                        )
                    # Later it is the same one that came back: Flower misses a node after a minute.
                    if self._nodes.get(number) in there and not self._met:
                        raise InputError(
                            f"two nodes say that they are client {number}: number them apart "
                            f"({_NUMBER})"
                        )
                    self._nodes[number] = reply.metadata.src_node_id
                    self._heard.add(reply.metadata.src_node_id)
            found = {c: node for c, node in self._nodes.items() if node in there}
            late = time.perf_counter() > end or (self._met and found)
            if len(found) >= self.server.clients or late:
                self._met = True
                return found
            self._progress("waiting for clients", len(found), self.server.clients)
            time.sleep(_WAIT)


def _reason(text: str) -> str:
    """Find what a client said of its failure in what Flower says of it."""
    _, said, own = text.rpartition("Message: ")
    if not said and "ray.exceptions" in text:
        return _DEATH
    return next(iter(own.rstrip("'>\n ").splitlines()), _SILENCE)


def server_app(
    make: Make, *, folder: str | Path | None = None, timeout: float = TIMEOUT
) -> ServerApp:
    """Make the app of a federation's server.

    Parameters
    ----------
    make
        What server and clients agree on.
    folder
        Where the state is kept after every round, and taken up again; at the end what came of it
        is in ``federated`` there.
    timeout
        Seconds to wait for nodes, and for replies.
    """
    app = ServerApp()
    place = None if folder is None else Path(folder)

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        setup = make(context.run_config, None)
        server = setup.server()
        if place is not None:
            server.resume(place, setup.digest)
        SalientStrategy(server, setup, folder=place, timeout=timeout).rounds(grid)
        if place is not None:
            setup.result(server, {}).save(place / "federated", overwrite=True)

    return app


def client_app(make: Make, *, folder: str | Path | None = None) -> ClientApp:
    """Make the app of a federation's clients.

    Which client a node is, its configuration says: ``partition-id``.

    Parameters
    ----------
    make
        What server and clients agree on.
    folder
        Where a client keeps what it keeps, besides ``context.state``, so that it can be killed.
    """
    app = ClientApp()
    place = None if folder is None else Path(folder)

    def begin(message: Message, context: Context) -> tuple[Any, bytes, Memory]:
        number = int(context.node_config[_NUMBER])
        setup = make(context.run_config, number)
        memory = read_memory(place, number)
        if _MEMORY in context.state:
            other = Memory.from_bytes(_bytes(context.state[_MEMORY]))
            # Of two messages at once the later one may have been done first.
            memory = max(memory, other, key=lambda one: one.last)
        return setup.client(number), _bytes(message.content[_ARRAYS]), memory

    @app.query()
    def query(message: Message, context: Context) -> Message:
        number = int(context.node_config[_NUMBER])
        make(context.run_config, number)  # so that the first round does not wait for it
        return Message(RecordDict({_CLIENT: ConfigRecord({"number": number})}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client, data, memory = begin(message, context)
        reply, memory = client.train(data, memory)
        write_memory(place, client.number, memory)
        context.state[_MEMORY] = _record(memory.to_bytes())
        return Message(RecordDict({_ARRAYS: _record(reply)}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        client, data, memory = begin(message, context)
        counts = MetricRecord(client.judge(data, memory))
        return Message(RecordDict({_COUNTS: counts}), reply_to=message)

    return app
