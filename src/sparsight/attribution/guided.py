"""Guided backpropagation on the graph of operations: every ReLU call, however it is written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsight.attribution.graph import Call, RuledInterpreter, Trace, is_linear, is_pointwise
from sparsight.errors import UnsupportedError

__all__ = ["GuidedInterpreter"]


class _GuidedReLU(torch.autograd.Function):
    """ReLU, perhaps capped, that lets only positive gradients of active units pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward((x > 0) & (x == value))
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (active,) = ctx.saved_tensors
        return gradients[0].clamp_min(0) * active, None


class GuidedInterpreter(RuledInterpreter):
    """Runs a network with guided ReLUs; ``rectifiers`` counts them, ``other`` the rest.

    What an activation is, is asked of the function itself: it is evaluated on a few numbers.
    """

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.rectifiers = 0
        self.other: dict[str, int] = {}

    def apply(self, call: Call) -> Any:
        """Run one operation, a ReLU by the guided rule."""
        if not is_linear(call.name) and is_pointwise(call):
            (name,) = call.depends
            kind = _kind(call, name) if isinstance(call[name], Tensor) else ""
            if kind == "relu":
                self.rectifiers += 1
                with torch.no_grad():
                    value = call.plain()
                return _GuidedReLU.apply(call[name], value)
            if kind == "other":
                self.other[call.name] = self.other.get(call.name, 0) + 1
        return call.plain()

    def require_relu(self) -> None:
        """Refuse a network in which the rule has no meaning.

        Raises
        ------
        UnsupportedError
            If there is no ReLU, or another rectifier beside it.
        """
        remedy = "use saliency, integrated_gradients or lrp instead"
        if self.other:
            listed = ", ".join(f"{count} x {name}" for name, count in self.other.items())
            raise UnsupportedError(
                f"guided backpropagation is defined for ReLU; this network has {listed}: {remedy}"
            )
        if not self.rectifiers:
            raise UnsupportedError(
                "guided backpropagation changes how ReLUs pass gradients; this network has none, "
                f"so the map would be the plain gradient: {remedy}"
            )


def _kind(call: Call, name: str) -> str:
    """``relu`` (capped or not), ``other`` rectifier (GELU, SiLU, leaky ...), or neither."""
    x = call[name]
    grid = torch.tensor([-20.0, -3.0, -0.5, 0.0, 0.5, 1.0, 20.0], dtype=x.dtype, device=x.device)
    try:
        with torch.no_grad():
            y = call.plain(**{name: grid})
    except RuntimeError:  # another operand fixes the shape: a sum or a mask, no activation
        return ""
    if y.shape != grid.shape or not y.is_floating_point():
        return ""
    rectified = grid.clamp_min(0)
    if torch.equal(y, rectified) or (
        torch.equal(y, rectified.clamp_max(float(y[-1]))) and y[-1] > 1
    ):
        return "relu"
    slope_up = float(y[5] / grid[5])
    slope_down = float(y[0] / grid[0])
    rises = slope_up > 0.5 and float(y[-1]) > 2 and float(y[3]) == 0
    return "other" if rises and slope_down < 0.75 * float(y[-1] / grid[-1]) else ""
