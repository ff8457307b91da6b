"""The two ways of pruning a network for a sample: front to back, or every layer by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from sparsight.errors import UnsupportedError
from sparsight.networks import Network, WeightMatrix, overlay
from sparsight.traces.allocation import Rule, Sparsity, allocate
from sparsight.traces.compensate import compensate, keep_by_layer, keep_over_network
from sparsight.traces.independent import record, solve_layers
from sparsight.traces.layers import LayerTrace
from sparsight.traces.observe import Observed, Sampling, observe
from sparsight.traces.plan import Plan
from sparsight.traces.precision import run_in
from sparsight.traces.result import against_rest, divergence
from sparsight.traces.solvers.patterns import Pattern

__all__ = ["Clock", "Found", "Progress", "Run", "front_to_back", "layer_by_layer"]

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, steps done, and steps in all."""

_LIVELY = 0.1  # of the dense answers' spread over views: below this a trace is a constant


@dataclass(frozen=True)
class Run:
    """What both ways of pruning work on: a network, and the sample with its views."""

    network: Network
    plan: Plan
    candidates: list[WeightMatrix]
    images: Tensor
    chunk: int
    damping: float
    refitted: int
    precision: str
    progress: Progress | None
    clock: Clock

    def lowered(self) -> AbstractContextManager[object]:
        """Run the network in the precision asked for."""
        return run_in(self.precision, self.images.device)


Found = tuple[dict[str, Tensor], dict[str, LayerTrace], dict[str, Any]]
"""Pruned tensors, what became of the layers, and what else is to be told."""


def front_to_back(
    run: Run, sparsity: Sparsity, rule: Rule | None, sampling: Sampling, pattern: Pattern
) -> Found:
    """Prune layer after layer, each making up for those before it."""
    network, images = run.network, run.images
    if rule and not any(rule.levels):
        rule, sparsity = None, 0.0  # nothing is pruned
    ratios = {} if rule else allocate(sparsity, run.candidates)
    chosen = [m for m in run.candidates if rule or ratios[m.name] > 0]
    with run.lowered():
        observed = observe(
            network, images, chosen, run.plan.shapes, sampling, run.chunk, run.progress
        )
    run.clock.lap("observe")
    rows = {
        m.name: LayerTrace.left_alone(m, "no gradient of the answer reaches it, left dense")
        for m in chosen
        if m.name not in observed.passed
    }
    chosen = [m for m in chosen if m.name in observed.passed]
    if rows and not chosen:
        raise _unreached(network)
    for level, keep in _masks(run, observed, chosen, rule or ratios, pattern):
        with run.lowered():
            found = compensate(
                network, images, chosen, run.plan.shapes, observed, keep, run.damping,
                run.refitted, sampling.fitted, run.chunk, run.progress,
            )  # fmt: skip
        answers = observed.logits, found.logits
        if run.precision != "full":
            answers = _in_full(run, found.tensors, *answers)
        lost = float(divergence(*(against_rest(a[0], sampling.target) for a in answers)))
        unseen = _unseen(*answers, sampling.fitted)
        same = bool(answers[0][0].argmax() == answers[1][0].argmax())
        within = not rule or (same and _within(rule.tolerance, lost, unseen))
        outcome: dict[str, Any] = {"views_used": len(images) - 1, "held_out": unseen}
        if rule:
            outcome |= {"level": level, "within": within}
        if within:
            break
    run.clock.lap("solve")
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


def _unreached(network: Network) -> UnsupportedError:
    return UnsupportedError(
        f"no gradient of the answer reaches a layer of network {network.spec!r}, and they say what "
        "stays: let it run with gradients"
    )


def _in_full(
    run: Run, tensors: Mapping[str, Tensor], dense: Tensor, traced: Tensor
) -> tuple[Tensor, Tensor]:
    """Answers to all views, those to the sample in full precision."""
    with overlay(run.network.model, tensors):
        answer = run.network.logits(run.images[:1])
    return (
        torch.cat([run.plan.logits[None].to(dense), dense[1:]]),
        torch.cat([answer.to(traced), traced[1:]]),
    )


def _masks(
    run: Run,
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


def layer_by_layer(
    run: Run,
    sparsities: Sequence[Sparsity],
    rules: Sequence[Rule | None],
    sampling: Sampling,
    solver: str,
) -> list[Found]:
    """Prune every layer by itself, at several sparsities from one recording."""
    network, plan = run.network, run.plan
    observed = None
    shares = []
    for sparsity, rule in zip(sparsities, rules, strict=True):
        if rule is None:
            shares.append(allocate(sparsity, run.candidates))
            continue
        if observed is None:
            images = run.images[: sampling.scored]
            with run.lowered():
                observed = observe(
                    network, images, run.candidates, plan.shapes, sampling, run.chunk
                )
            run.clock.lap("observe")
        reached = [m for m in run.candidates if m.name in observed.passed]
        if not reached:
            raise _unreached(network)
        keep = keep_over_network(network, observed, reached, rule.levels[0])
        share = {name: float((~mask).double().mean()) for name, mask in keep.items()}
        shares.append({m.name: share.get(m.name, 0.0) for m in run.candidates})
    chosen = [m for m in run.candidates if any(ratios[m.name] > 0 for ratios in shares)]
    with run.lowered():
        recorded = record(network, run.images[1:], chosen, plan, run.chunk, run.progress)
    run.clock.lap("record")
    with torch.no_grad():
        solved = solve_layers(
            network, chosen, shares, recorded, plan, (solver, run.damping), run.progress
        )
    run.clock.lap("solve")
    return [(tensors, rows, {}) for tensors, rows in solved]


class Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        """Enter the seconds since the last lap."""
        now = perf_counter()
        self.laps[stage] = now - self._last
        self._last = now
