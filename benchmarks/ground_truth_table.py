"""Write the tables of ``docs/explanation/ground-truth.md`` from the results that are committed.

python benchmarks/ground_truth_table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tables import write_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "explanation" / "ground-truth.md"
FOUND = {
    "trojans-embedded": "scenes, embedded network, stickers",
    "trojans-resnet18-any": "photographs, ResNet-18, stickers",
    "trojans-resnet18-any-fastspade": "photographs, ResNet-18, stickers; no LIME, no occlusion",
    "trojans-resnet18-any-views": "photographs, ResNet-18, stickers; LIME and occlusion",
    "trojans-resnet50-any": "photographs, ResNet-50, stickers; no LIME, no occlusion",
    "trojans-resnet50-any-perturbed": "photographs, ResNet-50, stickers; LIME and occlusion",
    "maps-wrn16_1_backdoored": "CIFAR-10, WideResNet-16-1, somebody else's checker",
    "maps-resnet18-objects": "photographs, ResNet-18, objects",
    "maps-resnet18-objects-sum_abs": "photographs, ResNet-18, objects; absolute values",
    "maps-resnet18-objects-views": "photographs, ResNet-18, objects; LIME and occlusion",
    "maps-resnet50-objects": "photographs, ResNet-50, objects",
    "maps-resnet50-objects-sum_abs": "photographs, ResNet-50, objects; absolute values",
    "maps-mobilenet_v2-objects": "photographs, MobileNet-V2, objects",
    "maps-mobilenet_v2-objects-sum_abs": "photographs, MobileNet-V2, objects; absolute values",
    "maps-resnet20": "CIFAR-10, ResNet-20",
    "maps-resnet56": "CIFAR-10, ResNet-56",
    "maps-vit_encoder": "CIFAR-10, ViT",
    "maps-vit_timm_layout": "CIFAR-10, weak ViT",
}
TITLES = {"resnet18": "ResNet-18", "resnet50": "ResNet-50", "mobilenet_v2": "MobileNet-V2"}
ARMS = {
    "trace": "",
    "trace:sparsity=network:0.5": "; half of the weights",
    "trace:focus=0": "; the image one view of many",
    "trace:focus=0+hidden=0.75": "; the image one view of many, parts hidden",
    "fastspade": "; FastSPADE",
}
METRICS = {  # title, and the sign of what is better
    "roc_auc": ("ROC-AUC", 1),
    "pointing_game": ("Pointing game", 1),
    "insertion": ("Insertion", 1),
    "deletion": ("Deletion", -1),
}


def percent(estimate: dict[str, float]) -> str:
    """Write an estimate with its interval."""
    low, high = 100 * estimate["low"], 100 * estimate["high"]
    return f"{100 * estimate['value']:.1f} [{low:.1f}, {high:.1f}]"


def rows(metric: str, sign: int) -> list[str]:
    """Render what was found of a metric, an experiment a row."""
    lines = [
        "| images, network, place | images | dense | trace | gap closed, % | methods better, worse "
        "| random, centre, edges |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, title in FOUND.items():
        file = RESULTS / name / "summary.json"
        if not file.is_file():
            continue
        summary: dict[str, Any] = json.loads(file.read_text())["metrics"].get(metric)
        if not summary:
            continue
        means = summary["means"]
        blind = ", ".join(
            f"{100 * means['blind'][k]['value']:.1f}" for k in ("random", "centre", "edge")
        )
        for arm, more in ARMS.items():
            if arm not in means:
                continue
            gains = [
                sign * gain["value"]
                for method, gain in summary["differences"][arm].items()
                if method != "mean"
            ]
            closed = summary["closed"].get(arm)
            lines.append(
                f"| {title}{more} | {summary['cases']} | {percent(means['dense']['mean'])} "
                f"| {percent(means[arm]['mean'])} | {percent(closed) if closed else ''} "
                f"| {sum(g > 0 for g in gains)}, {sum(g < -0.005 for g in gains)} of {len(gains)} "
                f"| {blind} |"
            )
    return lines


def as_published(name: str) -> list[str]:
    """Render a network with the better channel reduction by method and arm, as SPADE was judged."""
    signed, absolute = (
        json.loads((RESULTS / f"maps-{name}-objects{more}" / "summary.json").read_text())["metrics"]
        for more in ("", "-sum_abs")
    )
    lines = []
    for metric, (title, sign) in METRICS.items():
        arms = []
        for arm in ("dense", "trace"):
            found = dict(signed[metric]["means"][arm])
            del found["mean"]
            for method, estimate in absolute[metric]["means"][arm].items():
                if method != "mean":
                    found[method] = max(
                        found[method], estimate, key=lambda e: sign * float(e["value"])
                    )
            arms.append({method: sign * float(e["value"]) for method, e in found.items()})
        dense, trace = arms
        gains = [trace[method] - dense[method] for method in dense]
        means = [100 * sign * sum(arm.values()) / len(arm) for arm in arms]
        cells = [
            TITLES[name], title, f"{signed[metric]['cases']}", *(f"{mean:.1f}" for mean in means),
            f"{sum(g > 0 for g in gains)}, {sum(g < -0.005 for g in gains)} of {len(gains)}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Write the tables."""
    parts = []
    for metric, (title, sign) in METRICS.items():
        found = rows(metric, sign)
        if len(found) > 2:
            better = "higher" if sign > 0 else "lower"
            parts += [f"**{title}**, {better} is better, in %:", "\n".join(found)]
    write_table(PAGE, "\n\n".join(parts))
    lines = [
        "| network | metric | images | dense | trace | methods better, worse |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name in TITLES:
        lines += as_published(name)
    write_table(PAGE, "\n".join(lines), "published")


if __name__ == "__main__":
    main()
