"""Find the weights that a network needs for one sample.

Augment the sample, run the views through the dense network, decide which weights to keep, and fit
these so that the network still answers the same. The result is kept apart from the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sparsight.errors import InputError
from sparsight.networks import Network, WeightMatrix, overlay
from sparsight.storage import library_versions
from sparsight.traces.allocation import DEFAULT_SPARSITY, Rule, Sparsity, allocate, network_rule
from sparsight.traces.augment import Augmentation
from sparsight.traces.compensate import (
    compensate,
    keep_by_layer,
    keep_over_network,
)
from sparsight.traces.independent import record, solve_layers
from sparsight.traces.observe import Observed, Sampling, observe
from sparsight.traces.plan import Plan, make_plan
from sparsight.traces.precision import run_in
from sparsight.traces.result import LayerTrace, Trace, against_rest, divergence
from sparsight.traces.solvers import SOLVERS
from sparsight.traces.solvers.patterns import Pattern, parse_pattern
from sparsight.traces.views import describe_views, make_views

__all__ = ["COMPENSATED", "check_solver", "trace", "trace_at"]

COMPENSATED = "compensated"
"""The solver that works front to back, see :mod:`sparsight.traces.compensate`."""

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, steps done, and steps in all."""

_CACHE_BYTES = 32 * 2**20  # an activation of one chunk should stay about in the CPU's cache
_DEVICE_BYTES = 2 * 2**30
_SCORED = 16  # images whose gradients say which weights matter
_DAMPING, _PUBLISHED_DAMPING = 0.3, 0.01
_LIVELY = 0.1  # of the dense answers' spread over views: below this a trace is a constant
_PER_VIEW = 8  # positions: at fewer of them another view adds work and memory but no insight
_HELD_OUT = 8  # views that are answered but not fitted on, if there are four times as many


