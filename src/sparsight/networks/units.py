"""Units: the filters, neurons, heads and normalisation entries of a network, numbered through."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from torch import Tensor, nn

from sparsight.errors import InputError
from sparsight.networks.matrices import WeightMatrix, weight_matrices

__all__ = ["KINDS", "NORMALISATIONS", "Part", "UnitGroup", "Units"]

KINDS = {
    "filter": "output channels of convolutions",
    "row": "outputs of linear layers, attention projections among them",
    "head": "attention heads: their queries, keys, values, and columns of the output projection",
    "neuron": "hidden neurons of two-layer perceptrons: what goes in and what goes out",
    "norm": "entries of normalisation layers: scale and shift",
}
"""What counts as a unit, and what it is made of."""

NORMALISATIONS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
"""Normalisation layers whose entries are units."""

_HEADS = ("num_heads", "num_attention_heads", "n_head")


@dataclass(frozen=True)
class Part:
    """Rows or columns of a weight matrix, ``size`` of them for each unit of a group, in order."""

    matrix: WeightMatrix
    axis: str
    start: int
    size: int

    @property
    def weights(self) -> int:
        """How many weights of one unit are here."""
        return self.size * (self.matrix.columns if self.axis == "rows" else self.matrix.units)


@dataclass(frozen=True)
class UnitGroup:
    """The units of one kind in one layer.

    Attributes
    ----------
    name
        Module path of the layer; for neurons that of the layer whose outputs they are.
    kind
        One of :data:`KINDS`.
    count
        How many units.
    parts
        Where their weights are; none for ``norm``.
    """

    name: str
    kind: str
    count: int
    parts: tuple[Part, ...] = ()

    @property
    def title(self) -> str:
        """The name, with the kind where the name alone does not tell it."""
        return self.name if self.kind in ("filter", "row", "norm") else f"{self.name} {self.kind}s"


@dataclass(frozen=True)
class Units:
    """The units of a network under one flat index.

    Selections are flat tensors over ``len(units)`` entries, so that what one method blames another
    can trace, switch off or share. Unit ``i`` of a convolution is its output channel ``i``.

    Attributes
    ----------
    groups
        In the order of registration.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2))
    >>> units = Units.of(model)
    >>> len(units), units.locate(5), units.index("1", 1)
    (6, ('1', 1), 5)
    >>> len(Units.of(model, ["filter"]))
    4
    """

    groups: tuple[UnitGroup, ...]

    @classmethod
    def of(cls, model: nn.Module, kinds: Iterable[str] = ("filter", "row")) -> Units:
        """Give every unit of a model its number.

        Parameters
        ----------
        model
            The network. Heads and neurons are found by structure, never by a layer's name.
        kinds
            Of :data:`KINDS`.

        Raises
        ------
        InputError
            If there is no such kind.
        """
        wanted = list(dict.fromkeys(kinds))
        for kind in wanted:
            if kind not in KINDS:
                raise InputError(f"no kind of unit is called {kind!r}: choose from {list(KINDS)}")
        matrices = weight_matrices(model)
        place = {name: number for number, (name, _) in enumerate(model.named_modules())}
        finders = {"head": _heads, "neuron": _neurons, "norm": _norms}
        found = [
            group for kind in finders if kind in wanted for group in finders[kind](model, matrices)
        ]
        for matrix in matrices:
            kind = "filter" if matrix.kind == "conv" else "row"
            if kind in wanted:
                parts = (Part(matrix, "rows", 0, 1),)
                found.append(UnitGroup(matrix.name, kind, matrix.units, parts))
        found.sort(key=lambda g: (place[g.name.partition("[")[0]], list(KINDS).index(g.kind)))
        return cls(tuple(found))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First flat index of each group, and the total at the end."""
        return tuple(accumulate((group.count for group in self.groups), initial=0))

    def __len__(self) -> int:
        return self.offsets[-1]

    def locate(self, index: int) -> tuple[str, int]:
        """Title of the group, and the number of the unit in it.

        Raises
        ------
        InputError
            If there is no such unit.
        """
        offsets = self.offsets
        if not 0 <= index < offsets[-1]:
            raise InputError(f"unit {index} does not exist: there are {offsets[-1]}")
        group = bisect_right(offsets, index) - 1
        return self.groups[group].title, index - offsets[group]

    def index(self, group: str, unit: int) -> int:
        """Flat index of a unit, by title of its group.

        Raises
        ------
        InputError
            If there is no such group or unit.
        """
        for found, offset in zip(self.groups, self.offsets, strict=False):
            if found.title == group:
                if not 0 <= unit < found.count:
                    raise InputError(f"layer {group!r} has units 0 to {found.count - 1}")
                return offset + unit
        raise InputError(f"no layer {group!r} has units here")

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Split values over all units, shape ``(..., len(units))``, by title of the group.

        Raises
        ------
        InputError
            If the last dimension is not ``len(units)``.
        """
        if flat.shape[-1] != len(self):
            raise InputError(f"expected {len(self)} values, one per unit, not {flat.shape[-1]}")
        return {group.title: piece for group, piece in self.pieces(flat)}

    def pieces(self, flat: Tensor) -> Iterator[tuple[UnitGroup, Tensor]]:
        """Go through the groups with their parts of a tensor ``(..., len(units))``, as views."""
        return zip(self.groups, flat.split([g.count for g in self.groups], dim=-1), strict=True)


def _heads(model: nn.Module, matrices: Sequence[WeightMatrix]) -> Iterator[UnitGroup]:
    """Find modules that say how many heads they have, and their projections."""
    order = {matrix.name: number for number, matrix in enumerate(matrices)}
    for name, module in model.named_modules():
        heads = next((getattr(module, a) for a in _HEADS if hasattr(module, a)), None)
        own = [m for m in matrices if m.kind != "conv" and _parent(m.name) == name]
        if not isinstance(heads, int) or not own:
            continue
        if own[0].rows == 3 * own[0].columns:
            width, last = own[0].columns, own[0]
            inputs = [(last, part * width) for part in range(3)]
        elif len(own) >= 3 and own[0].rows == own[1].rows == own[2].rows:
            width, last = own[0].rows, own[2]
            inputs = [(matrix, 0) for matrix in own[:3]]
        else:
            continue
        if width % heads:
            continue
        size = width // heads
        parts = [Part(matrix, "rows", start, size) for matrix, start in inputs]
        following = order[last.name] + 1
        if following < len(matrices) and _reads(matrices[following], width):
            parts.append(Part(matrices[following], "columns", 0, size))
        yield UnitGroup(name, "head", heads, tuple(parts))


def _parent(name: str) -> str:
    """Name the module that a layer is a direct part of; of a projection, the attention."""
    return name.partition("[")[0] if "[" in name else name.rpartition(".")[0]


def _reads(matrix: WeightMatrix, width: int) -> bool:
    return matrix.kind != "conv" and matrix.columns == width


def _neurons(model: nn.Module, matrices: Sequence[WeightMatrix]) -> Iterator[UnitGroup]:
    """Find pairs of linear layers that go to another width and back."""
    for up, down in pairwise(matrices):
        linear = all("linear" in matrix.kind for matrix in (up, down))
        if linear and up.rows != up.columns and (down.columns, down.rows) == (up.rows, up.columns):
            parts = (Part(up, "rows", 0, 1), Part(down, "columns", 0, 1))
            yield UnitGroup(up.name, "neuron", up.rows, parts)


def _norms(model: nn.Module, matrices: Sequence[WeightMatrix]) -> Iterator[UnitGroup]:
    for name, module in model.named_modules():
        if isinstance(module, NORMALISATIONS) and isinstance(module.weight, Tensor):
            yield UnitGroup(name, "norm", module.weight.numel())
