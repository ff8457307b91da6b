"""What became of each weight matrix in a trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from torch import Tensor

from sparsight.networks import WeightMatrix

__all__ = ["LayerTrace"]

_OTHER = "other"
_KINDS = ("conv", "linear", "transposed_linear", "in_projection", _OTHER)
_ROUNDED = 0.01  # share of weights that a change of precision may set to zero


@dataclass(frozen=True)
class LayerTrace:
    """What became of one weight matrix.

    Attributes
    ----------
    name, parameter, kind, groups, rows, columns
        As in :class:`sparsight.networks.WeightMatrix`; of kind ``other``, and always left dense,
        what no weight matrix holds: recurrent layers, transposed convolutions, bare parameters.
    requested
        Share of weights that was to be pruned.
    sparsity
        Share of weights that are zero in the trace.
    error
        Relative output error on the augmentations; ``None`` where nothing was recorded.
    damping
        Absolute damping added to the diagonal of the second moment.
    note
        Dead inputs, a change of precision, or why the layer was left alone.
    start
        As in :class:`sparsight.networks.WeightMatrix`.
    """

    name: str
    parameter: str
    kind: str
    groups: int
    rows: int
    columns: int
    requested: float
    sparsity: float
    error: float | None
    damping: float
    note: str = ""
    start: int = 0

    @classmethod
    def of(
        cls,
        matrix: WeightMatrix,
        requested: float,
        sparsity: float,
        error: float | None,
        damping: float,
        note: str,
    ) -> LayerTrace:
        """Describe what became of a weight matrix."""
        return cls(
            matrix.name,
            matrix.parameter,
            matrix.kind,
            matrix.groups,
            matrix.rows,
            matrix.columns,
            requested,
            sparsity,
            error,
            damping,
            note,
            matrix.start,
        )

    @classmethod
    def left_alone(cls, matrix: WeightMatrix, why: str) -> LayerTrace:
        """Describe a weight matrix that the trace does not touch."""
        return cls.of(matrix, 0.0, 0.0, None, 0.0, why)

    @classmethod
    def not_read(cls, name: str, parameter: Tensor, why: str) -> LayerTrace:
        """Describe weights that multiply but that no weight matrix holds."""
        rows = len(parameter)
        return cls(name, name, _OTHER, 1, rows, parameter.numel() // rows, 0.0, 0.0, None, 0.0, why)

    @property
    def is_matrix(self) -> bool:
        """Whether it is a weight matrix, and not of kind ``other``."""
        return self.kind != _OTHER

    @property
    def numel(self) -> int:
        """Number of weights."""
        return self.groups * self.rows * self.columns

    def pack(self, parameter: Tensor) -> Tensor:
        """Read the layer's parameter tensor as ``(groups, rows, columns)``."""
        matrix = WeightMatrix(
            self.name, self.parameter, self.kind, self.groups, self.rows, self.columns,
            start=self.start,
        )  # fmt: skip
        return matrix.pack(parameter)

    def require_sound(self, tensors: Mapping[str, Tensor] | None) -> None:
        """Refuse a layer that cannot be, or, if they are given, not be of these tensors.

        Raises
        ------
        ValueError
            It has values of other kinds, or other sizes than its tensor.
        """
        words = (self.name, self.parameter, self.kind, self.note)
        sizes = (self.groups, self.rows, self.columns)
        shares = (self.requested, self.sparsity)
        others = (self.damping, 0.0 if self.error is None else self.error)
        sound = (
            all(isinstance(word, str) for word in words)
            and self.kind in _KINDS
            and all(type(size) is int and size > 0 for size in sizes)
            and type(self.start) is int
            and self.start >= 0
            and all(isinstance(share, int | float) and 0 <= share <= 1 for share in shares)
            and all(isinstance(other, int | float) and 0 <= other < inf for other in others)
        )
        if not sound:
            raise ValueError(f"layer {self.name!r} is described by other values than a layer has")
        if tensors is None:
            return
        tensor = tensors.get(self.parameter)
        if tensor is None and self.sparsity > 0:
            raise ValueError(f"the values of layer {self.name!r} are missing")
        if tensor is None:
            return
        if self.kind == "in_projection":
            fits = tensor.ndim == 2 and self.start + self.rows <= len(tensor)
            fits = fits and tensor.shape[1] == self.columns
        else:
            fits = tensor.numel() == self.numel and not self.start
        if not fits:
            raise ValueError(f"layer {self.name!r} is not of the size of its values")
        if self.requested == 0 == self.sparsity:  # dense, beside a pruned part of its tensor
            return
        zeros = float((self.pack(tensor) == 0).double().mean())
        if abs(zeros - self.sparsity) > _ROUNDED:
            raise ValueError(f"layer {self.name!r} has another sparsity than its values")
