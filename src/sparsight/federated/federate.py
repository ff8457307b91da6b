"""Rounds of a federation, in one process or on Flower."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sparsight.errors import InputError, SparsightError
from sparsight.federated.agent import Agent
from sparsight.federated.client import LOCAL, Client
from sparsight.federated.data import Federation
from sparsight.federated.division import Division
from sparsight.federated.memory import Memory, read_memory, write_memory
from sparsight.federated.result import Federated
from sparsight.federated.server import Server
from sparsight.federated.settings import FederatedSettings
from sparsight.networks import Network
from sparsight.networks.state import hash_state
from sparsight.storage import library_versions

__all__ = ["ENGINES", "Setup", "federate"]

ENGINES = ("flower", "loop")
"""Where clients run: as Flower's on Ray's workers, or one after the other in this process."""

_OURS = re.compile(r"(server|client-\d+-\d+)\.safetensors")

Progress = Callable[[str, int, int], None]
Logged = Callable[[list[dict[str, Any]]], None]


@dataclass(frozen=True)
class Setup:
    """Everything that server and clients agree on.

    Attributes
    ----------
    network
        What is trained; not changed.
    federation
        Who has which images.
    settings
        How it is trained.
    head_name
        Module path of the head, where it is more than the last layer.
    agent
        For the selector of that name.
    """

    network: Network
    federation: Federation
    settings: FederatedSettings
    head_name: str | None = None
    agent: Agent | None = None

    @cached_property
    def division(self) -> Division:
        """Which entries are shared."""
        settings = self.settings
        return Division.of(self.network, settings.head, settings.batch_norm, self.head_name)

    @cached_property
    def digest(self) -> str:
        """Tell this federation from others; how many rounds there are is no part of it."""
        told = {k: v for k, v in self.settings.describe().items() if k not in ("rounds", "judge")}
        found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        found.update(f"{self.federation.digest} {self.head_name}".encode())
        states = [self.network.model.state_dict()]
        states += [] if self.agent is None else [self.agent.state_dict()]
        for state in states:
            hash_state(found, state)
        return found.hexdigest()

    def client(self, number: int) -> Client:
        """Make a client.

        Raises
        ------
        InputError
            If its images are elsewhere.
        """
        data = self.federation.clients[number]
        if data is None:
            raise InputError(f"the images of client {number} are elsewhere: run it there")
        return Client(
            number, self.network, data, self.settings, self.division,
            self.federation.test, self.agent,
        )  # fmt: skip

    def server(self) -> Server:
        """Make the server, at its beginning."""
        return Server(self.network, self.settings, self.division, len(self.federation.clients))

    def result(self, server: Server, memories: Mapping[int, Memory]) -> Federated:
        """Gather what came of it."""
        shared = {n: server.tensors[n] for n in (*self.division.shared, *self.division.statistics)}
        own = {}
        for client, memory in sorted(memories.items()):
            try:
                kept = memory.settled(server.accepted.get(client, 0))
            except InputError:  # it lost what it kept, which is in the log
                continue
            if kept.round:
                own[client] = {
                    n.removeprefix(LOCAL): v for n, v in kept.tensors.items()
                    if n.startswith(LOCAL)
                }  # fmt: skip
        return Federated(
            self.settings.describe(), self.federation.told, server.log, shared, own,
            library_versions(),
        )  # fmt: skip


def federate(
    network: Network,
    federation: Federation,
    *,
    settings: FederatedSettings | None = None,
    engine: str = "loop",
    head_name: str | None = None,
    agent: Agent | None = None,
    state: str | Path | None = None,
    overwrite: bool = False,
    timeout: float = 3600.0,
    progress: Progress = lambda stage, done, total: None,
    logged: Logged = lambda rows: None,
    **options: Any,
) -> Federated:
    """Train a network on images that stay where they are (SPATL, Yu et al., SC 2022).

    Clients get the encoder, train it together with a head of their own, and send back only filters
    that matter; the server averages.

    Parameters
    ----------
    network
        What everybody begins with; not changed.
    federation
        Who has which images.
    settings
        How; or give an ``algorithm`` and other settings by name.
    engine
        One of :data:`ENGINES`. Both give the same result, to the bit on processors if torch has
        one thread here, as Ray's workers have.
    head_name
        Module path of the head, where it is more than the last layer.
    agent
        For the selector of that name; by default the one that comes along.
    state
        Folder to keep the state in after every round. The same call goes on from there, also with
        more rounds.
    overwrite
        Start anew where the folder holds another federation, which is moved to ``former`` in it.
    timeout
        Seconds that a round on Flower waits for replies.
    progress
        Called with stage, rounds done and rounds in all.
    logged
        Called with all rows after every round.
    **options
        Settings by name.

    Raises
    ------
    InputError
        No such setting, Flower is not installed, or a state of something else.
    UnsupportedError
        If the head is not found.
    NetworkError
        A network in training mode.
    SparsightError
        If nobody answers in the first round, or in several rounds in a row: what the last one said.

    Examples
    --------
    >>> import sparsight
    >>> from sparsight.datasets.scenes import CLASSES, render_scene
    >>> from sparsight.federated import Federation, evenly
    >>> from sparsight.datasets.pixels import Pixels
    >>> scenes = [(render_scene(CLASSES[i % 3], seed=i).picture(), i % 3) for i in range(18)]
    >>> network = sparsight.load("embedded")
    >>> pixels = Pixels(network, scenes)
    >>> federation = Federation.of(pixels, evenly(pixels.labels, 2))
    >>> found = federate(network, federation, rounds=1, budget=0.1)
    >>> found.log[0]["answered"], found.log[0]["up"] < found.log[0]["down"] / 5
    ([0, 1], True)
    """
    if settings is None:
        settings = FederatedSettings.preset(options.pop("algorithm", "spatl"), **options)
    elif options:
        raise InputError("settings and single ones: give settings.change(...), or an algorithm")
    network.require_eval()
    if engine not in ENGINES:
        raise InputError(f"no engine is called {engine!r}: choose from {', '.join(ENGINES)}")
    if network.dtype in (torch.float16, torch.bfloat16):
        raise InputError(
            "weights in half precision cannot be trained: load them in single precision"
        )
    if settings.selector == "agent" and agent is None:
        agent = Agent.load()
    if not timeout > 0:
        raise InputError(f"timeout {timeout:g}: give seconds")
    if agent is not None and settings.selector != "agent":
        raise InputError(
            f"selector {settings.selector!r} asks no agent: leave agent out, or choose that "
            "selector"
        )
    if engine == "flower":
        from sparsight.federated.simulation import run
    setup = Setup(network, federation, settings, head_name, agent)
    server = setup.server()
    folder = None if state is None else Path(state)
    if folder is not None:
        _take_up(server, folder, setup.digest, overwrite)
    if server.round > settings.rounds:
        raise InputError(
            f"{folder} holds {server.round} rounds already, and {settings.rounds} are asked for: "
            "give as many at least, or another folder"
        )
    if server.log:
        logged(server.log)
    if engine == "flower":
        return run(setup, server, folder, progress, logged, timeout=timeout)
    return _loop(setup, server, folder, progress, logged)


def _take_up(server: Server, folder: Path, digest: str, overwrite: bool) -> None:
    """Go on from a state, if there is one."""
    try:
        server.resume(folder, digest)
    except InputError:
        if not overwrite:
            raise
        try:
            _set_aside(folder)
        except OSError as error:
            raise InputError(
                f"cannot write {folder} ({error.strerror or error}): choose another folder"
            ) from error


def _set_aside(folder: Path) -> None:
    """Move a state, and nothing else, into the folder ``former`` in its own."""
    former = folder / "former"
    former.mkdir(exist_ok=True)
    earlier, ours = (
        [file for file in place.iterdir() if _OURS.fullmatch(file.name)]
        for place in (former, folder)
    )
    for file in earlier:
        file.unlink()
    for file in ours:
        file.replace(former / file.name)


def _loop(
    setup: Setup, server: Server, folder: Path | None, progress: Progress, logged: Logged
) -> Federated:
    """Ask clients one after the other."""
    settings = setup.settings
    clients = [setup.client(number) for number in range(server.clients)]
    memories = {number: read_memory(folder, number) for number in range(server.clients)}
    while server.round < settings.rounds:
        progress("rounds", server.round, settings.rounds)
        start, down = time.perf_counter(), 0
        replies: dict[int, bytes | str] = {}
        last: SparsightError | None = None
        for number in server.asked():
            message = server.message(number)
            down += len(message)
            try:
                replies[number], memories[number] = clients[number].train(message, memories[number])
                write_memory(folder, number, memories[number])
            except SparsightError as error:
                replies[number], last = str(error), error
        server.take(replies, down, time.perf_counter() - start)
        if last is not None and server.silent:
            raise last
        if server.round % settings.judge == 0 or server.round == settings.rounds:
            server.judged(*_judge(server, clients, memories))
        if folder is not None:
            server.save(folder, setup.digest)
        logged(server.log)
    return setup.result(server, memories)


def _judge(
    server: Server, clients: Sequence[Client], memories: Mapping[int, Memory]
) -> tuple[dict[int, dict[str, float]], int]:
    """Ask clients that can to count their right answers; the bytes that it takes."""
    found: dict[int, dict[str, float]] = {}
    spent = 0
    for number, client in enumerate(clients):
        message = server.whole(number)
        spent += len(message)
        try:
            found[number] = client.judge(message, memories[number])
        except SparsightError:  # it fails in training as well, which is in the log
            continue
    return found, spent
