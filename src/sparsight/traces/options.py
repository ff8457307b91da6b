"""Options of a trace: what they mean by default, and which go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sparsight.errors import InputError
from sparsight.networks import Network
from sparsight.traces.allocation import DEFAULT_SPARSITY, Rule, Sparsity, allocate, network_rule
from sparsight.traces.augment import Augmentation
from sparsight.traces.precision import run_in
from sparsight.traces.pruning import Progress
from sparsight.traces.solvers import SOLVERS
from sparsight.traces.solvers.patterns import parse_pattern

__all__ = [
    "COMPENSATED", "GRADIENTS", "HELD_OUT", "POSITIONS", "REFITTED", "Options", "check_options",
    "check_solver", "most_views", "positions_for",
]  # fmt: skip

COMPENSATED = "compensated"
"""The solver that works front to back, see :mod:`sparsight.traces.compensate`."""

POSITIONS = 256
"""Positions per layer that it fits on by default."""

GRADIENTS = 16
"""Images, the sample among them, whose gradients say by default which weights matter."""

REFITTED = 128
"""Weights of a row that make up for the others, at most, by default."""

HELD_OUT = 8
"""Views that it answers but does not fit on, if there are four times as many."""

_DAMPING, _PUBLISHED_DAMPING = 0.3, 0.01
_WHOLE = {"positions": 1, "gradients": 1, "refitted": 1, "chunk": 1, "seed": None, "target": None}
_PER_VIEW = 8  # positions: at fewer of them another view adds work and memory but no insight


@dataclass(frozen=True)
class Options:
    """Those of :func:`sparsight.trace`, checked as far as they can be without a network."""

    augmentations: int | Augmentation | Tensor
    solver: str
    target: int | None = None
    seed: int = 0
    damping: float | None = None
    focus: float = 0.5
    positions: int = POSITIONS
    gradients: int = GRADIENTS
    refitted: int = REFITTED
    pattern: str = "weight"
    precision: str = "full"
    stem: bool = False
    chunk: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        for name in ("damping", "focus"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real | None):
                raise InputError(f"{name} is {value!r}: give a number")
            if value is not None:
                object.__setattr__(self, name, float(value))  # not a number of numpy
        if not isinstance(self.pattern, str):
            raise InputError(f"pattern is {self.pattern!r}: give weight, kernel, input, or N:M")
        if not 0 < self.pull < float("inf"):
            raise InputError(f"damping {self.damping} must be positive")
        if not 0 <= self.focus <= 1:
            raise InputError(f"focus {self.focus} is out of range: it must lie in [0, 1]")
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            whole = type(value) is int or (value is None and name in ("chunk", "target"))
            if not whole or (value is not None and least is not None and value < least):
                wanted = "a whole number" if least is None else f"{least} or more"
                raise InputError(f"{name} is {value!r}: give {wanted}")
        if not -(2**63) <= self.seed < 2**63:
            raise InputError(f"seed {self.seed} does not fit into 64 bits: give a smaller one")
        if type(self.augmentations) is int:
            Augmentation(count=self.augmentations)  # refuses too few
        elif not isinstance(self.augmentations, Augmentation | Tensor):
            raise InputError(
                f"augmentations are {self.augmentations!r}: give how many, an Augmentation, or a "
                "tensor of views"
            )
        if torch.is_inference_mode_enabled():
            raise InputError("a trace needs gradients: leave torch.inference_mode() first")

    @property
    def recipe(self) -> Augmentation | Tensor:
        """Views as drawn: a number of them means the published recipe."""
        given = self.augmentations
        return Augmentation(count=given) if isinstance(given, int) else given

    @property
    def pull(self) -> float:
        """Damping as used."""
        if self.damping is not None:
            return self.damping
        return _DAMPING if self.solver == COMPENSATED else _PUBLISHED_DAMPING

    def check(self, network: Network, sparsities: Sequence[Sparsity]) -> list[Rule | None]:
        """Refuse what does not go together; read the sparsities.

        Raises
        ------
        InputError, NetworkError
            See :func:`sparsight.trace`.
        """
        network.require_eval()
        run_in(self.precision, network.device)
        if self.precision != "full" and network.dtype not in (torch.float32, torch.bfloat16):
            raise InputError(
                f"precision {self.precision!r} is for networks in float32, this one is in "
                f"{str(network.dtype).removeprefix('torch.')}: leave it out"
            )
        rules = [check_solver(self.solver, sparsity, self.pattern) for sparsity in sparsities]
        for sparsity, rule in zip(sparsities, rules, strict=True):
            if rule is None and not isinstance(sparsity, Mapping):
                allocate(sparsity, [])  # refuses words that mean nothing
        return rules


def most_views(positions: int) -> int:
    """Say how many views ``compensated`` uses, if there are as many."""
    return max(1, positions // _PER_VIEW) + HELD_OUT


def positions_for(views: int) -> int:
    """Say how many positions ``compensated`` needs to use so many views."""
    return _PER_VIEW * max(1, views - HELD_OUT)


def check_options(network: Network, options: Mapping[str, Any]) -> None:
    """Refuse options of :func:`sparsight.trace` that do not go together, before there is an image.

    Raises
    ------
    InputError, NetworkError
        See :func:`sparsight.trace`.
    """
    given = {"augmentations": 64, "solver": COMPENSATED, **options}
    sparsity = given.pop("sparsity", DEFAULT_SPARSITY)
    Options(**given).check(network, [sparsity])


def check_solver(solver: str, sparsity: Sparsity, pattern: str = "weight") -> Rule | None:
    """Refuse a solver that does not exist or cannot work to a sparsity; read the sparsity.

    Returns
    -------
    Rule or None
        ``None`` for a sparsity that is given layer by layer.

    Raises
    ------
    InputError
        Unknown solver or pattern, or a rule or pattern that the solver cannot follow.
    """
    names = (COMPENSATED, *SOLVERS)
    if solver not in names:
        raise InputError(f"unknown solver {solver!r}: choose from {', '.join(names)}")
    rule = network_rule(sparsity)
    if rule is not None and len(rule.levels) > 1 and solver != COMPENSATED:
        raise InputError(
            f"sparsity {sparsity!r} needs the solver {COMPENSATED!r}: for {solver!r} give a "
            "share, such as 0.5 or network:0.5"
        )
    parsed = parse_pattern(pattern)
    if parsed.kind != "weight" and solver != COMPENSATED:
        raise InputError(f"pattern {pattern!r} needs the solver {COMPENSATED!r}, not {solver!r}")
    if parsed.run and rule is not None and len(rule.levels) == 1:
        raise InputError(
            f"pattern {pattern!r} fixes the sparsity, {sparsity!r} asks for another: leave it out"
        )
    return rule
