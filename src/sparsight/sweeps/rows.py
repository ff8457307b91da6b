"""The table of a sweep: its columns, and an image's row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sparsight.errors import InputError
from sparsight.networks import Network, weight_matrices
from sparsight.sweeps.measures import MEASURES
from sparsight.sweeps.settings import SweepSettings
from sparsight.traces import Trace

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Noted",
    "answer",
    "arrow",
    "blame_columns",
    "columns",
    "note",
    "noted_in",
    "parquet",
    "table",
    "traced",
]

Noted = list[tuple[str, str]]

_TOP = 5
_IMAGES = "sparsight.images"


def arrow() -> Any:
    """Import pyarrow.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise InputError("a sweep's table needs pyarrow: pip install 'sparsight[sweep]'") from error
    return pyarrow


def parquet() -> Any:
    """Import pyarrow's part for Parquet files.

    Raises
    ------
    InputError
        If it is not installed.
    """
    arrow()
    import pyarrow.parquet

    return pyarrow.parquet


def columns(network: Network, settings: SweepSettings) -> pa.Schema:
    """List the columns of the table, with their types.

    Parameters
    ----------
    network
        Whose layers there are columns of.
    settings
        What is done.
    """
    pa = arrow()
    number, text, whole, flag = pa.float64(), pa.string(), pa.int32(), pa.bool_()
    found = {
        "number": whole, "name": text, "problem": text, "label": whole, "label_name": text,
        "prediction": whole, "prediction_name": text, "confidence": number, "margin": number,
        "label_confidence": number, "wrong": flag, "top_classes": pa.list_(whole),
        "top_confidences": pa.list_(number),
    }  # fmt: skip
    if "trace" in settings.do:
        found |= {
            "traced_prediction": whole, "traced_name": text, "traced_confidence": number,
            "changed": flag, "kl": number, "sparsity": number, "held_out_agree": number,
            "held_out_kl": number,
        }  # fmt: skip
        found |= {f"sparsity.{name}": number for name in _layers(network)}
    if "attribute" in settings.do:
        sides = ("dense", "traced") if "trace" in settings.do else ("dense",)
        for method in settings.methods:
            for side in sides:
                found |= {f"{method}.{side}.{name}": number for name in (*MEASURES, "gap")}
            if len(sides) > 1:
                found[f"{method}.likeness"] = number
            found[f"{method}.refused"] = text
    found |= {f"seconds.{stage}": number for stage in ("read", "answer", *settings.do)}
    return pa.schema(found)


def blame_columns() -> dict[str, Any]:
    """List the columns that are known when all images have been looked at, with their types."""
    pa = arrow()
    return {"blame.units": pa.list_(pa.string()), "blame.scores": pa.list_(pa.float64())}


def _layers(network: Network) -> list[str]:
    return list(dict.fromkeys(matrix.name for matrix in weight_matrices(network.model)))


def answer(network: Network, logits: Tensor, label: int | None) -> dict[str, Any]:
    """Say what the network answers, ``(classes,)`` logits."""
    shares = logits.double().softmax(-1)
    top = shares.topk(min(_TOP, len(shares)))
    first = int(top.indices[0])
    found: dict[str, Any] = {
        "prediction": first,
        "prediction_name": network.label(first),
        "confidence": float(top.values[0]),
        "margin": float(top.values[0] - top.values[1]) if len(shares) > 1 else None,
        "top_classes": top.indices.tolist(),
        "top_confidences": top.values.tolist(),
    }
    if label is not None:
        found |= {"label_confidence": float(shares[label]), "wrong": first != label}
    return found


def traced(network: Network, found: Trace) -> dict[str, Any]:
    """Say what a trace answers, to views that it was not made of too, and how sparse it is."""
    unseen = found.settings.get("held_out") or {}
    return {
        "held_out_agree": unseen.get("agree"),
        "held_out_kl": unseen.get("kl"),
        "traced_prediction": found.prediction[1],
        "traced_name": network.label(found.prediction[1]),
        "traced_confidence": found.confidence[1],
        "changed": not found.agrees,
        "kl": found.kl,
        "sparsity": found.sparsity,
        **_by_layer(found),
    }


def _by_layer(found: Trace) -> Mapping[str, float]:
    kept: dict[str, float] = {}
    total: dict[str, int] = {}
    for layer in found.layers:
        key = f"sparsity.{layer.name}"
        kept[key] = kept.get(key, 0.0) + (1 - layer.sparsity) * layer.numel
        total[key] = total.get(key, 0) + layer.numel
    return {key: 1 - share / total[key] for key, share in kept.items()}


def table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Lay rows out under the columns; what a row lacks is null."""
    pa = arrow()
    whole = [{name: _plain(row.get(name)) for name in schema.names} for row in rows]
    return pa.Table.from_pylist(whole, schema=schema)


def note(schema: pa.Schema, noted: Noted) -> pa.Schema:
    """Note with the columns of a shard which images it is of: stamp and digest of each."""
    return schema.with_metadata({_IMAGES: json.dumps(noted)})


def noted_in(schema: pa.Schema) -> Noted | None:
    """Read what :func:`note` noted."""
    found = (schema.metadata or {}).get(_IMAGES.encode())
    return None if found is None else [(stamp, digest) for stamp, digest in json.loads(found)]


def _plain(value: Any) -> Any:
    """Replace what no file of text can hold, such as bytes of a file's name."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
