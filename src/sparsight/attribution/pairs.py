r"""Rescale-rule algebra: a value and its reference, carried together.

DeepLIFT explains :math:`\Delta y = y - y^0` by multipliers with
:math:`\Delta y = \sum_i m_i\,\Delta x_i`. Three rules make every network exactly complete:

* linear maps: :math:`m` is the map itself;
* functions of one value: :math:`m = \Delta f / \Delta x` (rescale);
* products: :math:`\Delta(ab) = \Delta a\,(b+b^0)/2 + \Delta b\,(a+a^0)/2` (an identity).

Normalisation and softmax are compositions of these. A multiplier is installed as the gradient
of ``now``, so that ordinary differentiation chains them.

References: Shrikumar, Greenside, Kundaje, *Learning Important Features Through Propagating
Activation Differences*, ICML 2017; Ancona et al., ICLR 2018 (gradient form); Lundberg and Lee,
NeurIPS 2017 (max pooling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsight.attribution.graph import Substitute

__all__ = ["Pair", "linear", "normalise", "pointwise", "product", "softmax", "variance", "winner"]


@dataclass(frozen=True, eq=False)
class Pair:
    """A value for the image, differentiable, and the same value for the baseline."""

    now: Tensor
    ref: Tensor


def linear(function: Callable[..., Any], *pairs: Pair) -> Pair:
    """Apply a map that is affine in all arguments together."""
    now = function(*(pair.now for pair in pairs))
    with torch.no_grad():
        return Pair(now, function(*(pair.ref for pair in pairs)))


def pointwise(function: Callable[[Tensor], Tensor], x: Pair) -> Pair:
    """Apply a function of single values by the rescale rule.

    Where image and baseline agree the multiplier is the derivative.
    """
    with torch.no_grad():
        at = x.now.detach()
        now, ref = function(at), function(x.ref)
        if not now.is_floating_point():  # a comparison: nothing to differentiate
            return Pair(now, ref)
        delta = at - x.ref
        same = delta.abs() <= 1e-6 * at.abs()
        slope = (now - ref) / torch.where(same, torch.ones_like(delta), delta)
    if bool(same.any()):
        with torch.enable_grad():
            point = at.clone().requires_grad_()
            (derivative,) = torch.autograd.grad(function(point).sum(), point)
        slope = torch.where(same, derivative, slope)
    slope = slope.nan_to_num(0.0, 0.0, 0.0)  # both infinite: nothing differs
    return Pair(Substitute.apply(now, (x.now * slope).to(now.dtype)), ref)


def product(
    function: Callable[[Tensor, Tensor], Tensor], a: Pair, b: Pair, anchored: bool = False
) -> Pair:
    r"""Apply a bilinear map (``mul``, ``bmm``) by the midpoint rule.

    ``anchored`` splits as complete but lopsided, :math:`\Delta a\,b + a^0\,\Delta b`: for a
    factor ``b`` that is unbounded at the baseline, such as one over a deviation of zero.
    """
    with torch.no_grad():
        now, ref = function(a.now, b.now), function(a.ref, b.ref)
        at_a = a.ref if anchored else (a.now + a.ref) / 2
        at_b = b.now.clone() if anchored else (b.now + b.ref) / 2
    surrogate = function(a.now, at_b) + function(at_a, b.now)
    return Pair(Substitute.apply(now, surrogate), ref)


def variance(x: Pair, dims: Sequence[int] | None, correction: float, keepdim: bool) -> Pair:
    """Variance over dimensions, as a mean of squares of centred values."""
    dims = list(range(x.now.ndim)) if dims is None else list(dims)
    count = 1
    for dim in dims:
        count *= x.now.shape[dim]
    centred = linear(lambda t: t - t.mean(dims, keepdim=True), x)
    squares = pointwise(torch.square, centred)
    return linear(lambda t: t.sum(dims, keepdim=keepdim) / max(count - correction, 1), squares)


def normalise(x: Pair, dims: Sequence[int], eps: float) -> Pair:
    """``(x - mean) / sqrt(var + eps)`` over dimensions, complete step by step.

    The split is anchored: on a baseline of equal values the deviation is zero, its inverse
    ``1 / sqrt(eps)``, and the midpoint rule would multiply rounding errors by it at every layer.
    """
    centred = linear(lambda t: t - t.mean(list(dims), keepdim=True), x)
    scale = pointwise(lambda t: torch.rsqrt(t + eps), variance(x, dims, 0, True))
    return product(torch.mul, centred, scale, anchored=True)


def softmax(x: Pair, dim: int, logarithm: bool = False) -> Pair:
    """Softmax, or its logarithm, as exponential over sum; in float64 inside."""
    with torch.no_grad():
        shift = torch.maximum(x.now, x.ref).amax(dim, keepdim=True).double()
        shift = shift.clamp_min(torch.finfo(x.now.dtype).min)
    shifted = linear(lambda t: t.double() - shift, x)
    parts = pointwise(torch.exp, shifted)
    total = linear(lambda t: t.sum(dim, keepdim=True), parts)
    if logarithm:
        return linear(lambda a, b: (a - b).to(x.now.dtype), shifted, pointwise(torch.log, total))
    total = linear(lambda t: torch.where(t == 0, torch.ones_like(t), t), total)
    result = product(torch.mul, parts, pointwise(torch.reciprocal, total))
    return linear(lambda t: t.to(x.now.dtype), result)


def winner(x: Pair, now: Tensor, ref: Tensor, index_now: Tensor, index_ref: Tensor) -> Pair:
    r"""Maximum over the last dimension, given both maxima and where they are.

    The higher maximum's own position gets :math:`\Delta y / \Delta x`, which lies in [0, 1].
    ``x`` is ``(..., P)``; the rest ``(..., Q)``, Q maxima picked out of P values.
    """
    with torch.no_grad():
        index = torch.where(now >= ref, index_now, index_ref)
        delta = x.now.gather(-1, index) - x.ref.gather(-1, index)
        same = delta == 0
        slope = torch.where(same, 1.0, (now - ref) / torch.where(same, 1.0, delta))
        slope = slope.nan_to_num(0.0, 0.0, 0.0)
    return Pair(Substitute.apply(now, x.now.gather(-1, index) * slope), ref)
