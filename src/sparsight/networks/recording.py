"""What goes in and out of every weight matrix while the model runs, as it happens.

Calls are seen where the weight is used (``linear``, ``convNd``, ``addmm``, attention), not
where a module is called, so functional uses, reused modules, explicit padding and the
projections inside attention are all seen, and no hook is ever put on the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparsight.errors import UnsupportedError
from sparsight.networks.calls import ConvGeometry, LayerCall, LayerInput
from sparsight.networks.matrices import WeightMatrix

__all__ = ["Recording"]


def _per_dimension(value: Any, dimensions: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
    return values * dimensions if len(values) == 1 else values


def _geometry(
    kernel: tuple[int, ...], stride: Any = 1, padding: Any = 0, dilation: Any = 1
) -> ConvGeometry:
    dimensions = len(kernel)
    steps = _per_dimension(dilation, dimensions)
    if padding == "valid":
        pads = ((0, 0),) * dimensions
    elif padding == "same":
        totals = [d * (k - 1) for d, k in zip(steps, kernel, strict=True)]
        pads = tuple((total // 2, total - total // 2) for total in totals)
    else:
        pads = tuple((p, p) for p in _per_dimension(padding, dimensions))
    return ConvGeometry(kernel, _per_dimension(stride, dimensions), pads, steps)


_Use = tuple[Tensor, Tensor, Tensor | None, ConvGeometry | None]
"""Input, weight, bias and geometry of one operation."""


def _conv_arguments(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Use:
    kernel = tuple(weight.shape[2:])
    return input, weight, bias, _geometry(kernel, stride, padding, dilation)


def _linear_arguments(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Use:
    return input, weight, bias, None


def _addmm_arguments(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> _Use:
    return mat1, mat2, input, None


_READERS: dict[Any, Callable[..., _Use]] = {
    F.linear: _linear_arguments,
    torch.addmm: _addmm_arguments,
    torch.conv1d: _conv_arguments,
    torch.conv2d: _conv_arguments,
}


class Recording(TorchFunctionMode):
    """See every use of chosen weight matrices while the model runs inside the block.

    Nothing is stored: each use is handed to ``on_call`` and forgotten.

    Parameters
    ----------
    model
        The model that will run inside the block.
    matrices
        Which of its weight matrices to report.
    on_call
        Called with a :class:`LayerCall` after each use. It runs outside the recording.
    on_gradient
        Called with the :class:`LayerInput` and the gradient of its output during a backward
        pass, one per use, in the order of the backward pass.
    on_input
        Called with a :class:`LayerInput` before each use. What it writes into the weight is
        what the operation multiplies with.
    edit_input
        Called with a :class:`LayerInput` before all others; what it returns, unless nothing, goes
        into the operation instead.
    edit_output
        Called with a :class:`LayerCall` last; what it returns, unless nothing, goes on.

    Examples
    --------
    >>> import torch
    >>> from sparsight.networks import Recording, weight_matrices
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    >>> with Recording(model, weight_matrices(model), lambda c: print(c.columns().shape)):
    ...     _ = model(torch.zeros(2, 3, 5, 5))
    torch.Size([1, 27, 18])
    """

    def __init__(
        self,
        model: nn.Module,
        matrices: Iterable[WeightMatrix],
        on_call: Callable[[LayerCall], None] | None = None,
        on_gradient: Callable[[LayerInput, Tensor], None] | None = None,
        on_input: Callable[[LayerInput], None] | None = None,
        edit_input: Callable[[LayerInput], Tensor | None] | None = None,
        edit_output: Callable[[LayerCall], Tensor | None] | None = None,
    ) -> None:
        super().__init__()
        self._edit_input = edit_input
        self._edit_output = edit_output
        self._on_call = on_call
        self._on_gradient = on_gradient
        self._on_input = on_input
        self._by_weight: dict[int, list[WeightMatrix]] = {}
        for matrix in matrices:
            key = id(model.get_parameter(matrix.parameter))
            self._by_weight.setdefault(key, []).append(matrix)

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._attention(*args, **kwargs)
        reader = _READERS.get(func)
        if reader is None:
            return func(*args, **kwargs)
        x, weight, bias, geometry = reader(*args, **kwargs)
        uses = [
            LayerInput(matrix, x, bias, geometry) for matrix in self._by_weight.get(id(weight), [])
        ]
        edited = self._edited(uses)
        if edited is not uses:
            new = edited[0].input
            args = tuple(new if value is x else value for value in args)
            kwargs = {name: new if value is x else value for name, value in kwargs.items()}
        self._announce(edited)
        return self._report(edited, func(*args, **kwargs))

    def _edited(self, uses: list[LayerInput]) -> list[LayerInput]:
        for use in uses if self._edit_input is not None else ():
            assert self._edit_input is not None, "or there was nothing to go through"
            new = self._edit_input(use)
            if new is not None:
                uses = [replace(other, input=new) for other in uses]
        return uses

    def _announce(self, uses: list[LayerInput]) -> None:
        if self._on_input is not None:
            for use in uses:
                self._on_input(use)

    def _report(self, uses: list[LayerInput], output: Tensor) -> Tensor:
        for use in uses:
            call = LayerCall(use.matrix, use.input, use.bias, use.geometry, output=output)
            if self._on_call is not None:
                self._on_call(call)
            if self._on_gradient is not None and output.requires_grad:
                # Not the call: a hook that holds its own tensor would never be freed.
                output.register_hook(partial(self._on_gradient, use))
            new = None if self._edit_output is None else self._edit_output(call)
            output = output if new is None else new
        return output

    def _project(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, owner: Tensor, start: int
    ) -> Tensor:
        matrices = self._by_weight.get(id(owner), [])
        uses = [LayerInput(matrix, x, bias) for matrix in matrices if matrix.start == start]
        uses = self._edited(uses)
        self._announce(uses)
        return self._report(uses, F.linear(uses[0].input if uses else x, weight, bias))

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        embed_dim_to_check: int,
        num_heads: int,
        in_proj_weight: Tensor | None,
        in_proj_bias: Tensor | None,
        bias_k: Tensor | None,
        bias_v: Tensor | None,
        add_zero_attn: bool,
        dropout_p: float,
        out_proj_weight: Tensor,
        out_proj_bias: Tensor | None,
        *positional: Any,
        q_proj_weight: Tensor | None = None,
        k_proj_weight: Tensor | None = None,
        v_proj_weight: Tensor | None = None,
        use_separate_proj_weight: bool = False,
        **options: Any,
    ) -> Any:
        """Run attention with its four projections taken out of the fused call.

        The fused call gets identity projections instead, which change no bit of the result.
        """
        if positional:
            raise UnsupportedError(
                "multi_head_attention_forward is called with positional options: "
                "pass them by keyword"
            )
        width = embed_dim_to_check
        if in_proj_weight is not None:
            owners = [in_proj_weight] * 3
            weights = list(in_proj_weight.chunk(3))
            starts = [0, width, 2 * width]
        else:
            assert q_proj_weight is not None
            assert k_proj_weight is not None
            assert v_proj_weight is not None
            owners = weights = [q_proj_weight, k_proj_weight, v_proj_weight]
            starts = [0, 0, 0]
        biases = [None] * 3 if in_proj_bias is None else list(in_proj_bias.chunk(3))
        q, k, v = (
            self._project(x, weight, bias, owner, start)
            for x, weight, bias, owner, start in zip(
                (query, key, value), weights, biases, owners, starts, strict=True
            )
        )
        eye = torch.eye(width, dtype=q.dtype, device=q.device)
        mixed, attention = F.multi_head_attention_forward(
            q, k, v, width, num_heads, None, None, bias_k, bias_v, add_zero_attn, dropout_p,
            eye, None, use_separate_proj_weight=True, q_proj_weight=eye, k_proj_weight=eye,
            v_proj_weight=eye, **options,
        )  # fmt: skip
        return self._project(mixed, out_proj_weight, out_proj_bias, out_proj_weight, 0), attention
