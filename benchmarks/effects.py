"""What the approximations of the default solver do to answers and maps, one option at a time.

    python benchmarks/effects.py [--networks embedded resnet20] [--images 16]

Every row changes one option of the default trace. Measured as in ``curves.py``, on other images
than the defaults were chosen on. Rows are kept in ``benchmarks/results/effects.json`` as soon as
they are measured; the table goes to ``docs/explanation/compensation.md``.
"""

from __future__ import annotations

import argparse
from typing import Any

from curves import ROOT, cell, collect, dense_rows, judge, questions, summarise
from sparsight.traces import Augmentation, trace
from tables import Rows, write_table

RESULT = ROOT / "benchmarks" / "results" / "effects.json"
PAGE = ROOT / "docs" / "explanation" / "compensation.md"

EVERY = 10**6  # more positions than there are
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "positions 64": {"positions": 64},
    "positions 1024": {"positions": 1024},
    "positions 4096": {"positions": 4096},
    "every position": {"positions": EVERY},
    "gradients 1": {"gradients": 1},
    "gradients 4": {"gradients": 4},
    "gradients of all images": {"gradients": EVERY},
    "refitted 16": {"refitted": 16},
    "refitted 32": {"refitted": 32},
    "refitted 512": {"refitted": 512},
    "every weight refitted": {"refitted": EVERY},
    "damping 0.03": {"damping": 0.03},
    "damping 1": {"damping": 1.0},
    "auto:0.001": {"sparsity": "auto:0.001"},
    "auto:0.1": {"sparsity": "auto:0.1"},
    "precision bfloat16": {"precision": "bfloat16"},
    "augmentations 8": {"augmentations": 8},
    "augmentations 16": {"augmentations": 16},
    "augmentations 32": {"augmentations": 32},
    "hidden 0.4": {"augmentations": Augmentation(count=64, hidden=0.4)},
    "hidden 0.75": {"augmentations": Augmentation(count=64, hidden=0.75)},
    "focus 0": {"focus": 0.0},
    "focus 0.25": {"focus": 0.25},
    "focus 0.75": {"focus": 0.75},
    "focus 1": {"focus": 1.0},
}


def table(rows: list[dict[str, Any]]) -> str:
    """Render rows as Markdown."""
    lines = [
        "| network | option | images | answer kept | median KL, nats | kept on fresh views "
        "| KL there, nats | sticker AUC |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        medians = row["medians"]
        lines.append(
            f"| `{row['network']}` | {row['solver']} | {row['images']} "
            f"| {cell(row, 'kept', '.0%')} "
            f"| {medians['kl']:.4f} | {cell(row, 'views_kept', '.0%')} "
            f"| {cell(row, 'views_kl', '.2f')} | {cell(row, 'sticker_auc', '.1%')} |"
            if "kl" in medians
            else f"| `{row['network']}` | {row['solver']} | {row['images']} | | | | "
            f"| {cell(row, 'sticker_auc', '.1%')} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, write results and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=["embedded", "resnet20"])
    parser.add_argument("--images", type=int, default=16)
    arguments = parser.parse_args()
    measured = Rows(RESULT, "make effects")
    done = {(row["network"], row["solver"]) for row in measured.all}

    def keep(row: dict[str, Any]) -> None:
        measured.keep(row)
        print(row["network"], row["solver"], row["medians"], flush=True)

    for name in arguments.networks:
        found = questions(name, arguments.images)
        if found is None:
            print(f"{name}: no data beside the checkout")
            continue
        network, asked = found
        if name == "embedded" and (name, "dense") not in done:
            for title, values in dense_rows(network, asked).items():
                keep(summarise(name, title, "none", {"sticker_auc": values}))
        for title, options in VARIANTS.items():
            if (name, title) not in done:
                rows = [
                    judge(network, question, trace(network, question.image, seed=i, **options))
                    for i, question in enumerate(asked)
                ]
                keep(summarise(name, title, "auto", collect(rows)))
    order: list[Any] = ["dense", "random map", "centre map", "edge map", *VARIANTS]
    rows = sorted(measured.all, key=lambda r: (r["network"], order.index(r["solver"])))
    write_table(PAGE, table(rows))


if __name__ == "__main__":
    main()
