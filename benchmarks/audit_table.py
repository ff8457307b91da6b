"""Write what was measured of audits into the docs.

python benchmarks/audit_table.py
"""

from __future__ import annotations

import json
from typing import Any

from audit_study import RESULT, TRACED
from overlap import ROOT
from tables import as_table, interval, write_table

PAGE = ROOT / "docs" / "explanation" / "audit.md"
ROLES = {
    "report": "scenes, a Trojan for all classes",
    "one class": "scenes, a Trojan for one class",
    "cifar": "CIFAR-10, somebody else's back door",
}


def scores(found: dict[str, Any]) -> dict[str, str]:
    """Name the scores that are shown: of patches, those of the chosen side."""
    side = found["calibration"]["side"]
    kept = {}
    for name in found["auc"]:
        words, _, size = name.rpartition(", ")
        if not words or size == str(side):
            kept[name] = words or name
    first = f"{TRACED}, {side}"
    return {first: f"**{kept.pop(first)}**"} | kept


def images(found: dict[str, Any]) -> str:
    """Say how well images on which a Trojan acts are told."""
    rows = []
    for score, title in scores(found).items():
        flagged = found["images flagged"][score]
        rows.append([title, interval(found["auc"][score]), *(
            interval(flagged[kind]) for kind in ("trojan acts", "no trigger", "clean networks")
        )])  # fmt: skip
    head = ["score", "area under the curve", "flagged: Trojan acts", "no trigger", "clean networks"]
    return as_table(head, rows)


def others(found: dict[str, Any]) -> str:
    """Say the areas on networks of other kinds."""
    rows = []
    for score, title in scores(found).items():
        cells = (found[f"auc, {role}"].get(score, []) for role in ("one class", "cifar"))
        rows.append([title, *(", ".join(f"{value:.3f}" for value in cell) for cell in cells)])
    return as_table(["area under the curve", "one class (two networks)", "CIFAR-10"], rows)


def networks(found: dict[str, Any]) -> str:
    """Say what is said of networks."""
    rows = []
    for role, title in ROLES.items():
        for method, counts in found["classes"][role].items():
            cells = [f"{c['hits']} of {c['of']}" for c in counts.values()]
            rows.append([title, method, *cells])
    head = ["networks", "method", "target found", "another class, too", "clean, called suspicious"]
    return as_table(head, rows)


def main() -> None:
    """Write the tables."""
    found = json.loads(RESULT.read_text("utf-8"))
    for name, made in (("images", images), ("others", others), ("networks", networks)):
        write_table(PAGE, made(found), name)


if __name__ == "__main__":
    main()
