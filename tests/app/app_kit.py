"""Networks for the page, images, and the page itself as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from cli.command_kit import NETWORK
from sparsight.app import HOST

NETWORKS = (
    NETWORK
    + """
class Slow(Small):
    def forward(self, x):
        with open("passes", "a") as file:
            file.write(".")
        time.sleep(0.3)
        return super().forward(x)

def slow():
    torch.manual_seed(0)
    return Network(Slow().eval(), Preprocessing((16, 16), 16), LABELS)

def broken():
    built = network()
    whole = built.model.forward
    built.model.forward = lambda x: {}["no such key"] if len(x) > 1 else whole(x)
    return built
"""
)
# Writes down whom the process calls: nobody but itself.
WATCHED = """
import sys
def noted(event, given):
    if event == "socket.getaddrinfo" or event == "socket.connect":
        with open("calls", "a") as file:
            print(event, given[1:] if event == "socket.connect" else given, file=file)
sys.addaudithook(noted)
from sparsight.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        return int(taken.getsockname()[1])


class Server:
    """``sparsight app`` as a process in a folder of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"http://{HOST}:{self.port}/"
        self.process = subprocess.Popen(
            [sys.executable, "-c", WATCHED, "app", "--no-browser", "--port", str(self.port),
             *arguments],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()

    @property
    def passes(self) -> int:
        """How often the slow network was asked."""
        counted = self.folder / "passes"
        return counted.stat().st_size if counted.exists() else 0

    def rest(self) -> bool:
        """Whether the slow network is not asked any more, soon."""
        for _ in range(10):
            before = self.passes
            time.sleep(0.7)
            if self.passes == before:
                return True
        return False

    def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C; the exit code, and what was said on standard error."""
        self.process.send_signal(signal.SIGINT)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err
