"""Find the weights that a network needs for one sample.

Augment the sample, run the views through the dense network once, accumulate the second moment
of each layer's input, solve a sparse regression per layer (dense inputs, dense targets: no
sequential propagation), and keep the result apart from the network.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sparsight.errors import InputError, NumericalError
from sparsight.networks import (
    LayerCall,
    Network,
    Recording,
    WeightMatrix,
    open_image,
    overlay,
    weight_matrices,
)
from sparsight.networks.matrices import parameter_of, weight_of
from sparsight.networks.preprocessing import to_unit
from sparsight.storage import library_versions
from sparsight.traces.allocation import DEFAULT_SPARSITY, Sparsity, allocate
from sparsight.traces.augment import Augmentation
from sparsight.traces.moments import Moment, moment_for
from sparsight.traces.result import LayerTrace, Trace
from sparsight.traces.solvers import SOLVERS, Moments

__all__ = ["trace"]

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, steps done, and steps in all."""

_CHOICE = 64  # weights among which a mask decision should at least choose
_CACHE_BYTES = 32 * 2**20  # an activation of one chunk should stay about in the CPU's cache
_DEVICE_BYTES = 2 * 2**30


@dataclass
class _Plan:
    """What one pass of the sample itself tells: order, sharing and size of the layers.

    Attributes
    ----------
    order
        Weight matrices in the order of first use.
    unused
        Matrices that the forward pass never touched.
    leader
        For each layer, the first layer that gets exactly the same inputs.
    largest
        Bytes of the largest layer input or output for one image.
    logits
        The dense answer to the sample.
    """

    order: list[WeightMatrix] = field(default_factory=list)
    unused: list[WeightMatrix] = field(default_factory=list)
    leader: dict[str, str] = field(default_factory=dict)
    largest: int = 1
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


def _plan(network: Network, x: Tensor) -> _Plan:
    matrices = weight_matrices(network.model)
    plan = _Plan()
    inputs: dict[str, list[tuple[int, Any]]] = {}
    alive: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
    found: dict[str, WeightMatrix] = {}
    tokens = count()

    def see(call: LayerCall) -> None:
        known = alive.get(id(call.input))
        if known is None or known[0]() is not call.input or known[1] != call.input._version:
            known = (weakref.ref(call.input), call.input._version, next(tokens))
            alive[id(call.input)] = known
        name = call.matrix.name
        found.setdefault(name, call.matrix)
        inputs.setdefault(name, []).append((known[2], call.geometry))
        size = max(t.numel() * t.element_size() for t in (call.input, call.output))
        plan.largest = max(plan.largest, size)

    with Recording(network.model, matrices, see):
        plan.logits = network.logits(x)[0]
    plan.order = list(found.values())
    plan.unused = [m for m in matrices if m.name not in found]
    leaders: dict[Any, str] = {}
    for matrix in plan.order:
        key = (tuple(inputs[matrix.name]), matrix.groups)
        plan.leader[matrix.name] = leaders.setdefault(key, matrix.name)
    return plan


def _views(
    network: Network,
    image: Image.Image | str | Path | Tensor,
    x: Tensor,
    augmentations: int | Augmentation | Tensor,
    seed: int,
) -> Tensor:
    if isinstance(augmentations, Tensor):
        if augmentations.ndim != 4 or augmentations.shape[1:] != x.shape[1:]:
            raise InputError(
                f"augmentations must have shape (N, {', '.join(map(str, x.shape[1:]))}), "
                f"not {tuple(augmentations.shape)}"
            )
        if not len(augmentations) or not torch.isfinite(augmentations).all():
            raise InputError("augmentations are empty or hold NaN or infinite values")
        return augmentations.to(x.device, x.dtype)
    if isinstance(augmentations, int):
        augmentations = Augmentation(count=augmentations)
    preprocessing = network.preprocessing
    if isinstance(image, str | Path):
        image = open_image(image)
    if isinstance(image, Image.Image):
        unit = to_unit(image, preprocessing.channels).to(x.device)
    else:
        unit = preprocessing.denormalize(x[0].float())
    views = augmentations(unit, preprocessing.size, seed=seed)
    return preprocessing.normalize(views).to(x.dtype)


def _record(
    network: Network,
    views: Tensor,
    matrices: list[WeightMatrix],
    plan: _Plan,
    chunk: int,
    progress: Progress | None,
) -> tuple[dict[str, Moment], dict[str, Tensor]]:
    """Second moments by leading layer, and squared outputs by layer."""
    moments: dict[str, Moment] = {}
    outputs: dict[str, Tensor] = {}
    leaders = {plan.leader[matrix.name] for matrix in matrices}
    recorded = [m for m in plan.order if m in matrices or m.name in leaders]

    def add(call: LayerCall) -> None:
        name = call.matrix.name
        squared = call.squared_output()
        outputs[name] = outputs[name] + squared if name in outputs else squared
        if name in leaders:
            if name not in moments:
                moments[name] = moment_for(call, len(views))
            moments[name].add(call)

    if not matrices:
        return moments, outputs

    with torch.no_grad(), Recording(network.model, recorded, add):
        for start in range(0, len(views), chunk):
            if progress is not None:
                progress("recording", start, len(views))
            part = views[start : start + chunk]
            network(part.contiguous(memory_format=torch.channels_last))
    return moments, outputs


