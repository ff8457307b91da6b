"""Kill a sweep ten times at random moments, and see whether the tables are the undisturbed one's.

    python benchmarks/sweep_kills.py [--kills 10] [--seed 0]

Scenes through the embedded network on two workers, as a process of its own. A kill comes some
seconds after another shard is done. Every second one is of the driver, after which the same command
is run again; the others are of a worker. Compares all
columns but seconds, and all kept maps, pictures and traces. Writes
``benchmarks/results/sweep-kills.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from overlap import ROOT
from sparsight.storage import library_versions, write_text
from sparsight.sweeps import Sweep

RESULT = ROOT / "benchmarks" / "results" / "sweep-kills.json"
OPTIONS = ["scenes:60", "--augmentations", "16", "--shard", "3"]


def begin(out: Path, workers: int) -> subprocess.Popen[bytes]:
    """Start the sweep."""
    command = [sys.executable, "-m", "sparsight.cli.main", "sweep", *OPTIONS, "--out", str(out),
               "--workers", str(workers)]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ})


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Find its workers."""
    found = []
    try:
        for child in psutil.Process(process.pid).children(recursive=True):
            if "ray::_Worker" in " ".join(child.cmdline()):
                found.append(child)
    except psutil.Error:
        return found
    return found


def same(a: Sweep, b: Sweep) -> bool:
    """Whether two sweeps found the same, to the last bit."""
    drop = [name for name in a.table.column_names if name.startswith("seconds")]
    if not a.table.drop_columns(drop).equals(b.table.drop_columns(drop)):
        return False
    for number in range(len(a)):
        first, second = a.trace(number), b.trace(number)
        if not all(torch.equal(first.tensors[k], v) for k, v in second.tensors.items()):
            return False
        ours, theirs = a.maps(number), b.maps(number)
        if not all(torch.equal(ours[key], value) for key, value in theirs.items()):
            return False
        if a.picture(number).tobytes() != b.picture(number).tobytes():
            return False
    return True


def main() -> None:
    """Kill, compare, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    home = Path(tempfile.mkdtemp())
    if begin(home / "whole", 0).wait() != 0:
        raise SystemExit("the undisturbed sweep failed")
    out, done = home / "killed", 0
    kills: list[dict[str, Any]] = []
    process = begin(out, 2)
    while len(kills) < options.kills:
        former, wait = done, draw.uniform(0, 4)
        while done == former or not workers_of(process):
            if process.poll() is not None:
                raise SystemExit(f"the sweep was over after {len(kills)} kills: give more images")
            time.sleep(0.1)
            done = len(list(out.glob("shards-*/[0-9]*")))
        time.sleep(wait)
        done = len(list(out.glob("shards-*/[0-9]*")))
        if len(kills) % 2:
            draw.choice(workers_of(process)).send_signal(signal.SIGKILL)
            kills.append({"of": "worker", "shards done": done})
        else:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills.append({"of": "driver", "shards done": done})
            process = begin(out, 2)
        print(kills[-1], flush=True)
    code = process.wait()
    equal = code == 0 and same(Sweep.load(home / "whole"), Sweep.load(out))
    content = {
        "command": "python benchmarks/sweep_kills.py", "options": OPTIONS,
        "versions": library_versions(), "kills": kills, "exit code": code, "identical": equal,
    }  # fmt: skip
    write_text(RESULT, json.dumps(content, indent=1) + "\n")
    print("identical" if equal else "DIFFERENT")
    raise SystemExit(0 if equal else 1)


if __name__ == "__main__":
    main()
