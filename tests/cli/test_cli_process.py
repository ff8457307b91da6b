"""The command as a real process: its speed, its exit codes, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.command_kit import FAST

COMMAND = [sys.executable, "-m", "sparsight.cli.main"]
EXPLAIN = ["explain", "--model", "net.py:network", *FAST, "--out", "out"]


def test_help_and_version_need_no_torch(home: Path) -> None:
    started = time.perf_counter()
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 5  # about 0.3 s on an idle machine
    assert "explain" in done.stdout
    code = (
        "import sys\n"
        "from sparsight.cli.main import main\n"
        "main(['explain', '--help'])\n"
        "main(['--version'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'PIL')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sparsight 0.1.0" in done.stdout


def test_results_and_errors_go_to_streams_of_their_own(home: Path) -> None:
    done = subprocess.run(
        [*COMMAND, *EXPLAIN, "a.png", "no.png", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "error: no such file or folder: no.png\n"
    assert json.loads(done.stdout)["cases"][0]["page"] == "out/a/index.html"


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is another thing there")
def test_ctrl_c_leaves_whole_cases_and_the_next_run_goes_on(home: Path) -> None:
    first = home / "out" / "a" / "index.html"
    process = subprocess.Popen(
        [*COMMAND, *EXPLAIN, "a.png", "more/b.png"],
        env={**os.environ, "WAIT_AFTER": str(first)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (home / "waiting").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert [p.name for p in (home / "out").iterdir()] == ["a"]
    made = first.stat().st_mtime_ns
    done = subprocess.run(
        [*COMMAND, *EXPLAIN, "a.png", "more/b.png", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [case["skipped"] for case in json.loads(done.stdout)["cases"]] == [True, False]
    assert first.stat().st_mtime_ns == made
    assert (home / "out" / "index.html").is_file()
