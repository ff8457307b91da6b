"""Write what was measured of sweeps into the docs.

python benchmarks/sweep_table.py
"""

from __future__ import annotations

import json
from typing import Any

from overlap import ROOT
from tables import as_table, interval, write_table

RESULTS = ROOT / "benchmarks" / "results"
IMAGES, NODES, CORES, GPUS = 50_000, 64, 16, 8
GIB = 2**30


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return found


def costs(study: dict[str, Any]) -> str:
    """Say what an image takes."""
    seconds = study["cost"]["median seconds"]
    rows = [[f"`{k.removeprefix('seconds.')}`", f"{v:.3f} s"] for k, v in seconds.items()]
    sizes = study["cost"]["bytes an image"] | {
        "table.parquet": study["cost"]["bytes of the table"],
        "a case file of the gallery": study["cost"]["bytes of a case file"],
    }
    rows += [[f"`{name}`", f"{size / 1024:.1f} KiB"] for name, size in sizes.items()]
    return as_table(["of each image", "one thread, or on disk"], rows)


def engine(speed: dict[str, Any]) -> str:
    """Say what workers are worth."""
    rows = [[name, f"{value:.2f}"] for name, value in speed["ratios"].items()]
    return as_table(["ratio of seconds, medians", ""], rows)


def plan(study: dict[str, Any], speed: dict[str, Any]) -> str:
    """Work out fifty thousand images on a cluster of processors."""
    seconds = sum(study["cost"]["median seconds"].values())
    kept = sum(study["cost"]["bytes an image"].values())
    workers = NODES * CORES
    gib = speed["most GiB of a worker"]
    read = 130e3  # bytes of an image of the data set
    hours = IMAGES * seconds / workers / 3600
    rate = IMAGES / (hours * 3600)
    rows = [
        ["work", f"{IMAGES * seconds / 3600:.0f} hours of one core"],
        ["time", f"{60 * hours:.0f} minutes, {rate:.0f} images a second"],
        ["memory", f"{CORES * gib:.0f} GiB a node, {gib:.1f} GiB a worker"],
        ["storage", f"{IMAGES * kept / GIB:.0f} GiB with everything kept"],
        ["written", f"{rate * kept / 2**20:.0f} MiB/s in files of sixteen images"],
        ["read", f"{rate * read / 2**20:.0f} MiB/s of JPEG"],
    ]
    return as_table([f"{NODES} nodes of {CORES} cores", ""], rows)


def found(study: dict[str, Any]) -> str:
    """Say what the sweep found."""
    told = study["findings"]
    rows = [["images", str(told["images"])], ["unusable", str(told["unusable"])]]
    rows += [[n, interval(v)] for n, v in told.items() if isinstance(v, dict)]
    for kind in ("label", "answer"):
        own = study[f"overlap by {kind}"]
        for name in ("within", "across"):
            words = f"overlap beyond chance, {name} one {kind}" if name == "within" else (
                f"overlap beyond chance, of two {kind}s"
            )  # fmt: skip
            rows.append([f"{words} ({own[name]['pairs']} pairs)", interval(own[name])])
    return as_table(["", "value, 95 % interval"], rows)


def doubted(study: dict[str, Any]) -> str:
    """List the images of which no held-out view is answered alike."""
    found = study["no held-out view answered alike"]
    rows = [
        [f"`{one['image']}`", one["label"], one["answer"], f"{one['confidence']:.0%}",
         f"{one['kl']:.2g}"]
        for one in sorted(found, key=lambda one: -one["confidence"])
    ]  # fmt: skip
    return as_table(["image", "label", "answer", "confidence", "KL on these views, nats"], rows)


def main() -> None:
    """Write the tables."""
    study, speed = _read("sweep-resnet18"), _read("sweep-speed")
    page = ROOT / "docs" / "scale.md"
    for name, table in (
        ("costs", costs(study)), ("engine", engine(speed)), ("plan", plan(study, speed)),
        ("found", found(study)), ("doubted", doubted(study)),
    ):  # fmt: skip
        write_table(page, table, name)


if __name__ == "__main__":
    main()
