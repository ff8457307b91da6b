"""What a sweep of ImageNet's validation images through ResNet-18 says as a whole.

    python benchmarks/sweep_study.py [--sweep build/sweep-resnet18]

Reads a sweep (``make sweep`` makes it) and writes ``benchmarks/results/sweep-resnet18.json``: right
answers and answers that traces change, sparsity against mistakes, how far traces agree within and
across classes with intervals, which images of different classes agree most, what each stage and
file costs. Draws ``docs/images/sweep.png``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from overlap import ROOT
from sparsight.gallery import case_of
from sparsight.reports import render_page
from sparsight.storage import write_text
from sparsight.sweeps import Sweep, overlaps
from sparsight.sweeps.findings import Estimate, findings
from tables import stages

RESULT = ROOT / "benchmarks" / "results" / "sweep-resnet18.json"
PICTURE = ROOT / "docs" / "images" / "sweep.png"
DRAWS = 1000


def interval(of: Any, count: int, seed: int = 0) -> dict[str, float]:
    """Mean over weights of images, and its interval, by the bootstrap over images."""
    rng = np.random.default_rng(seed)
    drawn = [of(np.bincount(rng.integers(0, count, count), minlength=count)) for _ in range(DRAWS)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return {"value": float(of(np.ones(count, int))), "low": float(low), "high": float(high)}


def agreement(corrected: Tensor, same: np.ndarray) -> dict[str, Any]:
    """Mean overlap beyond chance of pairs of one kind, and of all other pairs."""
    values = corrected.numpy()
    off = ~np.eye(len(values), dtype=bool)
    found = {}
    for name, pairs in (("within", same & off), ("across", ~same & off)):
        kind = np.where(pairs, values, 0.0)

        def mean(counts: np.ndarray, kind: np.ndarray = kind, pairs: np.ndarray = pairs) -> float:
            total = counts @ pairs @ counts
            return float(counts @ kind @ counts / total) if total else float("nan")

        found[name] = {**interval(mean, len(values)), "pairs": int(pairs.sum()) // 2}
    return found


def closest(corrected: Tensor, rows: list[dict[str, Any]], count: int = 10) -> list[dict[str, Any]]:
    """List the pairs with different answers and different labels whose traces agree most."""
    values = corrected.clone()
    for key in ("prediction", "label"):
        own = torch.tensor([row[key] for row in rows])
        values[own == own[:, None]] = -1
    values = values.triu(1)
    found = []
    for place in values.flatten().topk(count).indices.tolist():
        a, b = divmod(place, len(rows))
        found.append(
            {
                "overlap": float(values[a, b]),
                "images": [Path(rows[i]["name"]).name for i in (a, b)],
                "answers": [rows[i]["prediction_name"] for i in (a, b)],
            }
        )
    return found


def cost(found: Sweep, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Say what an image takes: seconds of a worker, bytes by file."""
    stages = [key for key in rows[0] if key.startswith("seconds.")]
    sizes: dict[str, int] = {}
    for file in found.folder.glob("shards-*/*/*.*"):
        if file.is_file():
            sizes[file.name] = sizes.get(file.name, 0) + file.stat().st_size
    return {
        "median seconds": {s: float(np.median([row[s] for row in rows])) for s in stages},
        "bytes an image": {name: round(size / len(rows)) for name, size in sorted(sizes.items())},
        "bytes of a case file": round(
            np.mean(
                [
                    len(render_page(case_of(found, row["number"]), alone=True).encode())
                    for row in rows[:20]
                ]
            )
        ),
        "bytes of the table": round((found.folder / "table.parquet").stat().st_size / len(rows)),
    }


def draw(corrected: Tensor, same: np.ndarray, rows: list[dict[str, Any]]) -> None:
    """Draw overlaps within and across classes, and sparsity of right and wrong answers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    upper = np.triu(np.ones_like(same), 1).astype(bool)
    values = corrected.numpy()
    bins = np.linspace(0, float(values[upper].max()), 60)
    for pairs, name in ((same & upper, "same class"), (~same & upper, "other classes")):
        left.hist(values[pairs], bins, density=True, alpha=0.6, label=name)
    left.set_xlabel("overlap of two traces beyond chance")
    left.set_ylabel("density of pairs")
    left.legend(frameon=False)
    for wrong, name in ((False, "right"), (True, "wrong")):
        chosen = [row for row in rows if row["wrong"] == wrong]
        right.scatter([row["sparsity"] for row in chosen], [row["confidence"] for row in chosen],
                      s=6, alpha=0.6, label=name)  # fmt: skip
    right.set_xlabel("share of weights that the trace removes")
    right.set_ylabel("confidence")
    right.legend(frameon=False, title="answer")
    figure.savefig(PICTURE, dpi=140)


def main() -> None:
    """Measure, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", type=Path, default=ROOT / "build" / "sweep-resnet18")
    options = parser.parse_args()
    found = Sweep.load(options.sweep)
    rows = [row for row in found.table.to_pylist() if row["problem"] is None]
    with stages() as progress:
        together = overlaps(found, progress=progress)
    corrected = together.corrected
    labels = np.array([row["label"] for row in rows])
    answers = np.array([row["prediction"] for row in rows])
    same = labels == labels[:, None]
    told = findings(found)
    doubted = []
    for row in rows:
        unseen = found.trace(row["number"], weights=False).settings["held_out"]
        row |= {"held out agree": unseen["agree"], "held out kl": unseen["kl"]}
        if unseen["agree"] == 0:
            doubted.append(
                {
                    "image": Path(row["name"]).name, "label": row["label_name"],
                    "answer": row["prediction_name"], "confidence": row["confidence"],
                    "kl": unseen["kl"],
                }
            )  # fmt: skip
    wrong = np.array([row["wrong"] for row in rows])
    agree = np.array([row["held out agree"] for row in rows])
    told |= {
        "held-out views answered alike": Estimate.mean(agree),
        "the same, of right answers": Estimate.mean(agree[~wrong]),
        "the same, of wrong answers": Estimate.mean(agree[wrong]),
        "mistakes told by held-out views": Estimate.area(-agree, wrong),
    }
    content = {
        "command": "python benchmarks/sweep_study.py",
        "network": found.about["network"],
        "settings": found.about["settings"],
        "versions": found.about["versions"],
        "findings": {k: asdict(v) if isinstance(v, Estimate) else v for k, v in told.items()},
        "overlap by label": agreement(corrected, same),
        "overlap by answer": agreement(corrected, answers == answers[:, None]),
        "closest of other classes": closest(corrected, rows),
        "no held-out view answered alike": doubted,
        "sparsity": {
            name: float(np.quantile([row["sparsity"] for row in rows], share))
            for name, share in (("least", 0.0), ("5 %", 0.05), ("median", 0.5), ("95 %", 0.95))
        },
        "kl": {
            name: float(np.quantile([row["kl"] for row in rows], share))
            for name, share in (("median", 0.5), ("95 %", 0.95), ("largest", 1.0))
        },
        "cost": cost(found, rows),
    }  # fmt: skip
    write_text(RESULT, json.dumps(content, indent=1) + "\n")
    draw(corrected, same, rows)


if __name__ == "__main__":
    main()
