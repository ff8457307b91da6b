"""What maps are drawn on: the dense network, traces, and networks pruned once for all images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from sklearn.linear_model import ElasticNet
from torch import Tensor

from sparsight.benchmarks.maps.cases import Case
from sparsight.errors import InputError
from sparsight.networks import LayerInput, Network, Recording, WeightMatrix, weight_matrices
from sparsight.traces import COMPENSATED, PRESETS, SOLVERS, Augmentation, trace

__all__ = ["ARMS", "Arm", "ends_in_classes", "parse_arm", "trace_arm"]

_GLOBAL = ("wanda", "magnitude")
ARMS = ("dense", "trace", "fastspade", "wanda:0.5", "magnitude:0.5", "sparse-fc:0.9")
"""Arms that are compared by default."""


class Arm(ABC):
    """A network to draw maps on, given as weights that replace the dense ones."""

    name: str

    def describe(self) -> str:
        """Say everything that decides about its weights, but the network and the case."""
        return self.name

    @abstractmethod
    def weights(self, network: Network, case: Case, seed: int) -> Mapping[str, Tensor]:
        """Return parameters that replace the dense ones for a case."""

    def prepare(self, network: Network, calibration: Tensor) -> None:  # noqa: B027
        """Prune once for all cases on images ``(N, C, H, W)``; nothing to do for traces."""


@dataclass
class _Dense(Arm):
    name: str = "dense"

    def weights(self, network: Network, case: Case, seed: int) -> Mapping[str, Tensor]:
        return {}


@dataclass
class _Trace(Arm):
    """A trace per case."""

    name: str
    options: dict[str, Any]

    def describe(self) -> str:
        return f"trace, {sorted(self.options.items())}"

    def weights(self, network: Network, case: Case, seed: int) -> Mapping[str, Tensor]:
        options = dict(self.options)
        if options.get("sparsity") == "fastspade":
            options["sparsity"] = _published(network)
        return trace(network, case.image, target=case.target, seed=seed, **options).tensors


@dataclass
class _Once(Arm):
    """Weights that are found once."""

    name: str
    kind: str
    ratio: float
    _found: Mapping[str, Tensor] = field(default_factory=dict)

    def prepare(self, network: Network, calibration: Tensor) -> None:
        if self.kind == "sparse-fc":
            self._found = _sparse_head(network, calibration, self.ratio)
        else:
            # a trace of calibration images instead of views is pruning for all of them
            self._found = trace(
                network, calibration[:1], sparsity=self.ratio, solver=self.kind,
                augmentations=calibration,
            ).tensors  # fmt: skip

    def weights(self, network: Network, case: Case, seed: int) -> Mapping[str, Tensor]:
        return self._found


def parse_arm(text: str) -> Arm:
    """Read the name of an arm.

    Parameters
    ----------
    text
        ``dense``; ``trace``, or ``trace:OPTION=VALUE+...`` with options of
        :func:`sparsight.trace` or ``hidden=SHARE`` of :class:`sparsight.traces.Augmentation`;
        ``fastspade``, the published settings; ``wanda:RATIO`` and
        ``magnitude:RATIO``, pruned once for all images; ``sparse-fc:RATIO``, an elastic net in
        place of the last layer.

    Raises
    ------
    InputError
        If there is no such arm.

    Examples
    --------
    >>> parse_arm("trace:solver=sparsegpt+sparsity=ramp:0.9+augmentations=32").options
    {'solver': 'sparsegpt', 'sparsity': 'ramp:0.9', 'augmentations': 32}
    """
    kind, _, rest = text.partition(":")
    if text == "dense":
        return _Dense()
    if text == "fastspade":
        return _Trace(text, {"solver": "sparsegpt", "sparsity": "fastspade", "augmentations": 256})
    if kind == "trace":
        options: dict[str, Any] = dict(_option(part) for part in rest.split("+") if part)
        if "hidden" in options:
            count = options.get("augmentations", Augmentation.count)
            options["augmentations"] = Augmentation(count, hidden=options.pop("hidden"))
        return _Trace(text, options)
    if kind in (*_GLOBAL, "sparse-fc") and rest:
        ratio = _number(rest)
        if isinstance(ratio, float) and 0 <= ratio < 1:
            return _Once(text, kind, ratio)
    raise InputError(
        f"unknown arm {text!r}: use dense, trace, trace:OPTION=VALUE+OPTION=VALUE, fastspade, "
        "wanda:RATIO, magnitude:RATIO, or sparse-fc:RATIO with a ratio in [0, 1)"
    )


def trace_arm(name: str, **options: Any) -> Arm:
    """Make an arm of traces with any options of :func:`sparsight.trace`.

    Examples
    --------
    >>> trace_arm("mine", sparsity={"layer4": 0.9}, solver="sparsegpt").name
    'mine'
    """
    return _Trace(name, options)


_WHOLE = ("augmentations", "positions", "gradients", "refitted")
_REAL = ("damping", "focus", "hidden")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if name == "sparsity":
        return name, _number(value)
    if name == "solver" and value in (COMPENSATED, *SOLVERS):
        return name, value
    if name == "pattern" and value:
        return name, value
    if name in _WHOLE and value.isdecimal():
        return name, int(value)
    if name in _REAL and isinstance(number := _number(value), float):
        return name, number
    raise InputError(
        f"arm option {text!r} makes no sense: use sparsity, solver, pattern, "
        f"{', '.join((*_WHOLE, *_REAL))}, each as NAME=VALUE"
    )


def _published(network: Network) -> dict[str, float]:
    """Return the published ratios of FastSPADE for LRP; on other networks by relative depth."""
    preset = PRESETS["fastspade-lrp"]
    layers = [m.name for m in weight_matrices(network.model)]
    if any(name.startswith("layer4.2") for name in layers) and "fc" in layers:
        return dict(preset)
    ratios = list(preset.values())[::-1]  # from the input on
    last = max(1, len(layers) - 1)
    return {
        name: ratios[round(i / last * (len(ratios) - 1))]
        for i, name in enumerate(layers)
        if i > 0 and ratios[round(i / last * (len(ratios) - 1))] > 0
    }


def _sparse_head(network: Network, calibration: Tensor, ratio: float) -> dict[str, Tensor]:
    """Fit the logits by an elastic net on what the last layer gets, as sparse as asked for.

    Wong, Santurkar, Madry: *Leveraging Sparse Linear Layers for Debuggable Deep Networks*, ICML
    2021, on the logits of the dense network instead of labels, of which there are few here.
    """
    matrices = weight_matrices(network.model)
    features, logits, head = _last_layer(network, matrices, calibration)
    x, y = features.double().cpu().numpy(), logits.double().cpu().numpy()
    low, high = 1e-4, 10.0
    fitted = None
    for _ in range(8):  # the share of zeros rises with the penalty
        alpha = (low * high) ** 0.5
        fitted = ElasticNet(alpha=alpha, l1_ratio=0.99, max_iter=5000, tol=1e-2).fit(x, y)
        if float((fitted.coef_ == 0).mean()) < ratio:
            low = alpha
        else:
            high = alpha
    assert fitted is not None
    found = {head.parameter: torch.from_numpy(fitted.coef_).to(features)}
    bias = head.parameter.removesuffix("weight") + "bias"
    if bias in dict(network.model.named_parameters()):
        found[bias] = torch.from_numpy(fitted.intercept_).to(features)
    return found


def ends_in_classes(network: Network, x: Tensor) -> bool:
    """Whether a network ends in a linear layer over its classes, as ``sparse-fc`` needs."""
    try:
        _last_layer(network, weight_matrices(network.model), x)
    except InputError:
        return False
    return True


def _last_layer(
    network: Network, matrices: Sequence[WeightMatrix], images: Tensor
) -> tuple[Tensor, Tensor, WeightMatrix]:
    """Return what the last layer gets ``(N, columns)``, the logits, and the layer itself."""
    seen: list[tuple[WeightMatrix, Tensor]] = []

    def see(use: LayerInput) -> None:
        seen.append((use.matrix, use.input.detach()))

    with torch.no_grad(), Recording(network.model, list(matrices), on_input=see):
        logits = network(images)
    head, features = seen[-1]
    if features.ndim != 2 or head.units != logits.shape[1]:
        raise InputError(
            "sparse-fc needs a network that ends in a linear layer over its classes: leave it out"
        )
    return features, logits, head
