"""One flat index over all filters and neurons of a network."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor, nn

from sparsight.errors import InputError
from sparsight.networks.matrices import WeightMatrix, weight_matrices

__all__ = ["Units"]


@dataclass(frozen=True)
class Units:
    """The units (output filters, neurons) of a network, numbered through.

    Unit ``i`` of layer ``l`` is row ``i`` of its weight matrix, groups after one another, which
    is output channel ``i`` of a convolution. Selections are flat tensors over ``len(units)``
    entries, so that what one method blames another can trace, switch off or share.

    Attributes
    ----------
    matrices
        The layers, in the order of numbering.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2))
    >>> units = Units.of(model)
    >>> len(units), units.locate(5), units.index("1", 1)
    (6, ('1', 1), 5)
    """

    matrices: tuple[WeightMatrix, ...]

    @classmethod
    def of(cls, model: nn.Module, matrices: Iterable[WeightMatrix] | None = None) -> Units:
        """Build the numbering for a model, or for some of its weight matrices."""
        return cls(tuple(weight_matrices(model) if matrices is None else matrices))

    @property
    def offsets(self) -> tuple[int, ...]:
        """First flat index of each layer, and the total at the end."""
        return tuple(accumulate((m.units for m in self.matrices), initial=0))

    def __len__(self) -> int:
        return self.offsets[-1]

    def locate(self, index: int) -> tuple[str, int]:
        """Layer name and unit number inside it.

        Raises
        ------
        InputError
            If there is no such unit.
        """
        offsets = self.offsets
        if not 0 <= index < offsets[-1]:
            raise InputError(f"unit {index} does not exist: there are {offsets[-1]}")
        layer = bisect_right(offsets, index) - 1
        return self.matrices[layer].name, index - offsets[layer]

    def index(self, layer: str, unit: int) -> int:
        """Flat index of a unit.

        Raises
        ------
        InputError
            If there is no such layer or unit.
        """
        for matrix, offset in zip(self.matrices, self.offsets, strict=False):
            if matrix.name == layer:
                if not 0 <= unit < matrix.units:
                    raise InputError(f"layer {layer!r} has units 0 to {matrix.units - 1}")
                return offset + unit
        raise InputError(f"no layer {layer!r} has units here")

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Split values over all units, shape ``(..., len(units))``, by layer.

        Raises
        ------
        InputError
            If the last dimension is not ``len(units)``.
        """
        if flat.shape[-1] != len(self):
            raise InputError(f"expected {len(self)} values, one per unit, not {flat.shape[-1]}")
        pieces = flat.split([m.units for m in self.matrices], dim=-1)
        return {m.name: piece for m, piece in zip(self.matrices, pieces, strict=True)}
