"""A federation on this machine: Flower's simulation, on workers of Ray."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsight.cluster import cores, ray_at
from sparsight.errors import SparsightError
from sparsight.federated.federate import Logged, Progress, Setup
from sparsight.federated.flower import TIMEOUT, SalientStrategy, client_app
from sparsight.federated.memory import read_memory
from sparsight.federated.result import Federated
from sparsight.federated.server import Server

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.serverapp import Grid

__all__ = ["run"]


@lru_cache(maxsize=1)
def _held(reference: Any) -> Setup:
    """Fetch what Ray holds, once in a process."""
    import ray

    found: Setup = ray.get(reference)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Flower say nothing but errors for a block."""
    loggers = [logging.getLogger(name) for name in ("flwr", "flwr-telemetry")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _heed(grid: Grid, stop: threading.Event) -> None:
    """Let whoever waits for replies give up once there is nobody left to send any."""
    pull = grid.pull_messages

    def pulled(message_ids: Iterable[str]) -> Iterable[Message]:
        if stop.is_set():
            raise SparsightError("the simulation was stopped")
        return pull(message_ids)

    grid.pull_messages = pulled  # type: ignore[method-assign]


def run(
    setup: Setup,
    server: Server,
    folder: Path | None,
    progress: Progress,
    logged: Logged,
    *,
    timeout: float = TIMEOUT,
    workers: int | None = None,
) -> Federated:
    """Simulate a federation: clients run on workers of Ray on this machine.

    Parameters
    ----------
    setup
        What server and clients agree on.
    server
        At its beginning, or taken up.
    folder
        Where states are kept after every round.
    progress, logged
        As of :func:`sparsight.federated.federate`.
    timeout
        Seconds to wait for replies.
    workers
        Processes that clients run in, by default as many as there are cores.

    Raises
    ------
    SparsightError
        If every client fails in the same round.
    """
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    count = workers or cores()
    gpu = 1 / count if setup.network.device.type == "cuda" else 0.0
    app = ServerApp()
    failures: list[SparsightError] = []
    stop = threading.Event()

    with tempfile.TemporaryDirectory() as spare, _quiet():
        place = Path(spare) if folder is None else folder
        strategy = SalientStrategy(
            server, setup, folder=place, timeout=timeout, progress=progress, logged=logged
        )

        @app.main()
        def main(grid: Grid, context: Context) -> None:
            _heed(grid, stop)
            try:
                strategy.rounds(grid)
            except SparsightError as error:
                failures.append(error)

        with ray_at(None, count, "federated") as ray:
            reference = ray.put(setup)
            clients = client_app(lambda config, number: _held(reference), folder=place)
            try:
                run_simulation(
                    app, clients, server.clients,
                    backend_config={
                        # A worker that is killed comes back; what its client lost is done again.
                        "client_resources": {"num_cpus": 1, "num_gpus": gpu, "max_restarts": -1},
                    },
                )  # fmt: skip
            finally:
                stop.set()
        if failures:
            raise failures[0]
        memories = {number: read_memory(place, number) for number in range(server.clients)}
    return setup.result(server, memories)
