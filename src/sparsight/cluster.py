"""Ray, embedded or elsewhere: begun quietly, on loopback only, and ended."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sparsight.errors import InputError

__all__ = ["cores", "ray_at"]

_LOOPBACK = ("127.", "::1")
_PATIENCE = 10.0  # seconds


def cores() -> int:
    """Count the processor cores that this process may use."""
    return getattr(os, "process_cpu_count", os.cpu_count)() or 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Ray say nothing but errors for a block."""
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reach(address: str) -> None:
    """Refuse an address where nobody answers; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"{address} is no address: give ray://HOST:PORT or HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster answers at {address} ({error}): check the address, and that it runs "
            "(ray status)"
        ) from error


@contextmanager
def ray_at(address: str | None, workers: int, extra: str) -> Iterator[Any]:
    """Begin Ray on this machine, or join a cluster, for a block.

    Parameters
    ----------
    address
        Of a cluster, ``ray://HOST:PORT`` or ``HOST:PORT``; none to begin one on this machine, with
        no more than loopback to listen on.
    workers
        How many processor cores an own one is to have.
    extra
        Which of the package's extras brings Ray.

    Yields
    ------
    module
        Ray itself.

    Raises
    ------
    InputError
        If Ray is not installed, at work already, not to be reached, or would listen to other
        machines.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # it listens on loopback only
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns
    try:
        import ray
    except ImportError as error:
        raise InputError(f"several workers need Ray: pip install 'sparsight[{extra}]'") from error
    if address is not None:
        _reach(address)
    if ray.is_initialized():
        raise InputError("Ray is at work in this process already: end it (ray.shutdown()) first")
    # Workers find what this process has imported where it did.
    paths = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    where: dict[str, Any] = {"address": address}
    if address is None:
        where = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    with _quiet():
        try:
            ray.init(
                **where, log_to_driver=False, logging_level=logging.CRITICAL,
                runtime_env={"env_vars": {"PYTHONPATH": paths}},
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"Ray does not start ({str(error).splitlines()[0]}): mend that, or use workers=0 "
                "(--workers 0)"
            ) from error
        try:
            own: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            if address is None and not own.startswith(_LOOPBACK):
                raise InputError(
                    "Ray would listen to other machines: set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 "
                    "before it is imported"
                )
            yield ray
        finally:
            ray.shutdown()
