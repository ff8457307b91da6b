"""Measure which share of a network's weight matrices a trace reaches, over architectures.

    python benchmarks/coverage.py [SPEC ...]

Builds each network with random weights, asks :func:`sparsight.networks.coverage.coverage`, and
compares the answers to two random images with and without a recording. Writes
``benchmarks/results/coverage.json`` and the table in ``docs/coverage.md``. With specs on the
command line it prints their rows and writes nothing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import sparsight
from sparsight.networks import LayerCall, Network, Recording, WeightMatrix, weight_matrices
from sparsight.networks.coverage import coverage
from sparsight.storage import library_versions
from tables import write_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "coverage.json"
PAGE = ROOT / "docs" / "coverage.md"
COMMAND = "python benchmarks/coverage.py"

SPECS = (
    "torchvision:resnet18",
    "torchvision:resnet50",
    "torchvision:vgg16",
    "torchvision:densenet121",
    "torchvision:mobilenet_v2",
    "torchvision:efficientnet_b0",
    "torchvision:convnext_tiny",
    "torchvision:vit_b_16",
    "torchvision:swin_t",
    "timm:resnet18",
    "timm:vit_tiny_patch16_224",
    "timm:convnext_tiny",
)
CONFIGS = ("ViTConfig", "ResNetConfig")
"""Classes of Hugging Face configurations; each is written to a folder and loaded from there."""


def measure(name: str, network: Network) -> dict[str, Any]:
    """One row: what the network owns, what was seen, and whether watching changed the answer."""
    generator = torch.Generator().manual_seed(0)
    channels, size = network.preprocessing.channels, network.preprocessing.size
    x = torch.randn(2, channels, *size, generator=generator)
    matrices = weight_matrices(network.model)
    seen: dict[str, WeightMatrix] = {}

    def see(call: LayerCall) -> None:
        seen.setdefault(call.matrix.name, call.matrix)

    with torch.no_grad():
        plain = network(x)
        with Recording(network.model, matrices, see):
            watched = network(x)
    found = coverage(network)
    return {
        "network": name,
        "parameters": sum(p.numel() for p in network.model.parameters()),
        "weights": found.total,
        "reached": found.covered,
        "share": found.share,
        "uncovered": found.describe()["uncovered"],
        "kinds": dict(Counter(_kind(m) for m in seen.values())),
        "stem": next(iter(seen)),
        "bit_identical": torch.equal(plain, watched),
        "largest_difference": float((plain - watched).abs().max()),
    }


def _kind(matrix: WeightMatrix) -> str:
    if matrix.kind == "conv" and matrix.groups > 1:
        return "depthwise" if matrix.rows == 1 else "grouped"
    if matrix.kind == "conv":
        return "conv 1x1" if matrix.block == 1 else "conv"
    return {"linear": "linear", "in_projection": "attention"}.get(matrix.kind, "linear")


def networks(specs: tuple[str, ...]) -> Iterator[tuple[str, Network]]:
    """Build each network, one at a time."""
    for spec in specs:
        torch.manual_seed(0)
        yield spec, sparsight.load(spec, weights="random")


def configured() -> Iterator[tuple[str, Network]]:
    """Build the Hugging Face networks from configurations in a folder."""
    import transformers

    for name in CONFIGS:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            getattr(transformers, name)().save_pretrained(folder)
            yield f"hf: {name}()", sparsight.load(f"hf:{folder}", weights="random")


def table(rows: list[dict[str, Any]]) -> str:
    """Render the rows as Markdown."""
    lines = [
        "| network | parameters | in weight matrices | reached | matrices | logits, watched |",
        "|---|---:|---:|---:|---|---|",
    ]
    for row in rows:
        kinds = ", ".join(f"{count} {kind}" for kind, count in row["kinds"].items())
        same = (
            "bit-identical"
            if row["bit_identical"]
            else f"differ by {row['largest_difference']:.0e} at most"
        )
        lines.append(
            f"| `{row['network']}` | {row['parameters'] / 1e6:.2f} M "
            f"| {row['weights'] / 1e6:.2f} M | {row['share']:.2%} | {kinds} | {same} |"
        )
    return "\n".join(lines)


def main(specs: tuple[str, ...]) -> None:
    """Measure, and write the results unless single networks were asked for."""
    rows = []
    for source in (networks(specs or SPECS), iter(()) if specs else configured()):
        for name, network in source:
            rows.append(measure(name, network))
            missed = [layer["name"] for layer in rows[-1]["uncovered"]]
            print(f"{name}: {rows[-1]['share']:.2%}, missed {missed or 'nothing'}")
    if specs:
        print(table(rows))
        return
    result = {"command": COMMAND, "versions": library_versions(), "rows": rows}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_table(PAGE, table(rows))


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