def trace(
    network: Network,
    image: Image.Image | str | Path | Tensor,
    *,
    sparsity: Sparsity = DEFAULT_SPARSITY,
    augmentations: int | Augmentation | Tensor = 64,
    solver: str = COMPENSATED,
    target: int | None = None,
    seed: int = 0,
    damping: float | None = None,
    focus: float = 0.5,
    positions: int = 256,
    pattern: str = "weight",
    precision: str = "full",
    stem: bool = False,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Trace:
    """Prune a network for one sample (SPADE, ICML 2024) without touching the network.

    Parameters
    ----------
    network
        A classifier in evaluation mode.
    image
        A path or PIL image (augmented at full resolution), or a normalised tensor
        ``(1, C, H, W)`` of the network's input size.
    sparsity
        ``auto``: the largest share of the network's weights at which the answer to the sample is
        the same class, and the probability of ``target`` against all others within 0.01 nats (KL
        divergence) of the dense one; ``auto:NATS`` for another bound.
        ``network:RATIO``: this share of the network's weights. Otherwise shares layer by layer;
        see :func:`sparsight.traces.allocate`. A layer with 0 stays as it is.
    augmentations
        How many views, an :class:`Augmentation`, or the normalised views ``(N, C, H, W)``.
    solver
        ``compensated`` prunes front to back, each layer making up for those before it
        (:mod:`sparsight.traces.compensate`). Or a name in :data:`sparsight.traces.SOLVERS`:
        every layer by itself, on dense inputs, as published.
    target
        Index of the class that the trace is to explain: weights stay by what they do to its
        log-odds. The network's answer by default. Of ``compensated`` and ``network:RATIO``.
    seed
        Of the augmentation, and of the positions that ``compensated`` draws.
    damping
        Pull towards the dense weights, relative to the mean squared input of a layer. By default
        0.3 for ``compensated``, and the published 0.01 for the others.
    focus
        Share of the weight on the sample itself, the rest on its views, in [0, 1]; of
        ``compensated`` and ``network:RATIO``.
    positions
        Positions per layer that ``compensated`` fits on. It uses a view for every 8 of them, and 8
        more to check the trace on: 40 at most by default.
    pattern
        What is pruned as a whole: single weights (``weight``), the taps of one input channel in one
        filter (``kernel``), whole input channels (``input``), or all but N in every M consecutive
        inputs (``2:4``), which fixes the sparsity. Of ``compensated``.
    precision
        What the network runs in while the trace is made: ``full`` (its own) or ``bfloat16``
        (products with float32 sums). Layers are solved, and answers checked, in full either way.
    stem
        Whether to prune the first layer too. Biases and normalisation are never changed.
    chunk
        Images per forward pass of the dense network; chosen from the network's size by default.
        Results differ in the last bits between chunk sizes.
    progress
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    Trace

    Raises
    ------
    InputError
        Unusable image, ratios, or settings.
    NetworkError
        Network in training mode.
    UnsupportedError
        A layer whose weights are computed on the fly; an answer without a gradient.
    NumericalError
        NaN in the network's answer, or a layer that cannot be solved (named).

    Examples
    --------
    >>> import torch, sparsight
    >>> network = sparsight.load("embedded")
    >>> x = torch.randn(1, 3, 64, 64)
    >>> found = sparsight.trace(network, x, sparsity="network:0.9", augmentations=8)
    >>> round(found.sparsity, 1), found.agrees
    (0.9, True)
    """
    (found,) = _traces(
        network, image, [sparsity], augmentations, solver, target, seed, damping, focus, positions,
        pattern, precision, stem, chunk, progress,
    )  # fmt: skip
    return found


def trace_at(
    network: Network,
    image: Image.Image | str | Path | Tensor,
    sparsities: Sequence[Sparsity],
    *,
    augmentations: int | Augmentation | Tensor = 64,
    solver: str = "sparsegpt",
    seed: int = 0,
    stem: bool = False,
    progress: Progress | None = None,
) -> list[Trace]:
    """Make traces of one sample at several sparsities, layers solved by themselves.

    The dense network runs over the views once. Each trace is what :func:`trace` makes.

    Parameters
    ----------
    network, image, augmentations, seed, stem, progress
        As in :func:`trace`.
    sparsities
        Each as in :func:`trace`.
    solver
        A name in :data:`sparsight.traces.SOLVERS`.

    Raises
    ------
    InputError, NetworkError, UnsupportedError, NumericalError
        As :func:`trace`; or if the solver works front to back.

    Examples
    --------
    >>> import torch, sparsight
    >>> network = sparsight.load("embedded")
    >>> x = torch.randn(1, 3, 64, 64)
    >>> found = trace_at(network, x, [0.5, 0.9], augmentations=4)
    >>> [round(one.sparsity, 1) for one in found]
    [0.5, 0.9]
    """
    if solver == COMPENSATED:
        raise InputError(
            f"solver {solver!r} works front to back and shares nothing between sparsities: choose "
            "another, such as sparsegpt, or make one trace after another"
        )
    return _traces(
        network, image, sparsities, augmentations, solver, None, seed, None, 0.5, 256, "weight",
        "full", stem, None, progress,
    )  # fmt: skip


def _traces(
    network: Network,
    image: Image.Image | str | Path | Tensor,
    sparsities: Sequence[Sparsity],
    augmentations: int | Augmentation | Tensor,
    solver: str,
    target: int | None,
    seed: int,
    damping: float | None,
    focus: float,
    positions: int,
    pattern: str,
    precision: str,
    stem: bool,
    chunk: int | None,
    progress: Progress | None,
) -> list[Trace]:
    rules = [check_solver(solver, sparsity, pattern) for sparsity in sparsities]
    if damping is None:
        damping = _DAMPING if solver == COMPENSATED else _PUBLISHED_DAMPING
    if not 0 < damping < float("inf"):
        raise InputError(f"damping {damping} must be positive")
    if not 0 <= focus <= 1:
        raise InputError(f"focus {focus} is out of range: it must lie in [0, 1]")
    if positions < 1:
        raise InputError(f"{positions} positions: at least one per layer is needed")
    network.require_eval()
    run_in(precision, network.device)
    clock = _Clock()
    x = network.prepare(image)
    plan = make_plan(network, x)
    classes = len(plan.logits)
    if target is None:
        target = int(plan.logits.argmax())
    elif not 0 <= target < classes:
        raise InputError(
            f"target {target} is no class: this network has classes 0 to {classes - 1}"
        )
    clock.lap("sample")
    views = make_views(network, image, x, augmentations, seed)
    clock.lap("augment")
    candidates = plan.order if stem else plan.order[1:]
    if chunk is None:
        budget = _CACHE_BYTES if x.device.type == "cpu" else _DEVICE_BYTES
        chunk = max(1, min(len(views), budget // plan.largest))
    run = _Run(network, plan, candidates, x, views, chunk, damping, precision, progress, clock)
    scored = min(_SCORED, 1 + len(views))
    if solver == COMPENSATED:
        most = max(1, positions // _PER_VIEW) + _HELD_OUT
        run = replace(run, views=views[:most])
        fitted = 1 + len(run.views) - min(_HELD_OUT, len(run.views) // 4)
        sampling = Sampling(fitted, scored, positions, focus, seed, target)
        structure = parse_pattern(pattern)
        results = [
            _front_to_back(run, sparsity, rule, sampling, structure)
            for sparsity, rule in zip(sparsities, rules, strict=True)
        ]
    else:
        sampling = Sampling(scored, scored, 0, focus, seed, target)
        results = _layer_by_layer(run, sparsities, rules, sampling, solver)
    common = {m.name: LayerTrace.left_alone(m, "stem, left dense") for m in plan.order}
    common |= {m.name: LayerTrace.left_alone(m, "left dense") for m in candidates}
    common |= {
        m.name: LayerTrace.left_alone(m, "not used by the forward pass") for m in plan.unused
    }
    settings = {
        "network": network.spec,
        "solver": solver,
        "augmentations": describe_views(augmentations),
        "target": target,
        "seed": seed,
        "damping": damping,
        "focus": focus,
        "positions": positions,
        "pattern": pattern,
        "precision": precision,
        "stem": stem,
        "chunk": chunk,
        "device": str(x.device),
    }
    versions = library_versions()
    found = []
    for sparsity, (tensors, rows, outcome) in zip(sparsities, results, strict=True):
        with overlay(network.model, tensors):
            traced = network.logits(x)[0]
        own = {"sparsity": dict(sparsity) if isinstance(sparsity, Mapping) else sparsity}
        found.append(
            Trace(
                tensors, tuple((common | rows).values()), plan.logits.float().cpu(),
                traced.float().cpu(), own | settings | outcome, versions, clock.laps,
            )
        )  # fmt: skip
    clock.lap("check")
    return found


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
    if parse_pattern(pattern).kind != "weight" and solver != COMPENSATED:
        raise InputError(f"pattern {pattern!r} needs the solver {COMPENSATED!r}, not {solver!r}")
    return rule


@dataclass(frozen=True)
class _Run:
    """What both ways of pruning work on."""

    network: Network
    plan: Plan
    candidates: list[WeightMatrix]
    x: Tensor
    views: Tensor
    chunk: int
    damping: float
    precision: str
    progress: Progress | None
    clock: _Clock

    def lowered(self) -> AbstractContextManager[object]:
        return run_in(self.precision, self.x.device)


_Found = tuple[dict[str, Tensor], dict[str, LayerTrace], dict[str, Any]]
"""Pruned tensors, what became of the layers, and what else is to be told."""


def _front_to_back(
    run: _Run, sparsity: Sparsity, rule: Rule | None, sampling: Sampling, pattern: Pattern
) -> _Found:
    network, images = run.network, torch.cat([run.x, run.views])
    ratios = {} if rule else allocate(sparsity, run.candidates)
    chosen = [m for m in run.candidates if rule or ratios[m.name] > 0]
    with run.lowered():
        observed = observe(
            network, images, chosen, run.plan.shapes, sampling, run.chunk, run.progress
        )
    run.clock.lap("observe")
    for level, keep in _masks(run, observed, chosen, rule or ratios, pattern):
        with run.lowered():
            found = compensate(
                network, images, chosen, run.plan.shapes, observed, keep, run.damping, run.progress
            )
        answers = observed.logits, found.logits
        lost = float(divergence(*(against_rest(a[0], sampling.target) for a in answers)))
        unseen = _unseen(*answers, sampling.fitted)
        same = bool(answers[0][0].argmax() == answers[1][0].argmax())
        within = not rule or (same and _within(rule.tolerance, lost, unseen))
        outcome: dict[str, Any] = {"views_used": len(run.views), "held_out": unseen}
        if rule:
            outcome |= {"level": level, "within": within}
        if within:
            break
    run.clock.lap("solve")
    rows = {}
    for matrix in (m for m in chosen if m.name in found.solutions):
        solution = found.solutions[matrix.name]
        rows[matrix.name] = LayerTrace.of(
            matrix,
            ratios.get(matrix.name, float((~keep[matrix.name]).double().mean())),
            float((solution.weight == 0).double().mean()),
            solution.lost**0.5,
            solution.damping,
            solution.note,
        )
    return found.tensors, rows, outcome


def _masks(
    run: _Run,
    observed: Observed,
    chosen: list[WeightMatrix],
    asked: Rule | Mapping[str, float],
    pattern: Pattern,
) -> Iterator[tuple[float | None, dict[str, Tensor]]]:
    """Say what to keep, from the sparsest choice on; with the share of the network pruned."""
    network = run.network
    if not isinstance(asked, Rule):
        yield None, keep_by_layer(network, observed, chosen, asked, pattern)
    elif pattern.run:
        fixed = dict.fromkeys((matrix.name for matrix in chosen), None)
        yield pattern.sparsity, keep_by_layer(network, observed, chosen, fixed, pattern)
    else:
        for level in asked.levels:
            keep = keep_over_network(network, observed, chosen, level)
            if pattern.kind != "weight":
                shares = {name: float((~mask).double().mean()) for name, mask in keep.items()}
                keep = keep_by_layer(network, observed, chosen, shares, pattern)
            yield level, keep


def _unseen(dense: Tensor, traced: Tensor, fitted: int) -> dict[str, float]:
    """Compare answers to views that nothing was fitted on; to all views if there are none.

    A trace that gives the sample's answer to everything agrees on the sample and explains
    nothing, so it is told too how far answers to views are from the answer to the sample.
    """
    start = fitted if fitted < len(dense) else 1
    before, after = dense[start:], traced[start:]
    return {
        "views": len(dense) - fitted,
        "agree": float((before.argmax(1) == after.argmax(1)).double().mean()),
        "kl": float(divergence(before, after).mean()),
        "dense_spread": float(divergence(before, dense[:1].expand_as(before)).mean()),
        "traced_spread": float(divergence(after, traced[:1].expand_as(after)).mean()),
    }


def _within(tolerance: float, lost: float, unseen: Mapping[str, float]) -> bool:
    """Whether a trace answers the sample as it should, and other views otherwise where they are."""
    constant = unseen["traced_spread"] < _LIVELY * unseen["dense_spread"]
    return lost <= tolerance and (not constant or unseen["dense_spread"] <= tolerance)


def _layer_by_layer(
    run: _Run,
    sparsities: Sequence[Sparsity],
    rules: Sequence[Rule | None],
    sampling: Sampling,
    solver: str,
) -> list[_Found]:
    network, plan = run.network, run.plan
    observed = None
    shares = []
    for sparsity, rule in zip(sparsities, rules, strict=True):
        if rule is None:
            shares.append(allocate(sparsity, run.candidates))
            continue
        if observed is None:
            images = torch.cat([run.x, run.views])[: sampling.scored]
            with run.lowered():
                observed = observe(
                    network, images, run.candidates, plan.shapes, sampling, run.chunk
                )
            run.clock.lap("observe")
        keep = keep_over_network(network, observed, run.candidates, rule.levels[0])
        shares.append({name: float((~mask).double().mean()) for name, mask in keep.items()})
    chosen = [m for m in run.candidates if any(ratios[m.name] > 0 for ratios in shares)]
    with run.lowered():
        recorded = record(network, run.views, chosen, plan, run.chunk, run.progress)
    run.clock.lap("record")
    with torch.no_grad():
        solved = solve_layers(
            network, chosen, shares, recorded, plan, (solver, run.damping), run.progress
        )
    run.clock.lap("solve")
    return [(tensors, rows, {}) for tensors, rows in solved]


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        now = perf_counter()
        self.laps[stage] = now - self._last
        self._last = now
