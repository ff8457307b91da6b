"""The case file as plain data: what a page needs to know, and nothing of torch models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsight.errors import InputError, NumericalError

if TYPE_CHECKING:
    from torch import Tensor

    from sparsight.reports.blame import BlameReport
    from sparsight.reports.chain import ChainAnswer

__all__ = ["CaseFile", "ClassRow", "LayerRow", "MapPair"]

Array: TypeAlias = NDArray[Any]


def as_array(values: Tensor | Array) -> Array:
    """Bring a tensor or array to the CPU as a NumPy array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    return np.asarray(values)


def _heat(values: Tensor | Array | None, what: str) -> NDArray[np.float32] | None:
    if values is None:
        return None
    array = as_array(values).astype(np.float32)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"{what} has shape {array.shape}, not (H, W): sum over channels, drop the batch"
        )
    if not np.isfinite(array).all():
        raise NumericalError(f"{what} holds NaN or infinite values: it cannot be shown")
    return array


def _picture(values: Tensor | Array, what: str) -> NDArray[np.float32]:
    picture = as_array(values)
    if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise InputError(
            f"{what} has shape {picture.shape}, not (H, W, 3): put channels last, drop the batch"
        )
    if picture.dtype.kind != "f" or not np.isfinite(picture).all():
        raise InputError(
            f"{what} must be finite floats in 0..1: divide 8-bit values by 255, look for NaN"
        )
    if float(picture.min()) < -1e-3 or float(picture.max()) > 1 + 1e-3:
        raise InputError(
            f"{what} runs from {picture.min():.3g} to {picture.max():.3g}, not in 0..1: undo the "
            "network's normalisation first"
        )
    return picture.clip(0, 1).astype(np.float32)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, eq=False)
class MapPair:
    """One method's maps of the dense network and of the trace.

    Attributes
    ----------
    method, title
        Its key (``"integrated_gradients"``) and its name for readers.
    dense, traced
        Heat ``(H, W)`` as tensor or array, kept as float32 arrays; None where not computed.
    signed
        Whether negative values mean evidence *against* the class. Maps that are not signed
        must be non-negative.
    dense_gap, traced_gap
        How far the map misses what it ought to sum to, as a fraction; None without such a rule.
    gap_of
        The rule that the gaps measure, e.g. ``"completeness"``.
    notes
        Sentences for the reader.
    refused
        The reason why the method refused this network; such a pair holds no maps.
    dense_seconds, traced_seconds
        Time that each map took.

    Examples
    --------
    >>> MapPair("saliency", "Saliency", np.ones((7, 7)), None, signed=False).shape
    (7, 7)
    """

    method: str
    title: str
    dense: Tensor | Array | None = None
    traced: Tensor | Array | None = None
    signed: bool = True
    dense_gap: float | None = None
    traced_gap: float | None = None
    gap_of: str = "completeness"
    notes: tuple[str, ...] = ()
    refused: str = ""
    dense_seconds: float | None = None
    traced_seconds: float | None = None

    def __post_init__(self) -> None:
        for side in ("dense", "traced"):
            what = f"the {side} map of {self.method}"
            heat = _heat(getattr(self, side), what)
            if heat is not None and not self.signed and float(heat.min()) < 0:
                raise InputError(f"{what} has negative values: pass signed=True or its absolute")
            object.__setattr__(self, side, heat)
        shapes = {heat.shape for heat in self.heats.values()}
        if self.refused and shapes:
            raise InputError(f"{self.method} has maps and a refusal: leave one of them out")
        if not self.refused and not shapes:
            raise InputError(f"{self.method} has no map: give one, or say in refused why not")
        if len(shapes) > 1:
            raise InputError(f"the maps of {self.method} differ in shape: {sorted(shapes)}")

    @property
    def heats(self) -> dict[str, NDArray[np.float32]]:
        """The maps that exist, by ``"dense"`` and ``"traced"``."""
        both: dict[str, Any] = {"dense": self.dense, "traced": self.traced}
        return {side: heat for side, heat in both.items() if heat is not None}

    @property
    def shape(self) -> tuple[int, ...] | None:
        """``(H, W)``, or None for a refusal."""
        return next((heat.shape for heat in self.heats.values()), None)

    def __repr__(self) -> str:
        state = f"refused: {self.refused}" if self.refused else f"{', '.join(self.heats)}"
        return f"MapPair({self.method}, {state})"


@dataclass(frozen=True, eq=False)
class ViewPair:
    """What one neuron wants to see, in the dense network and in the trace.

    Attributes
    ----------
    neuron, title
        The objective as text (``class:1``), and what to call it.
    dense, traced
        Computed images ``(H, W, 3)`` in 0..1.
    dense_score, traced_score
        What the neuron says to them, in the network that they were computed for.

    Examples
    --------
    >>> ViewPair("class:1", "dog", np.zeros((8, 8, 3)), np.ones((8, 8, 3)), 9.5, 8.25).title
    'dog'
    """

    neuron: str
    title: str
    dense: Tensor | Array
    traced: Tensor | Array
    dense_score: float
    traced_score: float

    def __post_init__(self) -> None:
        for side in ("dense", "traced"):
            picture = _picture(getattr(self, side), f"the {side} visualization of {self.neuron}")
            object.__setattr__(self, side, picture)
            if not math.isfinite(getattr(self, f"{side}_score")):
                raise NumericalError(
                    f"the {side} score of {self.neuron} is not finite: leave that neuron out"
                )


