"""Workers of Ray: the same rows, and what becomes of them when workers and drivers are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

if not find_spec("ray"):
    pytest.skip("Ray is not installed", allow_module_level=True)

import sparsight
from sparsight.cluster import ray_at
from sparsight.errors import InputError
from sparsight.sweeps import Sweep, sweep
from sweeps.sweep_kit import deadly, white
from sweeps.test_sweep import FAST, pictures, plain, shards_of

OPTIONS = FAST | {"do": "trace,attribute,blame"}
_SECONDS = 90.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work on the machine goes first else."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


def _workers(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            if "ray::_Worker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_two_workers_of_which_one_is_killed_find_what_none_does(tmp_path: Path) -> None:
    network = sparsight.load("embedded")
    alone = sweep(network, pictures(6), tmp_path / "alone", **OPTIONS)
    killed, heard = [], set()

    def progress(stage: str, done: int, total: int) -> None:
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            try:
                connections = process.net_connections()
            except psutil.Error:
                continue
            heard.update(c.laddr.ip for c in connections if c.status == "LISTEN")
        if done >= 1 and not killed:
            for worker in _workers(psutil.Process())[:1]:
                killed.append(worker.pid)
                worker.send_signal(signal.SIGKILL)

    found = sweep(network, pictures(6), tmp_path / "out", **OPTIONS, workers=2, progress=progress)
    assert killed
    assert plain(found) == plain(alone)
    assert {ip.removeprefix("::ffff:") for ip in heard} <= {"127.0.0.1", "::1"}


@pytest.mark.slow
def test_an_image_that_kills_its_worker_is_passed_over(tmp_path: Path) -> None:
    images = [(image, 1) for image, _ in pictures(4)]
    images[2] = (white(), 1)
    found = sweep(deadly(), images, tmp_path / "out", **OPTIONS, workers=1)
    rows = found.table.to_pylist()
    assert [row["problem"] is None for row in rows] == [True, True, False, True]
    assert rows[2]["problem"] == "the worker that looked at it died each time: look at it alone"


_DRIVER = """
import sys
import sparsight
from sparsight.sweeps import sweep
from sweeps.test_sweep import FAST, pictures
if __name__ == "__main__":
    sweep(sparsight.load("embedded"), pictures(6), sys.argv[1], **FAST, workers=1)
"""


@pytest.mark.slow
def test_a_killed_driver_leaves_no_worker_and_loses_no_shard(tmp_path: Path) -> None:
    network = sparsight.load("embedded")
    alone = sweep(network, pictures(6), tmp_path / "alone", **FAST)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    script = tmp_path / "driver.py"
    script.write_text(_DRIVER)
    driver = subprocess.Popen(
        [sys.executable, script, tmp_path / "out"], env={**os.environ, "PYTHONPATH": paths}
    )
    limit = time.monotonic() + _SECONDS
    while not any((tmp_path / "out").glob("shards-*/000000")):
        assert driver.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)
    workers = _workers(psutil.Process(driver.pid))
    assert workers
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert not (tmp_path / "out" / "table.parquet").exists()
    shards = shards_of(tmp_path / "out")
    before = {p.name: p.stat().st_mtime_ns for p in shards.iterdir() if p.name.isdigit()}
    found = sweep(network, pictures(6), tmp_path / "out", **FAST)
    assert plain(found) == plain(alone)
    assert all((shards / name).stat().st_mtime_ns == when for name, when in before.items())


@pytest.mark.slow
def test_joins_a_cluster_of_several_nodes(tmp_path: Path) -> None:
    with ray_at(None, 1, "sweep"):
        from ray.cluster_utils import Cluster  # once what Ray is to know has been set

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        network = sparsight.load("embedded")
        with pytest.raises(InputError, match="9 workers need 9 CPU, and there are 2: give fewer"):
            sweep(network, pictures(6), tmp_path / "a", **FAST, workers=9, address=cluster.address)
        found = sweep(
            network, pictures(6), tmp_path / "out", **FAST, workers=2, address=cluster.address
        )
    finally:
        cluster.shutdown()
    assert plain(found) == plain(sweep(network, pictures(6), tmp_path / "alone", **FAST))


def test_says_what_is_wrong_with_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = sparsight.load("embedded")
    with pytest.raises(InputError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        sweep(network, pictures(2), tmp_path / "a", **FAST, workers=1, address="127.0.0.1:1")
    with pytest.raises(InputError, match="there is no address: give ray://HOST:PORT"):
        sweep(network, pictures(2), tmp_path / "a", **FAST, workers=1, address="there")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'sparsight\[sweep\]'"):
        sweep(network, pictures(2), tmp_path / "a", **FAST, workers=1)
    assert isinstance(sweep(network, pictures(2), tmp_path / "a", **FAST), Sweep)
