"""Ask one network about one image: a trace, dense and traced maps, as one case file.

The bridge between the rooms: what ``traces``, ``attribution`` and ``visualization`` find becomes
the plain data that ``reports`` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sparsight.attribution import METHODS, Attribution, attribute, choose_methods
from sparsight.blame import Statistics
from sparsight.chains import Chain
from sparsight.errors import InputError, NumericalError, UnsupportedError
from sparsight.mistake import BATCH, investigate
from sparsight.networks import Network, open_image
from sparsight.readout import classes, layers, warnings
from sparsight.reports import CaseFile, MapPair, ViewPair
from sparsight.subtask import follow
from sparsight.traces import (
    COMPENSATED,
    DEFAULT_SPARSITY,
    Augmentation,
    Sparsity,
    Trace,
    trace,
)
from sparsight.visualization import (
    Objective,
    logit,
    parse_objectives,
    visualize,
)

__all__ = [
    "DEFAULT_METHODS",
    "STEPS",
    "TARGET",
    "Progress",
    "choose_neurons",
    "enough_memory",
    "explain",
]

DEFAULT_METHODS = ("saliency", "integrated_gradients", "lrp")
"""A sensitivity, a complete map and a conserving one; seconds each on a processor."""

TARGET = "target"
"""Among neurons to visualize, the class that is explained."""

STEPS = 128
"""Of a visualization in a case file; enough to see what it is."""

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, steps done, and steps in all."""


def choose_neurons(network: Network, names: str | Iterable[str]) -> dict[str, Objective | None]:
    """Find what to visualize by names.

    Parameters
    ----------
    network
        Whose classes and layers are named.
    names
        One name or several, each as :func:`sparsight.visualization.parse_objective` reads it, or
        ``target`` for the class that will be explained.

    Returns
    -------
    dict
        Objectives by name in the order given, none twice; ``None`` for ``target``.

    Raises
    ------
    InputError
        If there is no such class, layer, channel or place.

    Examples
    --------
    >>> import sparsight
    >>> found = choose_neurons(sparsight.load("embedded"), ["target", "stage3:7", "target"])
    >>> [(name, str(objective)) for name, objective in found.items()]
    [('target', 'None'), ('stage3:7', 'stage3:7')]
    """
    given = dict.fromkeys([names] if isinstance(names, str) else names)
    others = [name for name in given if name != TARGET]
    found = dict(zip(others, parse_objectives(network, others), strict=True))
    return {name: found.get(name) for name in given}


