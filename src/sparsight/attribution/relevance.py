r"""Relevance rules of linear maps, as tensor kernels.

With contributions :math:`c_{ij} = a_i w_{ij}`, outputs :math:`z_j = \sum_i c_{ij} + b_j` and
:math:`c^{\pm}` the part of the sign of :math:`z_j`, every rule here is

.. math::
    R_i = \sum_j \frac{\alpha\,c_{ij} + \beta\,c_{ij}^{\operatorname{sign} z_j}}
                      {\alpha z_j + \beta z_j^{\operatorname{sign} z_j}
                       + \varepsilon \operatorname{sign} z_j} R_j

``epsilon`` is :math:`(\alpha, \beta) = (1, 0)`, ``gamma`` :math:`(1, \gamma)`, ``zplus``
:math:`(0, 1)`. On positive outputs ``zplus`` is the :math:`\alpha_1\beta_0` rule; a negative output
(before a residual sum, behind GELU or SiLU) is explained by its negative contributions, as the
generalised gamma rule does, so that no share exceeds the whole and nothing can explode.

Relevance travels as a modified gradient :math:`\tilde c = R / a`, so layers chain by ordinary
differentiation and :math:`R = a \tilde c` may be read anywhere. What a bias contributes is its
own share of :math:`R_j`; it flows into the scalar ``one`` and can be counted.

References: Bach et al., PLOS ONE 2015; Montavon et al., *Layer-Wise Relevance Propagation: An
Overview*, 2019 (modified gradient, gamma); Lapuschkin et al. 2019 (flat).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["LinearMap", "Rule", "convolution_map", "matrix_map", "relevance_linear"]


@dataclass(frozen=True)
class Rule:
    """Weights of the plain and the sign-matched contributions; ``flat`` ignores both.

    Without ``absorb`` a bias gets no share: the inputs divide the whole among themselves, and
    only where no input has the output's sign the bias keeps it.
    """

    plain: float = 1.0
    matched: float = 0.0
    flat: bool = False
    epsilon: float = 1e-6
    absorb: bool = True


@dataclass(frozen=True)
class LinearMap:
    """``z = A(w) x`` and its adjoint ``A(w)^T q``; the bias is added outside."""

    forward: Callable[[Tensor, Tensor], Tensor]
    adjoint: Callable[[Tensor, Tensor, Tensor], Tensor]  # (q, w, x) -> like x


def matrix_map() -> LinearMap:
    """``z = x @ w`` for ``x (rows, in)`` and ``w (in, out)``."""
    return LinearMap(lambda x, w: x @ w, lambda q, w, x: q @ w.t())


def convolution_map(
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> LinearMap:
    """Any convolution ATen knows, without its bias."""
    geometry = (stride, padding, dilation, transposed, output_padding, groups)

    def forward(x: Tensor, w: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten.convolution(x, w, None, *geometry)
        return result

    def adjoint(q: Tensor, w: Tensor, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten.convolution_backward(
            q, x, w, None, *geometry, [True, False, False]
        )[0]
        return result

    return LinearMap(forward, adjoint)


class _RelevanceLinear(torch.autograd.Function):
    """A linear map whose gradient is the rule's modified gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        one: Tensor,
        collector: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        linear: LinearMap,
        rule: Rule,
    ) -> Tensor:
        z = linear.forward(x, weight)
        if bias is not None:
            z = z + bias
        ctx.save_for_backward(x, weight, bias, z)
        ctx.linear, ctx.rule = linear, rule
        return z

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, z = ctx.saved_tensors
        relevance = gradients[0] * z
        if ctx.rule.flat:
            shares = _flat(relevance, x, weight, ctx.linear)
            return None, torch.zeros((), dtype=z.dtype, device=z.device), shares, *(None,) * 4
        gradient, absorbed = _weighted(relevance, x, weight, bias, z, ctx.linear, ctx.rule)
        return gradient, absorbed, *(None,) * 5


def relevance_linear(
    x: Tensor,
    one: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    linear: LinearMap,
    rule: Rule,
    collector: Tensor | None = None,
) -> Tensor:
    """Apply ``z = A(w) x + b`` with a rule's modified gradient.

    Parameters
    ----------
    x
        Input.
    one
        Scalar 1 that requires a gradient: it receives what the bias absorbs.
    weight, bias
        ``bias`` broadcasts to the output.
    linear, rule
        Map and rule.
    collector
        For ``rule.flat`` only: a leaf shaped like ``x`` whose gradient becomes the relevance
        itself (flat relevance is not a multiple of ``x``).

    Returns
    -------
    Tensor
        The ordinary output.
    """
    result: Tensor = _RelevanceLinear.apply(x, one, collector, weight, bias, linear, rule)
    return result


def _flat(relevance: Tensor, x: Tensor, weight: Tensor, linear: LinearMap) -> Tensor:
    ones = torch.ones_like(weight)
    counts = linear.forward(torch.ones_like(x), ones)
    return linear.adjoint(relevance / counts.clamp_min(1), ones, x)


def _weighted(
    relevance: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor,
    linear: LinearMap,
    rule: Rule,
) -> tuple[Tensor, Tensor]:
    up = z > 0
    shift = torch.zeros((), dtype=z.dtype, device=z.device) if bias is None else bias
    if not rule.absorb:
        z, shift = z - shift, torch.zeros_like(shift)
    stabiliser = rule.epsilon * z.abs().mean()
    total = rule.plain * z
    if rule.matched:
        positive, negative = weight.clamp_min(0), weight.clamp_max(0)
        signed = bool((x < 0).any())
        gains = linear.forward(x.clamp_min(0), positive) + shift.clamp_min(0)
        if signed:
            gains = gains + linear.forward(x.clamp_max(0), negative)
        total = total + rule.matched * torch.where(up, gains, z - gains)
    denominator = total + torch.where(up, stabiliser, -stabiliser)
    quotient = relevance / torch.where(denominator == 0, torch.ones_like(z), denominator)
    gradient = torch.zeros_like(x)
    absorbed = (rule.plain * shift * quotient).sum()
    if not rule.absorb:  # outputs that no input speaks for keep what they have
        absorbed = absorbed + (relevance - total * quotient).sum()
    if rule.plain:
        gradient = gradient + rule.plain * linear.adjoint(quotient, weight, x)
    if rule.matched:
        above, below = quotient * up, quotient * ~up
        agrees = linear.adjoint(above, positive, x) + linear.adjoint(below, negative, x)
        if signed:
            differs = linear.adjoint(above, negative, x) + linear.adjoint(below, positive, x)
            agrees = torch.where(x < 0, differs, agrees)
        gradient = gradient + rule.matched * agrees
        matched = shift.clamp_min(0) * above + shift.clamp_max(0) * below
        absorbed = absorbed + rule.matched * matched.sum()
    return gradient, absorbed
