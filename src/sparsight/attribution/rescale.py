"""DeepLIFT's rescale rule on the graph of operations: exactly complete on any network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsight.attribution import pairs
from sparsight.attribution.graph import Call, RuledInterpreter, is_linear, is_pointwise
from sparsight.attribution.pairs import Pair

__all__ = ["RescaleInterpreter"]


class RescaleInterpreter(RuledInterpreter):
    """Carries every image-dependent value as a :class:`~sparsight.attribution.pairs.Pair`."""

    def apply(self, call: Call) -> Any:
        """Run one operation on image and baseline, with multipliers as gradients."""
        rule = _RULES.get(call.name)
        if rule is not None:
            return rule(self, call)
        if is_linear(call.name) and "condition" not in call.depends:
            return self.lanes(call)
        if len(call.depends) == 1:
            (name,) = call.depends
            x = call[name]
            if isinstance(x, Pair) and is_pointwise(call.on(x.now.detach())):
                return pairs.pointwise(lambda t: call.plain(**{name: t}), x)
        self.note_unruled(call)
        return self.lanes(call)

    def value(self, item: Any) -> Any:
        """Return the value for the image."""
        return item.now if isinstance(item, Pair) else item

    def lanes(self, call: Call) -> Any:
        """Run an operation on the image, differentiably, and on the baseline."""
        now = call.plain(**{name: _lane(call[name], "now") for name in call.depends})
        with torch.no_grad():
            ref = call.plain(**{name: _lane(call[name], "ref") for name in call.depends})
        if isinstance(now, Tensor):
            return Pair(now, ref)
        return type(now)(
            Pair(a, b) if isinstance(a, Tensor) else None for a, b in zip(now, ref, strict=True)
        )


def _lane(value: Any, lane: str) -> Any:
    if isinstance(value, list | tuple):
        return [_lane(item, lane) for item in value]
    return getattr(value, lane) if isinstance(value, Pair) else value


def _bilinear(first: str, second: str) -> Callable[[RescaleInterpreter, Call], Any]:
    def rule(interpreter: RescaleInterpreter, call: Call) -> Any:
        if not {first, second} <= call.depends:
            return interpreter.lanes(call)
        return pairs.product(
            lambda a, b: call.plain(**{first: a, second: b}), call[first], call[second]
        )

    return rule


def _div(interpreter: RescaleInterpreter, call: Call) -> Any:
    if "other" not in call.depends:
        return interpreter.lanes(call)
    inverse = pairs.pointwise(torch.reciprocal, call["other"])
    if "self" not in call.depends:
        return pairs.linear(lambda t: call["self"] * t, inverse)
    return pairs.product(torch.mul, call["self"], inverse)


def _extreme(sign: float, interpreter: RescaleInterpreter, call: Call) -> Any:
    if call.depends != {"self", "other"}:
        (name,) = call.depends
        return pairs.pointwise(lambda t: call.plain(**{name: t}), call[name])
    gap = pairs.linear(lambda a, b: sign * (a - b), call["self"], call["other"])
    positive = pairs.pointwise(torch.relu, gap)  # max(a, b) = b + relu(a - b)
    return pairs.linear(lambda b, d: b + sign * d, call["other"], positive)


def _layer_norm(interpreter: RescaleInterpreter, call: Call) -> Any:
    dims = list(range(-len(call["normalized_shape"]), 0))
    y = pairs.normalise(call["input"], dims, call["eps"])
    return _affine(y, call["weight"], call["bias"]), None, None


def _group_norm(interpreter: RescaleInterpreter, call: Call) -> Any:
    x, groups = call["input"], call["group"]
    shape = x.now.shape
    grouped = pairs.linear(lambda t: t.reshape(shape[0], groups, -1), x)
    y = pairs.linear(lambda t: t.reshape(shape), pairs.normalise(grouped, [-1], call["eps"]))
    channels = (1, -1, *(1,) * (len(shape) - 2))
    weight, bias = (
        None if p is None else p.reshape(channels) for p in (call["weight"], call["bias"])
    )
    return _affine(y, weight, bias), None, None


def _affine(y: Pair, weight: Tensor | None, bias: Tensor | None) -> Pair:
    if weight is not None:
        y = pairs.linear(lambda t: t * weight, y)
    return y if bias is None else pairs.linear(lambda t: t + bias, y)


def _softmax(logarithm: bool, interpreter: RescaleInterpreter, call: Call) -> Any:
    return pairs.softmax(call["self"], call["dim"], logarithm)


def _var(interpreter: RescaleInterpreter, call: Call) -> Any:
    correction = call.arguments.get("correction", 1)
    correction = 1 if correction is None else float(correction)
    return pairs.variance(call["self"], call["dim"], correction, bool(call["keepdim"]))


def _var_mean(interpreter: RescaleInterpreter, call: Call) -> Any:
    dims, keepdim = call["dim"], bool(call["keepdim"])
    mean = pairs.linear(lambda t: t.mean(dims, keepdim=keepdim), call["self"])
    return _var(interpreter, call), mean


def _norm(interpreter: RescaleInterpreter, call: Call) -> Any:
    if call["ord"] != 2:
        interpreter.note_unruled(call)
        return interpreter.lanes(call)
    squares = pairs.pointwise(torch.square, call["self"])
    dims, keepdim = call["dim"], bool(call["keepdim"])
    return pairs.pointwise(torch.sqrt, pairs.linear(lambda t: t.sum(dims, keepdim), squares))


def _max_pool(interpreter: RescaleInterpreter, call: Call) -> Any:
    x = call["self"]
    now, index_now = call.plain(self=x.now.detach())
    ref, index_ref = call.plain(self=x.ref)
    flat = pairs.linear(lambda t: t.flatten(-2), x)
    y = pairs.winner(
        flat, now.flatten(-2), ref.flatten(-2), index_now.flatten(-2), index_ref.flatten(-2)
    )
    return pairs.linear(lambda t: t.reshape(now.shape), y), index_now


def _amax(interpreter: RescaleInterpreter, call: Call) -> Any:
    x, keepdim = call["self"], bool(call["keepdim"])
    given = call["dim"]
    dims = list(range(x.now.ndim)) if not given and given != 0 else given
    dims = [d % x.now.ndim for d in (dims if isinstance(dims, list | tuple) else [dims])]
    rest = [d for d in range(x.now.ndim) if d not in dims]
    last = pairs.linear(lambda t: t.permute(*rest, *dims).flatten(len(rest)), x)
    now, index_now = last.now.detach().max(-1, keepdim=True)
    ref, index_ref = last.ref.max(-1, keepdim=True)
    y = pairs.winner(last, now, ref, index_now, index_ref)
    shape = [1 if d in dims else size for d, size in enumerate(x.now.shape)]
    kept = shape if keepdim else [x.now.shape[d] for d in rest]
    result = pairs.linear(lambda t: t.reshape(kept), y)
    return result if call.name == "amax" else (result, index_now.reshape(kept))


_RULES: dict[str, Callable[[RescaleInterpreter, Call], Any]] = {
    "mul": _bilinear("self", "other"),
    "mm": _bilinear("self", "mat2"),
    "bmm": _bilinear("self", "mat2"),
    "div": _div,
    "maximum": partial(_extreme, 1.0),
    "minimum": partial(_extreme, -1.0),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "native_batch_norm": RescaleInterpreter.lanes,
    "_native_batch_norm_legit_no_training": RescaleInterpreter.lanes,
    "_batch_norm_no_update": RescaleInterpreter.lanes,
    "cudnn_batch_norm": RescaleInterpreter.lanes,
    "miopen_batch_norm": RescaleInterpreter.lanes,
    "_softmax": partial(_softmax, False),
    "_safe_softmax": partial(_softmax, False),
    "_log_softmax": partial(_softmax, True),
    "var": _var,
    "var_mean": _var_mean,
    "linalg_vector_norm": _norm,
    "max_pool2d_with_indices": _max_pool,
    "adaptive_max_pool2d": _max_pool,
    "amax": _amax,
    "max": _amax,
}
