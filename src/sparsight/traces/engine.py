"""Find the weights that a network needs for one sample.

Augment the sample, run the views through the dense network, decide which weights to keep, and fit
these so that the network still answers the same. The result is kept apart from the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sparsight.errors import InputError, UnsupportedError
from sparsight.networks import Network, checksum, memory_layout, overlay
from sparsight.storage import library_versions
from sparsight.traces.allocation import DEFAULT_SPARSITY, Rule, Sparsity
from sparsight.traces.apart import require_apart
from sparsight.traces.augment import Augmentation
from sparsight.traces.layers import LayerTrace
from sparsight.traces.observe import Sampling
from sparsight.traces.options import (
    COMPENSATED,
    GRADIENTS,
    HELD_OUT,
    POSITIONS,
    REFITTED,
    Options,
    most_views,
)
from sparsight.traces.plan import Plan, make_plan
from sparsight.traces.precision import in_full
from sparsight.traces.pruning import Clock, Progress, Run, front_to_back, layer_by_layer
from sparsight.traces.result import Trace
from sparsight.traces.solvers.patterns import parse_pattern
from sparsight.traces.views import describe_views, make_views

__all__ = ["trace", "trace_at"]

_CACHE_BYTES = 32 * 2**20  # an activation of one chunk should stay about in the CPU's cache
_DEVICE_BYTES = 2 * 2**30


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
    positions: int = POSITIONS,
    gradients: int = GRADIENTS,
    refitted: int = REFITTED,
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
        ``auto``: the largest share of the weights at which the answer to the sample is
        the same class, and the probability of ``target`` against all others within 0.01 nats (KL
        divergence) of the dense one; ``auto:NATS`` for another bound.
        ``network:RATIO``: this share of the weights in the layers that can be pruned. Otherwise
        shares layer by layer; see :func:`sparsight.traces.allocate`. A layer with 0 stays as it
        is.
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
    gradients
        Images, the sample and then its views, whose gradients say which weights matter; of
        ``compensated`` and ``network:RATIO``.
    refitted
        Weights of a row that ``compensated`` refits at most, those that pass most on; others that
        stay keep their values.
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
        A layer whose weights are computed on the fly; an answer without a gradient, or one that
        is random; a network that mixes the images of a batch, or takes none; fewer than two
        classes.
    NumericalError
        NaN in the network's answer to the sample or to a view, or a layer that cannot be solved
        (named).

    Examples
    --------
    >>> import torch, sparsight
    >>> network = sparsight.load("embedded")
    >>> x = torch.randn(1, 3, 64, 64)
    >>> found = sparsight.trace(network, x, sparsity="network:0.9", augmentations=8)
    >>> round(found.sparsity, 1), found.agrees
    (0.9, True)
    """
    options = Options(
        augmentations, solver, target, seed, damping, focus, positions, gradients, refitted,
        pattern, precision, stem, chunk, progress,
    )  # fmt: skip
    return _traces(network, image, [sparsity], options)[0]


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
    options = Options(augmentations, solver, seed=seed, stem=stem, progress=progress)
    return _traces(network, image, sparsities, options)


def _traces(
    network: Network,
    image: Image.Image | str | Path | Tensor,
    sparsities: Sequence[Sparsity],
    options: Options,
) -> list[Trace]:
    rules = options.check(network, sparsities)
    with in_full(network.device):  # whatever the caller is in
        return _made(network, image, list(zip(sparsities, rules, strict=True)), options)


