"""Two traces of one network: which weights both keep, and how much of that chance would give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsight.errors import InputError, NumericalError
from sparsight.traces.layers import LayerTrace
from sparsight.traces.overlap import Overlap
from sparsight.traces.result import Trace

__all__ = ["LayerDiff", "TraceDiff", "compare"]


@dataclass(frozen=True)
class LayerDiff:
    """How two traces differ in one weight matrix.

    Attributes
    ----------
    name, parameter
        The layer and its parameter.
    weights
        Weights kept.
    units
        Filters or neurons with any weight kept.
    difference
        Of the values of weights that both keep, see :class:`TraceDiff`.
    """

    name: str
    parameter: str
    weights: Overlap
    units: Overlap
    difference: float | None

    def describe(self) -> dict[str, Any]:
        """Say all of it in plain values."""
        return {
            "name": self.name,
            "parameter": self.parameter,
            "weights": self.weights.describe(),
            "units": self.units.describe(),
            "difference": self.difference,
        }


@dataclass(frozen=True)
class TraceDiff:
    """How two traces of one network differ.

    That two traces keep the same weights does not show that the network uses them alike, and a
    solver has its own taste in weights: compare with pairs that should have nothing in common.

    Attributes
    ----------
    layers
        The weight matrices that either trace prunes, in the order of use. A matrix that only one
        of them prunes counts as kept whole in the other.
    weights, units
        Over all of these layers; see :class:`LayerDiff`.
    difference
        Norm of the difference of the values that both keep, relative to the mean of their norms:
        0 for the same values, 2 for opposite ones, ``None`` where they have none in common.
    predictions
        For each trace, the class answered by the dense and by the traced network.
    """

    layers: tuple[LayerDiff, ...]
    weights: Overlap
    units: Overlap
    difference: float | None
    predictions: tuple[tuple[int, int], tuple[int, int]]

    def describe(self) -> dict[str, Any]:
        """Say all of it in plain values."""
        return {
            "predictions": dict(zip("ab", map(list, self.predictions), strict=True)),
            "weights": self.weights.describe(),
            "units": self.units.describe(),
            "difference": self.difference,
            "layers": [layer.describe() for layer in self.layers],
        }

    def __repr__(self) -> str:
        corrected = "none" if self.weights.corrected is None else f"{self.weights.corrected:.3f}"
        values = "no common values"
        if self.difference is not None:
            values = f"values differ by {self.difference:.1%}"
        return (
            f"TraceDiff({len(self.layers)} layers, weights overlap {self.weights.jaccard:.1%}, "
            f"{self.weights.chance:.1%} by chance, {corrected} corrected; "
            f"units overlap {self.units.jaccard:.1%}; {values}; "
            f"answers {self.predictions[0][1]} and {self.predictions[1][1]})"
        )


def _apart(a: Tensor, b: Tensor, both: Tensor) -> Tensor:
    """Squared norms of the difference, of the first and of the second, on a common support."""
    one, two = a[both].double(), b[both].double()
    return torch.stack([(one - two).square().sum(), one.square().sum(), two.square().sum()])


def _relative(apart: Tensor) -> float | None:
    if not torch.isfinite(apart).all():
        raise NumericalError("the traces hold NaN or infinite values: make them again")
    difference, one, two = apart.sqrt().tolist()
    return 2 * difference / (one + two) if one + two else None


def _form(layer: LayerTrace | None) -> str:
    if layer is None:
        return "absent"
    place = f" from row {layer.start}" if layer.start else ""
    return f"{layer.kind} {layer.groups} x {layer.rows} x {layer.columns}{place}"


def _require_same_network(a: Trace, b: Trace) -> None:
    ours, theirs = ({m.name: m for m in trace.layers if m.is_matrix} for trace in (a, b))
    forms = [
        ((ours.get(name) or theirs[name]).parameter, _form(ours.get(name)), _form(theirs.get(name)))
        for name in dict.fromkeys([*ours, *theirs])
    ]
    shared = [name for name in a.tensors if name in b.tensors]
    shapes = [(name, *(str(tuple(t.tensors[name].shape)) for t in (a, b))) for name in shared]
    for parameter, one, two in forms + shapes:
        if one != two:
            raise InputError(
                f"the traces are of different networks: parameter {parameter!r} is {one} in the "
                f"first and {two} in the second"
            )
    first, second = (trace.settings.get("weights") or {} for trace in (a, b))
    known = first and second and first["dtype"] == second["dtype"]
    if known and first["checksum"] != second["checksum"]:
        raise InputError(
            "the traces are of networks with other weights: compare traces of the "
            "same network, trained as far"
        )


def _matrix(trace: Trace, layer: LayerTrace) -> Tensor | None:
    """Values of a layer in a trace, or nothing if the trace left it dense."""
    parameter = trace.tensors.get(layer.parameter)
    return None if parameter is None else layer.pack(parameter).cpu()


def _kept(matrix: Tensor | None, layer: LayerTrace) -> Tensor:
    if matrix is None:
        return torch.ones(layer.groups, layer.rows, layer.columns, dtype=torch.bool)
    return matrix != 0


def compare(a: Trace, b: Trace) -> TraceDiff:
    """Compare which weights two traces of one network keep, and with which values.

    Overlap is the Jaccard index, the kept weights in common over those that either keeps. Since
    two random masks overlap as well, the more the denser they are, each overlap comes with that
    of random masks of the same sizes, and corrected for it: ``(overlap - chance) / (1 - chance)``.

    Parameters
    ----------
    a, b
        Traces of the same network, of any images and settings.

    Returns
    -------
    TraceDiff

    Raises
    ------
    InputError
        If they are of different networks, with the first parameter that differs, or of one with
        other weights.
    NumericalError
        If they hold NaN or infinite values.

    Examples
    --------
    >>> import torch, sparsight
    >>> network = sparsight.load("embedded")
    >>> x = torch.randn(1, 3, 64, 64)
    >>> traces = [sparsight.trace(network, x, augmentations=4, seed=seed) for seed in (0, 1)]
    >>> found = sparsight.compare(*traces)
    >>> found.weights.jaccard > found.weights.chance
    True
    >>> sparsight.compare(traces[0], traces[0]).weights.corrected
    1.0
    """
    _require_same_network(a, b)
    theirs = {layer.name: layer for layer in b.layers}
    rows: list[LayerDiff] = []
    apart = torch.zeros(3, dtype=torch.float64)
    for layer in a.layers:
        if not layer.is_matrix or layer.requested == 0 == theirs[layer.name].requested:
            continue
        one, two = _matrix(a, layer), _matrix(b, layer)
        kept, other = _kept(one, layer), _kept(two, layer)
        here = torch.zeros(3, dtype=torch.float64)
        if one is not None and two is not None:
            here = _apart(one, two, kept & other)
        apart += here
        units = Overlap.of(kept.any(-1), other.any(-1))
        row = LayerDiff(
            layer.name, layer.parameter, Overlap.of(kept, other), units, _relative(here)
        )
        rows.append(row)
    return TraceDiff(
        tuple(rows),
        Overlap.together([row.weights for row in rows]),
        Overlap.together([row.units for row in rows]),
        _relative(apart),
        (a.prediction, b.prediction),
    )
