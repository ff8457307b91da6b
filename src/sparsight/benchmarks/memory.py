"""Peak memory of one trace, in a process that does nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from sparsight.benchmarks.speed import noise_image
from sparsight.errors import InputError, SparsightError
from sparsight.networks import load, open_image
from sparsight.traces import DEFAULT_SPARSITY, Sparsity, trace

__all__ = ["main", "peak_memory"]

_CHILD = "from sparsight.benchmarks.memory import main; main()"


def peak_memory(
    spec: str,
    *,
    weights: str | Path | None = None,
    image: str | Path | None = None,
    device: str = "cpu",
    sparsity: Sparsity = DEFAULT_SPARSITY,
    augmentations: int = 64,
    seed: int = 0,
) -> dict[str, float]:
    """Measure what a trace takes at most, libraries and network included.

    Parameters
    ----------
    spec, weights, device
        As for :func:`sparsight.load`.
    image
        A path; noise by default.
    sparsity, augmentations, seed
        As for :func:`sparsight.trace`.

    Returns
    -------
    dict
        GiB by place: ``process`` is resident memory, ``device`` what tensors took on a GPU.
        Nothing on a system that keeps no such account.

    Raises
    ------
    InputError
        If the process fails, with its reason.

    Examples
    --------
    >>> list(peak_memory("embedded", augmentations=2))
    ['process']
    """
    if os.name == "nt":
        return {}
    options = {
        "spec": spec,
        "weights": weights and str(weights),
        "image": image and str(image),
        "device": device,
        "sparsity": dict(sparsity) if isinstance(sparsity, Mapping) else sparsity,
        "augmentations": augmentations,
        "seed": seed,
    }
    command = [sys.executable, "-c", _CHILD, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode < 0:
        raise InputError(
            f"a trace in a process of its own was stopped by signal {-done.returncode}, as for "
            "lack of memory: take fewer augmentations, or a smaller network"
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise InputError(f"a trace in a process of its own failed: {reason}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Make the trace that the last argument describes, and print the process's peak memory."""
    import resource

    options = json.loads(sys.argv[-1])
    torch.manual_seed(options["seed"])  # for random weights
    try:
        network = load(options["spec"], weights=options["weights"], device=options["device"])
        image = open_image(options["image"]) if options["image"] else noise_image()
        wanted = {name: options[name] for name in ("sparsity", "augmentations", "seed")}
        trace(network, image, **wanted)
    except (SparsightError, torch.OutOfMemoryError) as error:
        sys.exit(str(error))
    unit = 2**30 if sys.platform == "darwin" else 2**20
    found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    if network.device.type == "cuda":
        found["device"] = torch.cuda.max_memory_allocated(network.device) / 2**30
    sys.stdout.write(json.dumps(found) + "\n")
