"""The network as a graph of single operations, so that each can be given its own rule.

Running the network once on the image yields every ATen operation it really did, in order and
without side effects: an activation module used twice is two nodes, an in-place operation is an
ordinary one, and it does not matter whether the author wrote a module, a function or a method.
Rules are then chosen by what an operation *is*, never by what a layer is called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsight.errors import SparsightError, UnsupportedError

__all__ = [
    "Call",
    "RuledInterpreter",
    "Substitute",
    "Trace",
    "is_linear",
    "is_pointwise",
    "multiplier",
    "trace",
]

# Linear in their tensor arguments taken together: plain differentiation is the rule.
_LINEAR_NAMES = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _to_copy _unsafe_view adaptive_avg_pool2d add addmm alias
alias_copy as_strided as_strided_copy avg_pool1d avg_pool2d avg_pool3d baddbmm bmm cat chunk clone
constant_pad_nd contiguous convolution copy cumsum detach diagonal diagonal_copy div expand
expand_copy flip gather im2col index index_select lift_fresh lift_fresh_copy mean mm mul narrow
narrow_copy neg permute permute_copy pixel_shuffle pixel_unshuffle reflection_pad2d repeat
replication_pad2d reshape roll rsub select select_copy select_scatter slice slice_copy slice_scatter
split split_copy split_with_sizes split_with_sizes_copy squeeze squeeze_copy stack sub sum t t_copy
transpose transpose_copy unbind unbind_copy unfold unfold_copy unsafe_chunk unsafe_split unsqueeze
unsqueeze_copy upsample_bicubic2d upsample_bilinear2d upsample_nearest2d view view_copy where
"""
_LINEAR = frozenset(_LINEAR_NAMES.split())

# Take only shape and type from their tensor argument.
_SHAPE_ONLY_NAMES = """
new_zeros new_ones new_full new_empty new_empty_strided zeros_like ones_like full_like empty_like
empty_strided fill sym_size sym_numel
"""
_SHAPE_ONLY = frozenset(_SHAPE_ONLY_NAMES.split())


def is_linear(name: str) -> bool:
    """Whether an operation is linear in its image-carrying arguments taken together.

    Products and quotients are, as long as only one factor carries the image.
    """
    return name in _LINEAR


class Substitute(torch.autograd.Function):
    """Forward one value, send the gradient to another: ``y = value``, ``dy = d linear``."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, linear: Tensor) -> Tensor:
        """Return the value; ``linear`` has its shape."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        """Hand the gradient to the linear surrogate alone."""
        return None, gradients[0]


@dataclass(frozen=True)
class Call:
    """One operation with its arguments by name.

    Attributes
    ----------
    target
        ATen overload.
    arguments
        Values by schema name, defaults filled in.
    depends
        Names of the arguments that carry the image (a list counts when any entry does).
    node
        Its place in the graph.
    """

    target: Any
    arguments: Mapping[str, Any]
    depends: frozenset[str]
    node: fx.Node

    @property
    def name(self) -> str:
        """Operation without its overload, e.g. ``mul``."""
        return str(self.target._schema.name).split("::")[-1]

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def on(self, value: Any) -> Call:
        """Return the same operation with another value as its one dependent argument."""
        (name,) = self.depends
        return replace(self, arguments=dict(self.arguments) | {name: value})

    def plain(self, /, **replaced: Any) -> Any:
        """Run the operation itself, some arguments replaced."""
        arguments = dict(self.arguments) | replaced
        positional, keywords = [], {}
        for argument in self.target._schema.arguments:
            if argument.kwarg_only:
                keywords[argument.name] = arguments[argument.name]
            else:
                positional.append(arguments[argument.name])
        return self.target(*positional, **keywords)


def is_pointwise(call: Call) -> bool:
    """Whether an operation is a function of single values of its one image-dependent tensor.

    ATen marks most such operations; where it does not, the operation is tried: changing every
    second value must leave the others' results alone.
    """
    if len(call.depends) != 1:
        return False
    if torch.Tag.pointwise in call.target.tags:
        return True
    (name,) = call.depends
    x = call[name]
    if not isinstance(x, Tensor) or x.numel() < 2:
        return False
    kept = (torch.arange(x.numel(), device=x.device) % 2 == 0).reshape(x.shape)
    with torch.no_grad():
        value = call.plain(**{name: x})
        if not isinstance(value, Tensor) or value.shape != x.shape:
            return False
        changed = call.plain(**{name: torch.where(kept, x, 1 - 2 * x)})
    return torch.equal(value[kept], changed[kept]) and not torch.equal(value, changed)


@dataclass(frozen=True, eq=False)
class Trace:
    """A functional graph of one forward pass on one image.

    Attributes
    ----------
    module
        ``(1, C, H, W) -> (1, classes)``; parameters are attributes that share memory.
    dependent
        Nodes whose value depends on the image.
    """

    module: fx.GraphModule
    dependent: frozenset[fx.Node]

    def call(self, node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Bind values to the schema of a node's operation."""
        arguments: dict[str, Any] = {}
        depends = set()
        for index, spec in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
            if index < len(args):
                arguments[spec.name], source = args[index], node.args[index]
            elif spec.name in kwargs:
                arguments[spec.name], source = kwargs[spec.name], node.kwargs[spec.name]
            else:
                arguments[spec.name], source = spec.default_value, None
            sources = source if isinstance(source, list | tuple) else (source,)
            if any(isinstance(s, fx.Node) and s in self.dependent for s in sources):
                depends.add(spec.name)
        return Call(node.target, arguments, frozenset(depends), node)


