r"""Layer-wise relevance on the graph of operations: what comes out, went in.

Every operation is replaced by a surrogate that has its value and is *linear and homogeneous* in
the image-dependent inputs and the scalar ``one`` which multiplies every bias and constant. By
Euler's theorem relevance ``a * gradient`` is then conserved at every node:

=====================  =====================================================================
operation              surrogate
=====================  =====================================================================
convolution, matrix    a rule of :mod:`~sparsight.attribution.relevance`; eval batch norm is merged
activation, f(0) = 0   ``x * [f(x) / x]``, the bracket constant (1 or 0 for ReLU)
sum, residual          each summand keeps its share of the value
max pooling            the winner takes all
layer or group norm    deviation constant: ``(x - mean) [1 / std] w + b one``
softmax, sigmoid, ...  constant: attention weights and gates steer, the gated signal carries
product of signals     half of the relevance to each factor
division               the denominator is constant
=====================  =====================================================================

References: Bach et al. 2015; Arras et al. 2017 (gates); Ali et al., *XAI for Transformers: Better
Explanations through Conservative Propagation*, ICML 2022 (attention, layer norm); Achtibat et
al., *AttnLRP*, ICML 2024 (products, identity rule of normalisation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from sparsight.attribution.graph import (
    Call,
    RuledInterpreter,
    Substitute,
    Trace,
    is_linear,
    is_pointwise,
    multiplier,
)
from sparsight.attribution.relevance import (
    LinearMap,
    Rule,
    convolution_map,
    matrix_map,
    relevance_linear,
)

__all__ = ["Composite", "RelevanceInterpreter"]

_COPIES = {"clone", "_to_copy", "alias", "contiguous", "detach", "lift_fresh"}


@dataclass(frozen=True)
class Composite:
    """Which rule goes where.

    Attributes
    ----------
    first
        Layers that see the image itself.
    spatial
        Convolutions, and linear layers applied at many positions (which are 1x1 convolutions).
    dense
        Linear layers applied once.
    """

    first: Rule
    spatial: Rule
    dense: Rule


@dataclass(frozen=True, eq=False)
class _Deferred:
    """A convolution waiting for the batch norm that follows it."""

    call: Call


_BATCH_NORMS = (
    "native_batch_norm",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_no_update",
    "cudnn_batch_norm",
    "miopen_batch_norm",
)


class RelevanceInterpreter(RuledInterpreter):
    """Runs the network with surrogates; call :meth:`explain` for the relevance."""

    def __init__(self, trace: Trace, composite: Composite) -> None:
        super().__init__(trace)
        self.composite = composite
        self.one = torch.ones(())
        self.collector: Tensor | None = None

    def explain(self, x: Tensor, target: int) -> tuple[Tensor, float, float]:
        """Return relevance like ``x``, what constants absorbed, and the explained logit."""
        self.one = torch.ones((), dtype=x.dtype, device=x.device, requires_grad=True)
        self.collector = torch.zeros_like(x).requires_grad_()
        x = x.detach().clone().requires_grad_()
        logit = self.run(x)[0, target]
        relevance = torch.zeros_like(x)
        absorbed = 0.0
        if logit.requires_grad:
            leaves = (x, self.one, self.collector)
            gradient, one, collected = torch.autograd.grad(logit, leaves, allow_unused=True)
            for part in (None if gradient is None else gradient * x.detach(), collected):
                relevance = relevance if part is None else relevance + part
            absorbed = 0.0 if one is None else float(one)
        return relevance.detach(), absorbed, float(logit.detach())

    def apply(self, call: Call) -> Any:
        """Run one operation as its surrogate."""
        rule = _RULES.get(call.name)
        if rule is not None:
            return rule(self, call)
        if is_linear(call.name):
            return call.plain()
        if is_pointwise(call):
            return self.activation(call)
        self.note_unruled(call)
        return call.plain()

    def activation(self, call: Call) -> Any:
        """``x f(x)/x`` where ``f(0) = 0``; a constant otherwise."""
        (name,) = call.depends
        x = call[name]
        with torch.no_grad():
            value = call.plain()
            if not isinstance(x, Tensor) or not value.is_floating_point():
                return value
            if value.shape != x.shape or bool(call.plain(**{name: torch.zeros_like(x)}).any()):
                return value
            share = multiplier(lambda t: call.plain(**{name: t}), x, value)
        return Substitute.apply(value, x * share)

    def linear(
        self, call: Call, x: str, weight: Tensor, bias: Tensor | None, kind: LinearMap, dense: bool
    ) -> Tensor:
        """Run a linear map under the composite's rule for its place."""
        rule = self.composite.dense if dense else self.composite.spatial
        collector = None
        if _sees_image(call.node.all_input_nodes, self.trace):
            rule = self.composite.first
            if rule.flat:
                collector = self.collector
        return relevance_linear(call[x], self.one, weight, bias, kind, rule, collector)


