"""``sparsight models``: where networks come from, and what of one is covered."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Annotated, Any

import typer

from sparsight.cli import options as shared
from sparsight.cli.display import Display, emit_json
from sparsight.errors import InputError

__all__ = ["models"]


def models(
    spec: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Show what of this network is covered."),
    ] = None,
    weights: shared.WeightsOption = None,
    labels: shared.LabelsOption = None,
    device: shared.DeviceOption = "cpu",
    as_json: shared.JsonOption = False,
) -> None:
    """Which networks load, and which weights of a network are covered.

    Without --weights the network stays untrained: coverage does not depend on them.
    """
    from sparsight.cli.tables import coverage_table, sources_table
    from sparsight.networks import load
    from sparsight.networks.coverage import coverage

    if spec is None and (weights or labels):
        raise InputError("--weights and --labels need a MODEL to belong to: name one")
    with Display(quiet=as_json) as display:
        if spec is None:
            rows = _sources()
            content: dict[str, Any] = {"sources": rows}
            table: Any = sources_table(rows)
        else:
            network = load(spec, weights=weights or "random", labels=labels, device=device)
            found = coverage(network)
            content, table = found.describe(), coverage_table(found)
        if as_json:
            emit_json(content)
        else:
            with display.aside() as console:
                console.print(table)


def _sources() -> list[dict[str, Any]]:
    rows = [
        ("embedded", "the network that ships with Sparsight", "sparsight", ""),
        ("torchvision:NAME", "torchvision's classifiers", "torchvision", ""),
        ("timm:NAME", "PyTorch Image Models", "timm", ""),
        ("hf:ID_OR_FOLDER", "Hugging Face image classifiers", "transformers", "sparsight[hf]"),
        ("path/file.py:function", "your own code", "sparsight", ""),
    ]
    return [_source(*row) for row in rows]


def _source(spec: str, source: str, library: str, extra: str) -> dict[str, Any]:
    try:
        installed: str | None = version(library)
        remedy = ""
    except PackageNotFoundError:
        installed, remedy = None, f"pip install {extra or library}"
    if spec == "embedded":
        weights = files("sparsight.networks") / "embedded" / "weights.safetensors"
        if not weights.is_file():
            installed, remedy = None, "weights are missing: install sparsight again"
    return {
        "spec": spec,
        "source": source,
        "library": library,
        "version": installed,
        "ready": installed is not None,
        "remedy": remedy,
    }