def _forget(tensor: Tensor) -> None:
    """Save nothing for a backward pass."""


def _forgotten(nothing: Any) -> Tensor:
    raise AssertionError("a recording is never differentiated")


def trace(view: nn.Module, x: Tensor) -> Trace:
    """Record what a network does to an image as a functional ATen graph.

    Parameters
    ----------
    view
        Module from ``(1, C, H, W)`` to ``(1, classes)``.
    x
        The image.

    Returns
    -------
    Trace
        The graph; it is valid for inputs of this shape that take the same branches.

    Raises
    ------
    UnsupportedError
        If the network decides by values what to compute, or uses an operation that cannot be
        recorded.

    Examples
    --------
    >>> view = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU()).eval()
    >>> graph = trace(view, torch.ones(1, 1, 2, 2)).module.graph
    >>> "aten.relu.default" in [str(node.target) for node in graph.nodes]
    True
    """
    start = x.detach().clone().requires_grad_()
    functional = torch.func.functionalize(view, remove="mutations_and_views")
    try:
        # Nothing is differentiated here, and what a recording saves for that is never freed.
        forget = torch.autograd.graph.saved_tensors_hooks(_forget, _forgotten)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), forget:
            module = make_fx(functional)(start)
    except SparsightError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise UnsupportedError(
            f"the network's operations cannot be recorded one by one ({reason}): use a method "
            "that only needs gradients or forward passes, such as integrated_gradients"
        ) from error
    module.graph.eliminate_dead_code()
    dependent: set[fx.Node] = set()
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        constant = schema is not None and schema.name.split("::")[-1] in _SHAPE_ONLY
        carried = any(n in dependent for n in node.all_input_nodes)
        if node.op == "placeholder" or (carried and not constant):
            dependent.add(node)
    return Trace(module, frozenset(dependent))


class RuledInterpreter(fx.Interpreter, ABC):
    """Runs a traced network operation by operation, each under its rule.

    A subclass implements :meth:`apply`. ``unruled`` collects nonlinear operations for which it
    had none, in the order met.
    """

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace.module)
        self.trace = trace
        self.unruled: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node: by rule if it carries the image, as it is otherwise."""
        if n.op != "call_function":
            with torch.no_grad():
                return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n not in self.trace.dependent:
            args, kwargs = fx.node.map_aggregate((args, kwargs), self.value)
            assert callable(n.target)
            with torch.no_grad():
                return n.target(*args, **kwargs)
        if not hasattr(n.target, "_schema"):  # getitem on a tuple of results
            assert callable(n.target)
            return n.target(*args, **kwargs)
        return self.apply(self.trace.call(n, args, kwargs))

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Hand in the image."""
        return next(self.args_iter)

    def value(self, item: Any) -> Any:
        """Return the plain tensor of what a subclass carries for one."""
        return item

    @abstractmethod
    def apply(self, call: Call) -> Any:
        """Run one operation that carries the image."""

    def note_unruled(self, call: Call) -> None:
        """Remember an operation treated by plain differentiation without being linear."""
        if not is_linear(call.name):
            self.unruled[call.name] = self.unruled.get(call.name, 0) + 1


def multiplier(function: Callable[[Tensor], Tensor], at: Tensor, value: Tensor) -> Tensor:
    """``f(x) / x`` of a function with ``f(0) = 0``; close to zero, its slope there."""
    tiny = float(torch.finfo(at.dtype).tiny) ** 0.5
    near = at.abs() < tiny
    step = torch.full_like(at, tiny**0.5)
    return torch.where(near, function(step) / step, value / torch.where(near, step, at))