def _sees_image(inputs: list[fx.Node], trace: Trace) -> bool:
    """Whether one of them is the image, or a copy of it."""
    return any(_copied(node).op == "placeholder" for node in inputs if node in trace.dependent)


def _copied(node: fx.Node) -> fx.Node:
    """Return what a node copies, over any number of copies; itself if it is none."""
    while str(node.target).removeprefix("aten.").split(".")[0] in _COPIES:
        node = node.all_input_nodes[0]
    return node


def _convolution(interpreter: RelevanceInterpreter, call: Call) -> Any:
    if call.depends != {"input"}:
        interpreter.note_unruled(call)
        return call.plain()
    users = list(call.node.users)
    if len(users) == 1 and not call["transposed"]:
        schema = getattr(users[0].target, "_schema", None)
        if schema is not None and schema.name.split("::")[-1] in _BATCH_NORMS:
            return _Deferred(call)
    return _convolve(interpreter, call, call["weight"], call["bias"])


def _convolve(
    interpreter: RelevanceInterpreter, call: Call, weight: Tensor, bias: Tensor | None
) -> Tensor:
    names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    kind = convolution_map(*(call[name] for name in names))
    if bias is not None:
        bias = bias.reshape(-1, *(1,) * (weight.ndim - 2))
    return interpreter.linear(call, "input", weight, bias, kind, dense=False)


def _batch_norm(interpreter: RelevanceInterpreter, call: Call) -> Any:
    mean, var = call["running_mean"], call["running_var"]
    eps = call.arguments.get("eps", call.arguments.get("epsilon"))
    scale = torch.rsqrt(var + eps)
    if call["weight"] is not None:
        scale = scale * call["weight"]
    shift = -mean * scale
    if call["bias"] is not None:
        shift = shift + call["bias"]
    x = call["input"]
    if isinstance(x, _Deferred):
        inner = x.call
        weight = inner["weight"]
        if inner["bias"] is not None:
            shift = shift + inner["bias"] * scale
        merged = weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
        y = _convolve(interpreter, inner, merged, shift)
    else:
        shape = (1, -1, *(1,) * (x.ndim - 2))
        y = x * scale.reshape(shape) + shift.reshape(shape) * interpreter.one
    return y, *(None,) * (len(call.target._schema.returns) - 1)


def _addmm(interpreter: RelevanceInterpreter, call: Call) -> Any:
    plain = call["alpha"] == 1 and call["beta"] == 1
    if call.depends != {"mat1"} or not plain:
        interpreter.note_unruled(call)
        return call.plain()
    dense = call["mat1"].shape[0] == 1
    return interpreter.linear(call, "mat1", call["mat2"], call["self"], matrix_map(), dense)


def _mm(interpreter: RelevanceInterpreter, call: Call) -> Any:
    if call.depends == {"self"}:
        dense = call["self"].shape[0] == 1
        return interpreter.linear(call, "self", call["mat2"], None, matrix_map(), dense)
    return _halves("self", "mat2")(interpreter, call)


def _halves(first: str, second: str) -> Callable[[RelevanceInterpreter, Call], Any]:
    def rule(interpreter: RelevanceInterpreter, call: Call) -> Any:
        a, b = call[first], call[second]
        carriers = [isinstance(t, Tensor) and t.requires_grad for t in (a, b)]
        if not all(carriers):
            return call.plain()
        left = call.plain(**{second: b.detach()})
        right = call.plain(**{first: a.detach()})
        return (left + right) / 2

    return rule


