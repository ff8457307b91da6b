"""``sparsight app``: users' mistakes, an address of this machine only, and Ctrl-C."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from app.app_kit import Server, free_port
from cli.command_kit import Run
from sparsight.app import HOST


def test_networks_that_cannot_be_loaded(run: Run, home: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    port = str(free_port())
    told = run("app", "--port", port, "--model", "embedded", "--model", "nonsense").error
    assert told.startswith("cannot tell what network 'nonsense' is: use embedded, ")
    told = run("app", "--port", port, "-m", "net.py:failing").error
    assert told.startswith("net.py line ")
    told = run("app", "--port", port, "-m", "net.py:network", "--weights", "a.png").error
    assert "a.png" in told
    told = run("app", "--port", port, "--device", "abacus").error
    assert told.startswith("device 'abacus' cannot be used")


def test_weights_and_labels_are_of_one_network(run: Run) -> None:
    several = ("--model", "embedded", "--model", "net.py:network")
    for option in ("--weights", "--labels"):
        told = run("app", *several, option, "some.txt").error
        assert told.startswith("--weights and --labels are of one network, and 2 are named: give")


def test_ports_that_cannot_be_used(run: Run) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = run("app", "--port", str(port)).error
    assert (
        told == f"port {port} cannot be used (address already in use): choose another with --port"
    )
    for wrong in ("0", "65536", "-1", "http"):
        assert "--port" in run("app", "--port", wrong).error


def test_it_is_not_shared(run: Run) -> None:
    assert "--share" in run("app", "--share").error


def test_without_gradio_one_line_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    assert run("app").error == "the app needs Gradio: pip install 'sparsight[app]'"


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is another thing there")
def test_it_answers_on_the_loopback_address_until_ctrl_c(home: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    kept = set(home.iterdir())
    server = Server(home, "--model", "net.py:network")
    try:
        assert server.said == f"{server.address} (Ctrl-C ends it)\n"
        with urllib.request.urlopen(server.address, timeout=30) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert "sparsight" in answer.read().decode().lower()
        assert policy.startswith("default-src 'self' data: blob:; ")
        rebound = urllib.request.Request(server.address, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(rebound, timeout=30)
        with socket.socket() as other, pytest.raises(OSError, match="refused"):
            other.connect(("127.0.0.2", server.port))
        assert [path for path in home.iterdir() if path.name.startswith("sparsight-app-")]
        assert server.interrupt() == (130, "interrupted\n")
    finally:
        server.process.kill()
    left = {path for path in home.iterdir() if path.name not in {"calls", "__pycache__"}}
    assert left - kept == set()


def test_the_room_is_imported_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gradio", "uvicorn", "fastapi", "starlette"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("question", "job", "desk", "view", "page", "serve"):
        spec = importlib.util.find_spec(f"sparsight.app.{name}")
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
