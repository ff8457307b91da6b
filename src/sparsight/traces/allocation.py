"""How sparse the network becomes, or each layer by itself.

Over the whole network: ``auto`` and ``network:RATIO``, of which the costs of weights say what they
mean layer by layer. Layer by layer: one number, numbers per block, a ramp, the late layers alone,
or a published set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import ceil, isfinite

from sparsight.errors import InputError
from sparsight.networks import WeightMatrix
from sparsight.traces.presets import PRESETS

__all__ = ["DEFAULT_SPARSITY", "Rule", "Sparsity", "allocate", "network_rule"]

Sparsity = float | str | Mapping[str, float]
"""``auto[:NATS]``; ``network:RATIO``; or by layer: a ratio for all, a mapping from patterns to
ratios, ``ramp:RATIO``, ``late:RATIO``, a preset."""

DEFAULT_SPARSITY: Sparsity = "auto"
"""As sparse as the answer allows, by no label and no mask (``benchmarks/curves.py``)."""

_TOLERANCE = 0.01  # nats; by Pinsker's inequality the class moves by no more than 0.07
_LEVELS = (0.98, 0.95, 0.9, 0.8, 0.65, 0.5)


@dataclass(frozen=True)
class Rule:
    """A sparsity of the network as a whole.

    Attributes
    ----------
    levels
        Shares of weights to prune, in the order in which they are tried.
    tolerance
        KL divergence in nats up to which a level is taken.
    """

    levels: tuple[float, ...]
    tolerance: float


def network_rule(sparsity: Sparsity) -> Rule | None:
    """Read ``auto``, ``auto:NATS`` and ``network:RATIO``; ``None`` for shares layer by layer.

    Raises
    ------
    InputError
        If the number is none or out of range.

    Examples
    --------
    >>> network_rule("network:0.9")
    Rule(levels=(0.9,), tolerance=inf)
    >>> network_rule("auto:0.1").tolerance
    0.1
    """
    if not isinstance(sparsity, str):
        return None
    kind, _, value = sparsity.partition(":")
    if kind == "network":
        return Rule((_ratio(value, "of the network"),), float("inf"))
    if kind != "auto":
        return None
    try:
        tolerance = float(value) if value else _TOLERANCE
    except ValueError:
        tolerance = -1.0
    if not isfinite(tolerance) or tolerance < 0:
        raise InputError(
            f"sparsity {sparsity!r}: after auto: comes the KL divergence that is allowed, in "
            "nats, such as 0.01"
        )
    return Rule(_LEVELS, tolerance)


def _ratio(value: object, where: str) -> float:
    try:
        ratio = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f"sparsity {value!r} {where} is no number") from error
    if not isfinite(ratio) or not 0 <= ratio < 1:
        raise InputError(
            f"sparsity {ratio:g} {where} is out of range: it must lie in [0, 1), "
            "as the share of weights to prune"
        )
    return ratio


def _matches(pattern: str, name: str) -> bool:
    return (
        name == pattern
        or name.startswith((f"{pattern}.", f"{pattern}["))
        or fnmatchcase(name, pattern)
    )


def _by_pattern(ratios: Mapping[str, float], names: Sequence[str]) -> list[float]:
    strange = [pattern for pattern in ratios if not isinstance(pattern, str)]
    if strange:
        raise InputError(f"sparsity names a layer {strange[0]!r}: layers are named by texts")
    checked = {pattern: _ratio(value, f"of {pattern!r}") for pattern, value in ratios.items()}
    unused = [p for p in checked if not any(_matches(p, name) for name in names)]
    if unused:
        raise InputError(
            f"no layer matches {unused[0]!r}: layers are called {names[0]!r} ... {names[-1]!r} "
            "(one before the first of these is pruned with stem only)"
        )
    result = []
    for name in names:
        hits = [p for p in checked if _matches(p, name)]
        best = max(hits, key=lambda p: (p == name, len(p)), default=None)
        result.append(0.0 if best is None else checked[best])
    return result


def allocate(sparsity: Sparsity, matrices: Sequence[WeightMatrix]) -> dict[str, float]:
    """Give each weight matrix its sparsity.

    Parameters
    ----------
    sparsity
        A ratio in [0, 1) for every layer. Or a mapping from layers to ratios: a module path
        covers everything below it (``layer4``), globs work (``*.conv2``), the exact name or
        else the longest match wins, layers without a match stay dense. Or ``ramp:0.95``: rising
        linearly from 0 at the first layer to the given ratio at the last. Or ``late:0.95``: the
        ratio for the last third of the layers alone, as published for visualizations. Or the name
        of a published set, see :data:`sparsight.traces.PRESETS`.
    matrices
        Layers in the order of use.

    Returns
    -------
    dict
        Sparsity by layer name.

    Raises
    ------
    InputError
        A ratio out of range, a pattern that fits nothing, an unknown name.

    Examples
    --------
    >>> from torch import nn
    >>> from sparsight.networks import weight_matrices
    >>> layers = weight_matrices(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    >>> allocate({"*": 0.5, "1": 0.9}, layers)
    {'0': 0.5, '1': 0.9}
    """
    names = [matrix.name for matrix in matrices]
    if isinstance(sparsity, str):
        sparsity = PRESETS.get(sparsity, sparsity)
    if isinstance(sparsity, Mapping):
        return dict(zip(names, _by_pattern(sparsity, names), strict=True)) if names else {}
    if isinstance(sparsity, str):
        if sparsity.startswith("ramp:"):
            top = _ratio(sparsity.removeprefix("ramp:"), "of the ramp")
            last = max(len(names) - 1, 1)
            return {name: top * index / last for index, name in enumerate(names)}
        if sparsity.startswith("late:"):
            ratio = _ratio(sparsity.removeprefix("late:"), "of the late layers")
            first = len(names) - ceil(len(names) / 3)
            return {name: ratio * (index >= first) for index, name in enumerate(names)}
        if not sparsity.replace(".", "").replace("-", "").isdigit():
            raise InputError(
                f"unknown sparsity {sparsity!r}: give auto, network:NUMBER, a number in [0, 1) for "
                f"every layer, ramp:NUMBER, late:NUMBER, or one of {', '.join(sorted(PRESETS))}"
            )
    return dict.fromkeys(names, _ratio(sparsity, "for all layers"))