def _div(interpreter: RelevanceInterpreter, call: Call) -> Any:
    other = call["other"]
    return call.plain(other=other.detach() if isinstance(other, Tensor) else other)


def _constant(interpreter: RelevanceInterpreter, call: Call) -> Any:
    with torch.no_grad():
        return call.plain()


def _var_mean(interpreter: RelevanceInterpreter, call: Call) -> Any:
    var, mean = call.plain()
    return var.detach(), mean


def _plain(interpreter: RelevanceInterpreter, call: Call) -> Any:
    return call.plain()


def _sum(interpreter: RelevanceInterpreter, call: Call) -> Any:
    replaced = {}
    for name in ("self", "other"):
        if name not in call.depends:
            replaced[name] = call[name] * interpreter.one
    if isinstance(replaced.get("other"), Tensor) and not isinstance(call["other"], Tensor):
        alpha = call.arguments.get("alpha", 1)
        constant = replaced["other"] * alpha
        if call.name == "rsub":
            return constant / alpha - call["self"] * alpha
        return call["self"] + (constant if call.name == "add" else -constant)
    return call.plain(**replaced)


def _join(interpreter: RelevanceInterpreter, call: Call) -> Any:
    nodes = call.node.args[0]
    assert isinstance(nodes, list | tuple)
    carried = interpreter.trace.dependent
    tensors = [
        value if node in carried else value * interpreter.one
        for node, value in zip(nodes, call["tensors"], strict=True)
    ]
    return call.plain(tensors=tensors)


def _scatter(interpreter: RelevanceInterpreter, call: Call) -> Any:
    parts = [name for name in ("self", "src", "other") if name in call.arguments]
    constants = [n for n in parts if n not in call.depends and isinstance(call[n], Tensor)]
    return call.plain(**{name: call[name] * interpreter.one for name in constants})


def _layer_norm(interpreter: RelevanceInterpreter, call: Call) -> Any:
    x, dims = call["input"], list(range(-len(call["normalized_shape"]), 0))
    centred = x - x.mean(dims, keepdim=True)
    with torch.no_grad():
        scale = torch.rsqrt(x.var(dims, correction=0, keepdim=True) + call["eps"])
    return _affine(interpreter, centred * scale, call["weight"], call["bias"]), None, None


def _group_norm(interpreter: RelevanceInterpreter, call: Call) -> Any:
    x, channels = call["input"], (1, -1, *(1,) * (call["input"].ndim - 2))
    grouped = x.reshape(x.shape[0], call["group"], -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    with torch.no_grad():
        scale = torch.rsqrt(grouped.var(-1, correction=0, keepdim=True) + call["eps"])
    weight, bias = (
        None if p is None else p.reshape(channels) for p in (call["weight"], call["bias"])
    )
    return _affine(interpreter, (centred * scale).reshape(x.shape), weight, bias), None, None


def _affine(
    interpreter: RelevanceInterpreter, y: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias * interpreter.one


_RULES: dict[str, Callable[[RelevanceInterpreter, Call], Any]] = {
    "convolution": _convolution,
    "addmm": _addmm,
    "mm": _mm,
    "bmm": _halves("self", "mat2"),
    "mul": _halves("self", "other"),
    "div": _div,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(_BATCH_NORMS, _batch_norm),
    **dict.fromkeys(("add", "sub", "rsub"), _sum),
    **dict.fromkeys(("cat", "stack"), _join),
    **dict.fromkeys(("slice_scatter", "select_scatter", "where"), _scatter),
    **dict.fromkeys(("_softmax", "_safe_softmax", "_log_softmax"), _constant),
    **dict.fromkeys(("var", "linalg_vector_norm"), _constant),
    "var_mean": _var_mean,
    **dict.fromkeys(("max_pool2d_with_indices", "adaptive_max_pool2d", "amax", "max"), _plain),
}
