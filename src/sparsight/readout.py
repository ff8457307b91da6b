"""What a trace says, as the plain data of a case file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparsight.reports import ClassRow, LayerRow, MapPair
from sparsight.traces import Trace

__all__ = ["classes", "layers", "warnings"]

Label = Callable[[int], str]

_TOP = 5
_UNSURE = 0.5
_LARGE_GAP = 0.05


def classes(found: Trace, label: Label) -> tuple[ClassRow, ...]:
    """List the dense top five and the traced top five together."""
    dense, traced = (
        logits.double().softmax(-1) for logits in (found.dense_logits, found.traced_logits)
    )
    count = min(_TOP, len(dense))
    top = [int(i) for side in (dense, traced) for i in side.topk(count).indices]
    return tuple(
        ClassRow(i, label(i), float(dense[i]), float(traced[i])) for i in dict.fromkeys(top)
    )


def layers(found: Trace) -> tuple[LayerRow, ...]:
    """List what became of each layer."""
    return tuple(
        LayerRow(
            layer.name, layer.parameter, layer.kind, layer.rows, layer.columns, layer.groups,
            layer.requested, layer.sparsity, layer.error, layer.damping, layer.note,
        )
        for layer in found.layers
    )  # fmt: skip


def warnings(found: Trace, target: int, maps: Sequence[MapPair], label: Label) -> tuple[str, ...]:
    """Say what a reader must know before anything else."""
    said: list[str] = []
    dense, traced = found.prediction
    if not found.agrees:
        said.append(
            f"The trace changed the prediction from {label(dense)!r} to {label(traced)!r}: its "
            "maps explain a network that decides otherwise. Try a lower sparsity or more "
            "augmentations."
        )
    if found.confidence[0] < _UNSURE:
        said.append(
            f"The dense network is unsure: it gives its first choice, {label(dense)!r}, only "
            f"{found.confidence[0]:.1%}."
        )
    if target != dense:
        said.append(f"The maps explain {label(target)!r}, which is not the prediction.")
    emptied = [layer.name for layer in found.layers if layer.sparsity == 1]
    if emptied:
        said.append(
            f"The trace removed every weight of {', '.join(emptied)}: nothing passes there. "
            "Try a lower sparsity."
        )
    large = [
        f"{pair.title} ({side}, {gap:.0%})"
        for pair in maps
        for side, gap in (("dense", pair.dense_gap), ("traced", pair.traced_gap))
        if gap is not None and abs(gap) > _LARGE_GAP
    ]
    if large:
        said.append(
            f"These maps miss what they ought to sum to by more than {_LARGE_GAP:.0%}: "
            f"{', '.join(large)}. Do not read them as shares of the output."
        )
    return tuple(said)
