"""The same apps with a SuperLink and two SuperNodes, processes of their own on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from sparsight.federated import Federated

APP = Path(__file__).resolve().parents[2] / "examples" / "federated"
BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def running(home: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended afterwards."""
    with (home / f"{command[0]}-{os.urandom(2).hex()}.log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / command[0], *command[1:]],
            cwd=home,
            stdout=log,
            stderr=log,
            env=environment(home),
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def environment(home: Path) -> dict[str, str]:
    """Flower's folder, and no telemetry."""
    return {
        **os.environ, "FLWR_HOME": str(home / "flwr"), "FLWR_TELEMETRY_ENABLED": "0",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def wait_for(port: int, seconds: float = 60) -> None:
    """Wait until somebody listens."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"nobody listens on port {port}")


@pytest.mark.slow
def test_two_nodes_train_together(tmp_path: Path) -> None:
    shutil.copytree(APP, tmp_path / "app")
    link, *nodes = free_ports(3)
    (tmp_path / "flwr").mkdir()
    (tmp_path / "flwr" / "config.toml").write_text(
        f'[superlink.here]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    )
    server = ("flower-superlink", "--insecure", "--port", str(link))
    with running(tmp_path, *server, "--disable-runtime-dependency-installation"):
        wait_for(link)
        clients = [
            (
                "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{link}", "--port",
                str(port), "--node-config", f"partition-id={number}",
            )
            for number, port in enumerate(nodes)
        ]  # fmt: skip
        with running(tmp_path, *clients[0]), running(tmp_path, *clients[1]):
            subprocess.run(
                [BIN / "flwr", "run", "app", "here", "--stream", "-c", "rounds=2 scenes=20"],
                cwd=tmp_path, env=environment(tmp_path), check=True, timeout=400,
                capture_output=True,
            )  # fmt: skip
    found = Federated.load(tmp_path / "federation" / "federated")
    assert [row["answered"] for row in found.log] == [[0, 1], [0, 1]]
    assert found.log[-1]["local"] > 0
    assert not any(name.startswith("fc") for name in found.shared), "heads stayed"
