"""What the comparison of federations found, as tables of the docs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "federated.md"
MEBI = 2**20
CLOSE = 0.95
TITLES = {
    "alone": "every client alone", "fedavg": "FedAvg", "fedavg, slower": "FedAvg, rate 0.03",
    "fedprox": "FedProx", "fednova": "FedNova",
    "scaffold": "SCAFFOLD", "scaffold, slower": "SCAFFOLD, rate 0.03",
    "fedper": "FedPer", "topk": "largest changes, single weights",
    "randomk": "random single weights", "spatl": "SPATL, our defaults",
    "spatl, controlled": "SPATL with gradient control",
    "spatl, forgetful": "SPATL, what is not sent is lost",
    "spatl, half down": "SPATL, half of the rows down", "spatl, head shared": "SPATL, head shared",
}  # fmt: skip
SELECTORS = {
    "spatl": "filters that moved most", "spatl, norm": "largest L2 norm",
    "spatl, random": "random filters", "spatl, gradient": "largest gradient x weight",
    "spatl, blame": "profile of blame", "spatl, agent": "agent",
    "spatl, entries": "single weights that moved most",
}  # fmt: skip


def cell(values: Iterable[float], scale: float = 100, digits: int = 1) -> str:
    """Write a mean and the spread over seeds."""
    found = [scale * value for value in values]
    if not found:
        return "–"
    spread = f" ± {stdev(found):.{digits}f}" if len(found) > 1 else ""
    return f"{mean(found):.{digits}f}{spread}"


def spent(row: dict[str, Any], name: str, target: float) -> tuple[int, float] | None:
    """Find the round, and the mebibytes until then, at which an accuracy comes to that."""
    for place, value in zip(row["rounds"], row[name], strict=True):
        if value >= target:
            return place, (sum(row["up"][:place]) + sum(row["down"][:place])) / MEBI
    return None


Seeds = dict[str, dict[str, Any]]  # rows by seed


def groups(content: dict[str, Any]) -> dict[tuple[str, float], dict[str, Seeds]]:
    """Sort rows by network and concentration, then by method, then by seed."""
    found: dict[tuple[str, float], dict[str, Seeds]] = {}
    for title, row in content["rows"].items():
        network, alpha, seed, method = title.split("|")
        found.setdefault((network, float(alpha)), {}).setdefault(method, {})[seed] = row
    return found


def _until(rows: Seeds, name: str, like: Seeds) -> str:
    """Say what it took to come close to the end of another algorithm with the same seed."""
    both = [(row, like[seed]) for seed, row in rows.items() if seed in like]
    found = [spent(row, name, CLOSE * other[name][-1]) for row, other in both]
    got = [one for one in found if one is not None]
    if not got:
        return "–"
    rest = f" ({len(got)} of {len(found)})" if len(got) < len(found) else ""
    return f"{cell((one[1] for one in got), 1)} in {mean(one[0] for one in got):.0f}{rest}"


def _line(title: str, own: Seeds, methods: dict[str, Seeds]) -> str:
    rows = list(own.values())
    ends = [_until(own, name, methods.get(like, {})) for name, like in ENDS]
    shares = [cell(row[name][-1] for row in rows) for name in ("local", "least", "global")]
    lost = sum(row["diverged"] or row.get("failed", 0) > 0 for row in rows)
    ways = [
        f"{mean(sum(row[way]) / len(row[way]) for row in rows) / MEBI:.2f}"
        for way in ("up", "down")
    ]
    name = f"{title} (clients diverged: {lost})" if lost else title
    cells = [name, str(len(rows)), *shares, *ways, *ends]
    return "| " + " | ".join(cells) + " |"


ENDS = (("global", "fedavg"), ("local", "fedavg"), ("local", "fedper"))
HEAD = (
    "| algorithm | seeds | own | worst client | all | MiB up a round | down | MiB in rounds to "
    "FedAvg's end on all | on own | to FedPer's end on own |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def table(content: dict[str, Any]) -> str:
    """Render what was found as Markdown, a table for each network and concentration."""
    parts: list[str] = []
    for (network, alpha), methods in sorted(groups(content).items(), key=lambda item: item[0]):
        some = [row for rows in methods.values() for row in rows.values()]
        unlike = mean(row["distance"] for row in some)
        common = mean(row["commonest"] for row in some)
        parts += [
            f"**{network}, concentration {alpha:g}** (clients differ from all images together by "
            f"{100 * unlike:.0f} % of theirs; always answering with a client's commonest class "
            f"would be right {100 * common:.0f} % of the time)", "", HEAD,
        ]  # fmt: skip
        parts += [
            _line(title, methods[name], methods) for name, title in TITLES.items()
            if name in methods
        ]  # fmt: skip
        parts.append("")
    return "\n".join(parts)


def frontier(content: dict[str, Any]) -> str:
    """Render what selectors are worth."""
    methods = groups(content).get(("simple_cnn", 0.5), {})
    lines = [
        _line(title, methods[name], methods) for name, title in SELECTORS.items()
        if name in methods
    ]  # fmt: skip
    return "\n".join([HEAD.replace("algorithm", "what is sent", 1), *lines, ""])
