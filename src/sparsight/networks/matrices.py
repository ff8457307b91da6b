"""Weight matrices: every layer that multiplies, as rows (outputs) by columns (inputs).

The one place that knows how layers lay out their weights. A convolution becomes the matrix
that multiplies its unfolded input, columns in ``torch.nn.Unfold`` order (channel, then kernel
tap); a grouped one becomes one matrix per group; attention projections become the matrices of
their queries, keys, values and output.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from sparsight.errors import NetworkError, UnsupportedError

__all__ = ["WeightMatrix", "weight_matrices"]


@dataclass(frozen=True)
class WeightMatrix:
    """Where one layer's weights live and how they read as matrices.

    Attributes
    ----------
    name
        The layer: its module path, with ``[query]``, ``[key]`` or ``[value]`` appended for the
        parts of a fused ``in_proj_weight``.
    parameter
        Name of the tensor in the model's state dict.
    kind
        ``conv``, ``linear``, ``transposed_linear`` (Hugging Face ``Conv1D``) or ``in_projection``.
    groups, rows, columns
        The matrix has shape ``(groups, rows, columns)``; rows are outputs per group.
    kernel
        Spatial kernel size of a convolution, ``()`` otherwise.
    start
        First row inside the parameter, for parts of a fused projection.
    """

    name: str
    parameter: str
    kind: str
    groups: int
    rows: int
    columns: int
    kernel: tuple[int, ...] = ()
    start: int = 0

    @property
    def numel(self) -> int:
        """Number of weights."""
        return self.groups * self.rows * self.columns

    @property
    def units(self) -> int:
        """Number of filters or neurons."""
        return self.groups * self.rows

    @property
    def block(self) -> int:
        """Columns that belong together in a sweep: the kernel's taps of one input channel."""
        return prod(self.kernel) if self.kernel else 1

    def pack(self, parameter: Tensor) -> Tensor:
        """Read the parameter tensor as ``(groups, rows, columns)``.

        Examples
        --------
        >>> import torch
        >>> conv = torch.nn.Conv2d(8, 6, 3, groups=2)
        >>> matrix, = weight_matrices(conv)
        >>> matrix.pack(conv.weight).shape
        torch.Size([2, 3, 36])
        """
        if self.kind == "transposed_linear":
            return parameter.t().reshape(1, self.rows, self.columns)
        if self.kind == "in_projection":
            parameter = parameter[self.start : self.start + self.rows]
        return parameter.reshape(self.groups, self.rows, self.columns)

    def write(self, parameter: Tensor, matrix: Tensor) -> None:
        """Write ``(groups, rows, columns)`` into a parameter-shaped tensor, in place."""
        matrix = matrix.to(parameter.dtype)
        if self.kind == "transposed_linear":
            parameter.copy_(matrix[0].t())
        elif self.kind == "in_projection":
            parameter[self.start : self.start + self.rows].copy_(matrix[0])
        else:
            parameter.copy_(matrix.reshape(parameter.shape))


def _conv(name: str, module: nn.Module) -> Iterator[WeightMatrix]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    groups = int(module.groups)  # type: ignore[arg-type]
    yield WeightMatrix(
        name,
        f"{name}.weight" if name else "weight",
        "conv",
        groups,
        weight.shape[0] // groups,
        weight[0].numel(),
        tuple(weight.shape[2:]),
    )


def _linear(name: str, module: nn.Module) -> Iterator[WeightMatrix]:
    rows, columns = module.weight.shape  # type: ignore[misc]
    parameter = f"{name}.weight" if name else "weight"
    yield WeightMatrix(name, parameter, "linear", 1, int(rows), int(columns))


def _transposed_linear(name: str, module: nn.Module) -> Iterator[WeightMatrix]:
    columns, rows = module.weight.shape  # type: ignore[misc]
    parameter = f"{name}.weight" if name else "weight"
    yield WeightMatrix(name, parameter, "transposed_linear", 1, int(rows), int(columns))


def _attention(name: str, module: nn.Module) -> Iterator[WeightMatrix]:
    prefix = f"{name}." if name else ""
    width = int(module.embed_dim)  # type: ignore[arg-type]
    parts = ("query", "key", "value")
    for index, (part, letter) in enumerate(zip(parts, "qkv", strict=True)):
        fused: Tensor | None = getattr(module, "in_proj_weight", None)
        if fused is not None:
            parameter, columns, start = f"{prefix}in_proj_weight", width, index * width
        else:
            parameter, start = f"{prefix}{letter}_proj_weight", 0
            columns = int(getattr(module, f"{letter}_proj_weight").shape[1])
        yield WeightMatrix(
            f"{name}[{part}]", parameter, "in_projection", 1, width, columns, start=start
        )


def _reader(module: nn.Module) -> Callable[[str, nn.Module], Iterator[WeightMatrix]] | None:
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return _conv
    if isinstance(module, nn.Linear):
        return _linear
    if isinstance(module, nn.MultiheadAttention):
        return _attention
    # A layer of transformers can only be here if the library has been imported already.
    utilities = sys.modules.get("transformers.pytorch_utils")
    if utilities is not None and isinstance(module, utilities.Conv1D):
        return _transposed_linear
    return None


def weight_matrices(model: nn.Module) -> list[WeightMatrix]:
    """List the weight matrices of a model, in registration order.

    Tied weights are listed once, under their first name.

    Parameters
    ----------
    model
        Any module. Found by type and structure, never by a layer's name.

    Returns
    -------
    list of WeightMatrix

    Raises
    ------
    NetworkError
        If a lazy layer has no weights yet.
    UnsupportedError
        If a layer's weight is computed on the fly (``torch.nn.utils.parametrize``, weight norm,
        ``torch.nn.utils.prune``), so that changing it would change nothing.

    Examples
    --------
    >>> import torch
    >>> [m.name for m in weight_matrices(torch.nn.MultiheadAttention(8, 2))]
    ['[query]', '[key]', '[value]', 'out_proj']
    """
    found: list[WeightMatrix] = []
    seen: set[tuple[int, int]] = set()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, module in model.named_modules():
        reader = _reader(module)
        if reader is None:
            continue
        for parameter in module.parameters(recurse=False):
            if isinstance(parameter, UninitializedParameter):
                raise NetworkError(
                    f"layer {name!r} is lazy and has no weights yet: run the model once first"
                )
        for matrix in reader(name, module):
            if matrix.parameter not in parameters:
                raise UnsupportedError(
                    f"the weight of layer {name!r} is computed on the fly "
                    f"({matrix.parameter!r} is no parameter): make it permanent first, with "
                    "remove_parametrizations, remove_weight_norm or prune.remove"
                )
            key = (id(parameters[matrix.parameter]), matrix.start)
            if key not in seen:
                seen.add(key)
                found.append(matrix)
    return found


def parameter_of(model: nn.Module, matrix: WeightMatrix) -> Tensor:
    """Return the parameter tensor that holds a weight matrix."""
    return model.get_parameter(matrix.parameter).detach()


def weight_of(model: nn.Module, matrix: WeightMatrix) -> Tensor:
    """Return the matrix itself, shape ``(groups, rows, columns)``, detached."""
    with torch.no_grad():
        return matrix.pack(parameter_of(model, matrix))