@dataclass(frozen=True)
class LayerRow:
    """What the trace did to one layer.

    ``rows``, ``columns`` and ``groups`` are of its weight matrix; ``requested`` and
    ``sparsity`` the fractions asked for and removed; ``error`` the relative error of the layer's
    output on the sample (None when not measured); ``damping`` what the solver added to the
    diagonal; ``note`` whatever the solver has to admit.

    Examples
    --------
    >>> LayerRow("conv1", "conv1.weight", "Conv2d", 64, 147, 1, 0.9, 0.9, 0.04).error
    0.04
    """

    name: str
    parameter: str
    kind: str
    rows: int
    columns: int
    groups: int
    requested: float
    sparsity: float
    error: float | None = None
    damping: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        for what in ("requested", "sparsity"):
            if not 0 <= getattr(self, what) <= 1:
                raise InputError(
                    f"layer {self.name}: {what} is {getattr(self, what)}, not in 0 to 1"
                )
        if self.error is not None and not (math.isfinite(self.error) and self.error >= 0):
            raise NumericalError(f"layer {self.name}: its output error is {self.error}")


@dataclass(frozen=True)
class ClassRow:
    """A class and its probability under the dense network and under the trace.

    Examples
    --------
    >>> ClassRow(207, "golden retriever", dense=0.87, traced=0.91).label
    'golden retriever'
    """

    index: int
    label: str
    dense: float
    traced: float

    def __post_init__(self) -> None:
        for side in ("dense", "traced"):
            value = getattr(self, side)
            if not -1e-6 <= value <= 1 + 1e-6:
                raise InputError(
                    f"class {self.label!r}: {side} is {value}, not a probability (softmax first)"
                )
            object.__setattr__(self, side, min(1.0, max(0.0, float(value))))


@dataclass(frozen=True, eq=False)
class CaseFile:
    """Everything about one image and one network that the page shows.

    Attributes
    ----------
    title
        Headline, e.g. the image's name or a question.
    image
        ``(H, W, 3)`` in 0..1: what the network was shown, before normalisation.
    image_name, network
        File name and network spec, for the reader and for reproduction.
    target_index, target_label
        The class that the maps explain.
    classes
        The dense top five and the traced top five together, in any order.
    kl
        Divergence of the traced from the dense class probabilities, in nats.
    sparsity
        Fraction of all traced weights that was removed.
    maps, layers, views
        One entry per method, per traced layer, and per neuron that was visualized.
    blame
        Who is to blame for the answer, if that was asked.
    chain
        What a chain makes of the image, if one was given.
    settings, versions, seed, timings
        For reproduction; timings in seconds.
    warnings
        What the reader must know first, e.g. that the trace changed the prediction.
    truth_mask, truth_name
        ``(H, W)`` outline of a planted object, if one is known, and its name.
    notes, command
        A remark of the user's; the command line that makes this case again.
    created
        UTC time in ISO format.

    Examples
    --------
    >>> case = CaseFile("dog", np.zeros((8, 8, 3)), "dog.png", "torchvision:resnet18", 1, "dog",
    ...                 (ClassRow(0, "cat", 0.2, 0.1), ClassRow(1, "dog", 0.8, 0.9)), 0.03, 0.95)
    >>> case.agrees, case.dense_top.label
    (True, 'dog')
    """

    title: str
    image: Tensor | Array
    image_name: str
    network: str
    target_index: int
    target_label: str
    classes: tuple[ClassRow, ...]
    kl: float
    sparsity: float
    maps: tuple[MapPair, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    views: tuple[ViewPair, ...] = ()
    blame: BlameReport | None = None
    chain: ChainAnswer | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    truth_mask: Tensor | Array | None = None
    truth_name: str = "planted object"
    notes: str = ""
    command: str = ""
    created: str = field(default_factory=_now)

    def __post_init__(self) -> None:
        image = _picture(self.image, "the case's image")
        object.__setattr__(self, "image", image)
        if self.truth_mask is not None:
            mask = as_array(self.truth_mask) > 0.5
            if mask.shape != image.shape[:2]:
                raise InputError(
                    f"truth_mask has shape {mask.shape}, the image is {image.shape[:2]}"
                )
            object.__setattr__(self, "truth_mask", mask)
        if not self.classes:
            raise InputError("a case needs at least one class")
        if math.isnan(self.kl) or self.kl < -1e-6:
            raise NumericalError(f"the case's KL divergence is {self.kl}")
        if not 0 <= self.sparsity <= 1:
            raise InputError(f"the case's sparsity is {self.sparsity}, not in 0 to 1")
        methods = [pair.method for pair in self.maps]
        if len(set(methods)) < len(methods):
            raise InputError(f"a method appears twice in the case: {sorted(methods)}")

    @property
    def dense_top(self) -> ClassRow:
        """What the dense network says."""
        return max(self.classes, key=lambda row: row.dense)

    @property
    def traced_top(self) -> ClassRow:
        """What the trace says."""
        return max(self.classes, key=lambda row: row.traced)

    @property
    def agrees(self) -> bool:
        """Whether the trace kept the prediction."""
        return self.dense_top.index == self.traced_top.index

    def __repr__(self) -> str:
        return (
            f"CaseFile({self.title!r}, {self.network}, {self.target_label!r}, "
            f"{len(self.maps)} methods, {len(self.layers)} layers, sparsity {self.sparsity:.3f})"
        )