def _block(matrix: WeightMatrix) -> int:
    """Columns that share a mask decision: one input channel, or enough for a choice to exist."""
    return max(matrix.block, -(-_CHOICE // matrix.rows)) if matrix.block == 1 else matrix.block


def _solve(
    network: Network,
    matrix: WeightMatrix,
    sparsity: float,
    moment: Moments,
    output: Tensor,
    settings: tuple[str, float],
) -> tuple[Tensor, LayerTrace]:
    """Solve one layer: its sparse matrix and what became of it."""
    solver, damping = settings
    block = _block(matrix)
    size = matrix.rows * min(block, matrix.columns)
    spared = round(sparsity * size) == size
    weight = weight_of(network.model, matrix)
    weight = weight if weight.dtype == torch.float64 else weight.float()
    try:
        solution = SOLVERS[solver](
            weight, moment, (size - 1) / size if spared else sparsity, block, damping
        )
    except NumericalError as error:
        raise NumericalError(f"layer {matrix.name!r}: {error}") from error
    zeros = float((solution.weight == 0).double().mean())
    total = float(output)
    relative = (solution.lost / total) ** 0.5 if total > 0 else 0.0
    notes = [f"one weight kept of each {size}"] if spared else []
    notes += [solution.note] if solution.note else []
    row = LayerTrace.of(matrix, sparsity, zeros, relative, solution.damping, "; ".join(notes))
    return solution.weight, row


def trace(
    network: Network,
    image: Image.Image | str | Path | Tensor,
    *,
    sparsity: Sparsity = DEFAULT_SPARSITY,
    augmentations: int | Augmentation | Tensor = 64,
    solver: str = "sparsegpt",
    seed: int = 0,
    damping: float = 0.01,
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
        Share of weights to prune: for all layers, per block, as a ramp or a published set; see
        :func:`sparsight.traces.allocate`. A layer with 0 stays as it is.
    augmentations
        How many views, an :class:`Augmentation`, or the normalised views ``(N, C, H, W)``.
    solver
        Name in :data:`sparsight.traces.SOLVERS`.
    seed
        Of the augmentation.
    damping
        Added to the diagonal of each second moment, relative to its mean.
    stem
        Whether to prune the first layer too. Biases and normalisation are never changed.
    chunk
        Views per forward pass; chosen from the network's size by default. Results differ in
        the last bits between chunk sizes.
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
        A layer whose weights are computed on the fly.
    NumericalError
        NaN in the network's answer, or a layer that cannot be solved (named).

    Examples
    --------
    >>> import torch, sparsight
    >>> network = sparsight.load("embedded")
    >>> found = sparsight.trace(network, torch.randn(1, 3, 64, 64), augmentations=8)
    >>> found.layers[-1].sparsity
    0.5
    """
    if solver not in SOLVERS:
        raise InputError(f"unknown solver {solver!r}: choose from {', '.join(SOLVERS)}")
    if not 0 < damping < float("inf"):
        raise InputError(f"damping {damping} must be positive")
    network.require_eval()
    clock = _Clock()
    x = network.prepare(image)
    plan = _plan(network, x)
    clock.lap("sample")
    views = _views(network, image, x, augmentations, seed)
    clock.lap("augment")

    candidates = plan.order if stem else plan.order[1:]
    ratios = allocate(sparsity, candidates)
    chosen = [matrix for matrix in candidates if ratios[matrix.name] > 0]
    if chunk is None:
        budget = _CACHE_BYTES if x.device.type == "cpu" else _DEVICE_BYTES
        chunk = max(1, min(len(views), budget // plan.largest))
    moments, outputs = _record(network, views, chosen, plan, chunk, progress)
    clock.lap("record")

    tensors: dict[str, Tensor] = {}
    rows = {m.name: LayerTrace.left_alone(m, "stem, left dense") for m in plan.order}
    rows |= {m.name: LayerTrace.left_alone(m, "left dense") for m in candidates}
    rows |= {m.name: LayerTrace.left_alone(m, "not used by the forward pass") for m in plan.unused}
    with torch.no_grad():
        done = 0
        for leader in list(moments):
            moment = moments.pop(leader).result()
            for matrix in (m for m in chosen if plan.leader[m.name] == leader):
                if progress is not None:
                    progress("solving", done, len(chosen))
                done += 1
                solved, rows[matrix.name] = _solve(
                    network, matrix, ratios[matrix.name], moment, outputs[matrix.name],
                    (solver, damping),
                )  # fmt: skip
                if matrix.parameter not in tensors:
                    tensors[matrix.parameter] = parameter_of(network.model, matrix).clone()
                matrix.write(tensors[matrix.parameter], solved)
        clock.lap("solve")
        with overlay(network.model, tensors):
            traced = network.logits(x)[0]
    clock.lap("check")
    settings = {
        "network": network.spec,
        "sparsity": dict(sparsity) if isinstance(sparsity, dict) else sparsity,
        "solver": solver,
        "augmentations": _describe(augmentations),
        "seed": seed,
        "damping": damping,
        "stem": stem,
        "chunk": chunk,
        "device": str(x.device),
    }
    return Trace(
        tensors, tuple(rows.values()), plan.logits.float().cpu(), traced.float().cpu(), settings,
        library_versions(), clock.laps,
    )  # fmt: skip


def _describe(augmentations: int | Augmentation | Tensor) -> dict[str, Any]:
    if isinstance(augmentations, Tensor):
        return {"given": len(augmentations)}
    if isinstance(augmentations, int):
        augmentations = Augmentation(count=augmentations)
    return augmentations.describe()


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        now = perf_counter()
        self.laps[stage] = now - self._last
        self._last = now
