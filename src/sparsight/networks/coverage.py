"""How much of a network its weight matrices cover, found by watching one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from sparsight.networks.calls import LayerCall
from sparsight.networks.matrices import weight_matrices
from sparsight.networks.network import Network
from sparsight.networks.recording import Recording

__all__ = ["Coverage", "UncoveredLayer", "WeightUse", "coverage", "unread_weights"]

_MULTIPLYING = (_ConvNd, nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
_PRODUCTS = {
    "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "addbmm", "einsum",
    "tensordot",
}  # fmt: skip
_LAYERS = {  # of an input, and then of weights
    "linear", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d",
}  # fmt: skip


@dataclass(frozen=True)
class UncoveredLayer:
    """A layer that multiplies by weights which no method can see or prune.

    Attributes
    ----------
    name
        Module path.
    kind
        Class of the module.
    weights
        Number of weights it holds.
    reason
        Why it is not covered.
    """

    name: str
    kind: str
    weights: int
    reason: str


@dataclass(frozen=True)
class Coverage:
    """Which multiplying weights of a network Sparsight reads as matrices.

    Biases, normalisation, embeddings and bare parameters are not counted: they are not weight
    matrices of a layer.

    Attributes
    ----------
    spec
        The network.
    kinds
        Number of weight matrices by kind, those only that the forward pass used.
    covered
        Weights in them.
    total
        Weights of all convolutional, linear, bilinear, attention and recurrent layers.
    uncovered
        Layers that hold the rest.
    """

    spec: str
    kinds: Mapping[str, int]
    covered: int
    total: int
    uncovered: tuple[UncoveredLayer, ...]

    @property
    def share(self) -> float:
        """Covered weights over all; 1 for a network without any."""
        return self.covered / self.total if self.total else 1.0

    def describe(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "spec": self.spec,
            "kinds": dict(self.kinds),
            "covered": self.covered,
            "total": self.total,
            "share": self.share,
            "uncovered": [vars(layer) for layer in self.uncovered],
        }


class WeightUse(TorchFunctionMode):
    """What operations do with the parameters of a model that runs inside the block.

    Attributes
    ----------
    touched, multiplied
        Identities of parameters that any operation was given, or one that multiplies matrices; as
        they are, or as a view.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._parameters = {id(parameter) for parameter in model.parameters()}
        self.touched: set[int] = set()
        self.multiplied: set[int] = set()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if not _holds_tensors((found,)):  # a size or a type, not what is in it
            return found
        name = getattr(func, "__name__", "")
        for place, value in (*enumerate(args), *kwargs.items()):
            weighs = name in _PRODUCTS or (name in _LAYERS and place not in (0, "input"))
            for one in value if isinstance(value, list | tuple) else (value,):
                self._see(one, weighs)
        return found

    def _see(self, value: Any, weighs: bool) -> None:
        if not isinstance(value, Tensor):
            return
        key = id(value if value._base is None else value._base)
        if key in self._parameters:
            self.touched.add(key)
            if weighs:
                self.multiplied.add(key)


def _holds_tensors(values: Iterable[Any]) -> bool:
    return any(
        isinstance(value, Tensor) or (isinstance(value, list | tuple) and _holds_tensors(value))
        for value in values
    )


def unread_weights(model: nn.Module, use: WeightUse) -> dict[str, str]:
    """Name the parameters that multiply but are in no weight matrix, and say why, by name."""
    known = {id(model.get_parameter(m.parameter)) for m in weight_matrices(model)}
    found = {
        name: f"{type(module).__name__} is not supported"
        for _, module, name, parameter in _multiplying_weights(model)
        if id(parameter) not in known
    }
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and id(parameter) in use.multiplied - known and parameter.numel():
            found.setdefault(name, "used by an operation that is not supported")
    return found


def _reason(kind: str, known: bool, touched: bool) -> str:
    if not known:
        return f"{kind} is not supported"
    if touched:
        return "its weight is not used as it is: the forward pass computes another from it"
    return "the forward pass never calls it in evaluation mode"


def _multiplying_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Yield module path, module, parameter name and tensor of each weight that multiplies."""
    known = {matrix.parameter for matrix in weight_matrices(model)}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{own}" if path else own
            multiplies = isinstance(module, _MULTIPLYING) and parameter.ndim > 1
            if parameter.numel() == len(parameter) and not own.startswith("weight"):
                multiplies = False  # a number for each unit
            if isinstance(module, nn.MultiheadAttention) and own in {"bias_k", "bias_v"}:
                multiplies = False
            if (multiplies or name in known) and id(parameter) not in seen:
                seen.add(id(parameter))
                yield path, module, name, parameter


def coverage(network: Network) -> Coverage:
    """Run one image of zeros through a network and see which of its weights are read.

    Parameters
    ----------
    network
        In evaluation mode; trained or not makes no difference.

    Returns
    -------
    Coverage

    Raises
    ------
    UnsupportedError
        If a layer's weight is computed on the fly (see
        :func:`sparsight.networks.weight_matrices`).
    NetworkError
        If the network is in training mode.

    Examples
    --------
    >>> from sparsight.networks import Preprocessing
    >>> model = nn.Sequential(nn.ConvTranspose2d(3, 1, 2), nn.Flatten(), nn.Linear(25, 2))
    >>> found = coverage(Network(model.eval(), Preprocessing((4, 4), None), ("a", "b")))
    >>> found.covered, found.total, found.uncovered[0].reason
    (50, 62, 'ConvTranspose2d is not supported')
    """
    network.require_eval()
    matrices = weight_matrices(network.model)
    used: set[str] = set()

    def see(call: LayerCall) -> None:
        used.add(call.matrix.name)

    settings = network.preprocessing
    x = torch.zeros(
        1, settings.channels, *settings.size, device=network.device, dtype=network.dtype
    )
    with torch.no_grad(), WeightUse(network.model) as use, Recording(network.model, matrices, see):
        network(x)

    total = 0
    uncovered: list[UncoveredLayer] = []
    for path, module, name, parameter in _multiplying_weights(network.model):
        total += parameter.numel()
        inside = [matrix for matrix in matrices if matrix.parameter == name]
        unread = parameter.numel() - sum(m.numel for m in inside if m.name in used)
        if unread:
            kind = type(module).__name__
            reason = _reason(kind, bool(inside), id(parameter) in use.touched)
            uncovered.append(UncoveredLayer(path, kind, unread, reason))
    return Coverage(
        spec=network.spec,
        kinds=dict(Counter(matrix.kind for matrix in matrices if matrix.name in used)),
        covered=total - sum(layer.weights for layer in uncovered),
        total=total,
        uncovered=tuple(uncovered),
    )
