"""A folder with a small network and images, and ways to run commands in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.command_kit import FAST, NETWORK, Result, Run, noise
from sparsight.cli.main import main


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: ``net.py``, ``a.png``, ``more/`` with three images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "net.py").write_text(NETWORK)
    noise(tmp_path / "a.png")
    noise(tmp_path / "more" / "my dog.png", 1)
    noise(tmp_path / "more" / "b.png", 2)
    noise(tmp_path / "more" / "deep" / "a.jpg", 3)
    return tmp_path


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in the working folder."""

    def go(*arguments: str) -> Result:
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return go


@pytest.fixture
def explain(run: Run) -> Run:
    """Run ``sparsight explain`` with the small network and few views."""

    def go(*arguments: str) -> Result:
        return run("explain", "--model", "net.py:network", *FAST, *arguments)

    return go