@contextmanager
def enough_memory(network: Network, what: str) -> Iterator[None]:
    """Turn a device's lack of memory into an error with a remedy.

    Raises
    ------
    InputError
        If the block runs out of the device's memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"device {network.device} has too little memory for {what}: give a smaller chunk "
            "(1 needs least), or another device"
        ) from error


@dataclass(frozen=True)
class _Side:
    """The maps of one network, dense or traced, and why some are missing."""

    maps: dict[str, Attribution] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return sum(result.seconds for result in self.maps.values())


def _attribute_all(
    network: Network,
    x: Tensor,
    target: int,
    methods: Sequence[str],
    seed: int,
    chunk: int | None,
    step: Callable[[], None],
) -> _Side:
    side = _Side()
    for name in methods:
        step()
        try:
            side.maps[name] = attribute(network, x, target, name, seed=seed, chunk=chunk)
        except (UnsupportedError, NumericalError) as refusal:
            side.refused[name] = str(refusal)
    return side


def _notes(dense: Attribution, traced: Attribution | None, refused: str) -> tuple[str, ...]:
    if traced is None:
        return (*dense.notes, f"Not computed for the trace: {refused}")
    if dense.notes == traced.notes:
        return dense.notes
    return (
        *(f"Dense: {note}" for note in dense.notes),
        *(f"Traced: {note}" for note in traced.notes),
    )


def _gap(result: Attribution) -> float | None:
    """Return the gap, unless the map is zero everywhere: nothing adds up to nothing."""
    return result.gap if bool(result.map.any()) else None


def _pair(name: str, dense: _Side, traced: _Side) -> MapPair:
    method, before, after = METHODS[name], dense.maps.get(name), traced.maps.get(name)
    if before is None:
        return MapPair(name, method.title, refused=dense.refused[name])
    return MapPair(
        name,
        method.title,
        before.heat(),
        None if after is None else after.heat(),
        signed=method.reduction == "sum",
        dense_gap=_gap(before),
        traced_gap=None if after is None else _gap(after),
        gap_of=method.gap_of or "completeness",
        notes=_notes(before, after, traced.refused.get(name, "")),
        dense_seconds=before.seconds,
        traced_seconds=None if after is None else after.seconds,
    )


def _shown(network: Network, x: Tensor) -> Tensor:
    return _unit(network.preprocessing.denormalize(x[0].float().cpu()))


def _unit(image: Tensor) -> Tensor:
    """Bring ``(C, H, W)`` in 0..1 to ``(H, W, 3)``."""
    return image.expand(3, -1, -1).permute(1, 2, 0)


def _views(
    network: Network,
    found: Trace,
    target: int,
    neurons: Mapping[str, Objective | None],
    steps: int,
    seed: int,
    chunk: int | None,
    progress: Progress | None,
) -> tuple[tuple[ViewPair, ...], dict[str, Any], dict[str, float]]:
    """Visualize neurons, dense and traced; with the settings and the seconds of both."""
    if not neurons:
        return (), {}, {}
    wanted = [objective or logit(target) for objective in neurons.values()]
    how: dict[str, Any] = {"steps": steps, "seed": seed} | ({"chunk": chunk} if chunk else {})
    dense, traced = (
        visualize(asked, wanted, progress=progress, **how)
        for asked in (network, found.network(network))
    )
    views = tuple(
        ViewPair(
            neuron=str(objective),
            title=network.label(target) if name == TARGET else name,
            dense=_unit(dense.images[number, 0]),
            traced=_unit(traced.images[number, 0]),
            dense_score=float(dense.scores[number, 0]),
            traced_score=float(traced.scores[number, 0]),
        )
        for number, (name, objective) in enumerate(zip(neurons, wanted, strict=True))
    )
    seconds = {"dense visualizations": dense.seconds, "traced visualizations": traced.seconds}
    return views, {"visualization": dense.settings}, seconds


def explain(
    network: Network,
    image: Image.Image | str | Path | Tensor,
    *,
    target: int | str | None = None,
    methods: str | Iterable[str] = DEFAULT_METHODS,
    sparsity: Sparsity = DEFAULT_SPARSITY,
    augmentations: int | Augmentation | Tensor = 64,
    solver: str = COMPENSATED,
    pattern: str = "weight",
    seed: int = 0,
    damping: float | None = None,
    stem: bool = False,
    chunk: int | None = None,
    neurons: str | Iterable[str] = (),
    steps: int = STEPS,
    statistics: Statistics | None = None,
    chain: Chain | None = None,
    image_name: str | None = None,
    progress: Progress | None = None,
) -> CaseFile:
    """Trace a network for one image and map dense and traced answers with the same settings.

    Parameters
    ----------
    network
        A classifier in evaluation mode; it is not changed.
    image
        A path, a PIL image, or a normalised tensor of the network's input size.
    target
        Class to explain, by index or name; the dense prediction by default.
    methods
        See :func:`sparsight.attribution.choose_methods`. Methods that refuse this network are
        listed with the reason.
    sparsity, augmentations, solver, pattern, damping, stem
        Of the trace, see :func:`sparsight.trace`.
    seed
        Of the augmentation and of every method.
    chunk
        Images per pass, for less memory; chosen by default.
    neurons
        To visualize, dense and traced, see :func:`choose_neurons`. None by default.
    steps
        Of each visualization.
    statistics
        What is usual for each unit: the case then says too which units are to blame if the answer
        is not the target, and what it hangs on if it is.
    chain
        A chain of the network: the case then shows what it makes of the image too.
    image_name
        What to call the image; the file's name by default.
    progress
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    CaseFile
        Ready for :func:`sparsight.reports.write_case`.

    Raises
    ------
    InputError
        Unusable image, class, method or settings; memory that does not suffice.
    NetworkError
        A network in training mode, or a chain of another network.
    UnsupportedError
        A layer whose weights are computed on the fly.
    NumericalError
        NaN in the network's answer, or a layer that cannot be solved.

    Examples
    --------
    >>> import sparsight
    >>> network = sparsight.load("timm:test_resnet.r160_in1k", weights="random")
    >>> case = explain(network, Image.new("RGB", (64, 64)), methods="saliency", augmentations=2)
    >>> [pair.title for pair in case.maps], len(case.layers)
    (['Saliency'], 16)
    """
    chosen, asked = choose_methods(methods), choose_neurons(network, neurons)
    if steps < 1:
        raise InputError(f"{steps} steps of visualization: give 1 or more")
    name = image_name or (Path(image).name if isinstance(image, str | Path) else "image")
    if isinstance(image, str | Path):
        image = open_image(image)
    with enough_memory(network, name):
        x = network.prepare(image)
        index = None if target is None else network.class_index(target)
        found = trace(
            network, image, sparsity=sparsity, augmentations=augmentations, solver=solver,
            pattern=pattern, target=index, seed=seed, damping=damping, stem=stem, chunk=chunk,
            progress=progress,
        )  # fmt: skip
        if index is None:
            index = found.prediction[0]
        done = 0

        def step() -> None:
            nonlocal done
            if progress is not None:
                progress("mapping", done, 2 * len(chosen))
            done += 1

        dense = _attribute_all(network, x, index, chosen, seed, chunk, step)
        feasible = [name for name in chosen if name in dense.maps]
        with found.applied(network):
            traced = _attribute_all(network, x, index, feasible, seed, chunk, step)
        views, how, spent = _views(network, found, index, asked, steps, seed, chunk, progress)
        blamed = None
        if statistics is not None:
            blamed = investigate(
                network, image, index, statistics=statistics, trace=found, seed=seed,
                chunk=chunk or BATCH, progress=progress,
            )  # fmt: skip
        followed = None
        if chain is not None:
            followed = follow(network, chain, image, found, blamed=blamed)
    maps = tuple(_pair(name, dense, traced) for name in chosen)
    label = network.label(index)
    return CaseFile(
        title=f"{name}: why {label}?",
        image=_shown(network, x),
        image_name=name,
        network=network.spec,
        target_index=index,
        target_label=label,
        classes=classes(found, network.label),
        kl=found.kl,
        sparsity=found.sparsity,
        maps=maps,
        layers=layers(found),
        views=views,
        blame=blamed,
        chain=followed,
        settings={
            "trace": dict(found.settings),
            "maps": {name: dict(result.settings) for name, result in dense.maps.items()},
            **how,
        },
        versions=dict(found.versions),
        seed=seed,
        timings={
            **{f"trace: {stage}": seconds for stage, seconds in found.seconds.items()},
            "dense maps": dense.seconds,
            "traced maps": traced.seconds,
            **spent,
        },
        warnings=warnings(found, index, maps, network.label),
    )