def _made(
    network: Network,
    image: Image.Image | str | Path | Tensor,
    asked: Sequence[tuple[Sparsity, Rule | None]],
    options: Options,
) -> list[Trace]:
    sparsities, rules = zip(*asked, strict=True)
    clock = Clock()
    x = network.prepare(image)
    plan = make_plan(network, x)
    classes, target = len(plan.logits), options.target
    if classes < 2:
        raise UnsupportedError(
            f"network {network.spec!r} has one output, and a trace explains a class against "
            "others: wrap it so that it gives a logit for each of two classes"
        )
    if target is None:
        target = int(plan.logits.argmax())
    elif not 0 <= target < classes:
        raise InputError(
            f"target {target} is no class: this network has classes 0 to {classes - 1}"
        )
    require_apart(network, plan, x)
    clock.lap("sample")
    most = most_views(options.positions) if options.solver == COMPENSATED else None
    recipe = options.recipe
    views = make_views(network, image, x, recipe, options.seed, most)
    images = torch.cat([x, views])
    images = images.contiguous(memory_format=memory_layout(network, images))
    clock.lap("augment")
    within = plan.order if options.stem else plan.order[1:]
    candidates = [matrix for matrix in within if matrix.name not in plan.uneven]
    if not candidates:
        raise _nothing_to_prune(network, plan, options.stem)
    chunk = options.chunk
    if chunk is None:
        budget = _CACHE_BYTES if x.device.type == "cpu" else _DEVICE_BYTES
        chunk = max(1, min(len(images), budget // plan.largest))
    run = Run(
        network, plan, candidates, images, chunk, options.pull, options.refitted,
        options.precision, options.progress, clock,
    )  # fmt: skip
    scored = min(options.gradients, len(images))
    if options.solver == COMPENSATED:
        fitted = len(images) - min(HELD_OUT, len(views) // 4)
        sampling = Sampling(fitted, scored, options.positions, options.focus, options.seed, target)
        structure = parse_pattern(options.pattern)
        results = [
            front_to_back(run, sparsity, rule, sampling, structure)
            for sparsity, rule in zip(sparsities, rules, strict=True)
        ]
    else:
        sampling = Sampling(scored, scored, 0, options.focus, options.seed, target)
        results = layer_by_layer(run, sparsities, rules, sampling, options.solver)
    common = {m.name: LayerTrace.left_alone(m, "stem, left dense") for m in plan.order}
    common |= {m.name: LayerTrace.left_alone(m, "left dense") for m in candidates}
    common |= {
        m.name: LayerTrace.left_alone(m, "used at several sizes, left dense")
        for m in within
        if m.name in plan.uneven
    }
    common |= {
        m.name: LayerTrace.left_alone(
            m,
            "its weights are not used as they are, left dense"
            if m.name in plan.touched
            else "not used by the forward pass",
        )
        for m in plan.unused
    }
    common |= {
        name: LayerTrace.not_read(name, network.model.get_parameter(name), f"{why}, left dense")
        for name, why in plan.unread.items()
    }
    settings = {
        "network": network.spec,
        "solver": options.solver,
        "augmentations": describe_views(recipe),
        "target": target,
        "seed": options.seed,
        "damping": options.pull,
        "focus": options.focus,
        "positions": options.positions,
        "gradients": options.gradients,
        "refitted": options.refitted,
        "pattern": options.pattern,
        "precision": options.precision,
        "stem": options.stem,
        "chunk": chunk,
        "device": str(x.device),
    }
    weights = {"dtype": str(network.dtype), "checksum": checksum(network.model)}
    versions = library_versions()
    found = []
    for sparsity, (tensors, rows, outcome) in zip(sparsities, results, strict=True):
        with overlay(network.model, tensors):
            traced = network.logits(x)[0]
        weights["rest"] = checksum(network.model, without=tensors)
        own = {"sparsity": _plain(sparsity), "weights": dict(weights)}
        found.append(
            Trace(
                tensors, tuple((common | rows).values()), plan.logits.float().cpu(),
                traced.float().cpu(), own | settings | outcome, versions, clock.laps,
            )
        )  # fmt: skip
    clock.lap("check")
    return found


def _nothing_to_prune(network: Network, plan: Plan, stem: bool) -> InputError:
    if plan.order and not stem:
        return InputError(
            f"network {network.spec!r} has no layer to prune but its first, which stays as it is: "
            "include it (stem=True, --stem)"
        )
    reasons = [f"{name!r}: {why}" for name, why in plan.unread.items()][:3]
    found = f" ({'; '.join(reasons)})" if reasons else ""
    return InputError(
        f"network {network.spec!r} has no layer that can be pruned{found}: give another network"
    )


def _plain(sparsity: Sparsity) -> Any:
    """Make plain values of it, for a manifest."""
    if isinstance(sparsity, str):
        return sparsity
    if isinstance(sparsity, Mapping):
        return {name: float(ratio) for name, ratio in sparsity.items()}
    return float(sparsity)
