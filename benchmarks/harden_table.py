"""What the comparison of ways to prune under attack found, as a table of the docs."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "robust.md"
ATTACKS = ("clean", "pgd10", "cw", "autoattack")
TITLES = {
    "dense": "nothing pruned", "harp": "HARP", "scores": "scores at uniform rates",
    "uniform": "magnitude, layer by layer", "global": "magnitude, all layers",
    "harp-gamma-1": "HARP, gamma as published",
    "harp-gradient": "HARP, scores begin with gradients",
    "harp-traces": "HARP, scores begin with traces",
}  # fmt: skip


def cell(values: list[float]) -> str:
    """Write a mean and the spread over seeds."""
    if not values:
        return "–"
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread}"


def table(content: dict[str, Any]) -> str:
    """Render what was found as Markdown."""
    groups: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for title, row in content["rows"].items():
        method, *rest = title.split("|")
        groups.setdefault((float(rest[0]) if len(rest) > 1 else 1.0, method), []).append(row)
    parts = [
        "| kept | method | seeds | right | under PGD-10 | under C&W | under AutoAttack | "
        "budget met by the rates |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    order = list(TITLES)
    for (target, method), rows in sorted(
        groups.items(), key=lambda item: (-item[0][0], order.index(item[0][1]))
    ):
        shares = [cell([row[name]["accuracy"] for row in rows if name in row]) for name in ATTACKS]
        met = "–"
        if method.startswith("harp"):
            met = f"{sum(row['reached'] for row in rows)} of {len(rows)}"
        parts.append(
            f"| {100 * target:g} % | {TITLES[method]} | {len(rows)} | " + " | ".join(shares)
            + f" | {met} |"
        )  # fmt: skip
    return "\n".join([*parts, ""])
