"""How long a trace takes, against forward passes of the same views and the published steps.

Clocks and neighbours change between runs, so everything is timed in turn in one process, and
medians are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import nextafter
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sparsight.benchmarks.machine import Stopwatch, describe_machine
from sparsight.benchmarks.published import BATCH, PublishedRun, published_trace
from sparsight.benchmarks.report import SpeedReport
from sparsight.errors import InputError
from sparsight.networks import Network, memory_layout, open_image
from sparsight.networks.preprocessing import to_unit
from sparsight.storage import library_versions
from sparsight.traces import SOLVERS, Augmentation, Sparsity, Trace, trace
from sparsight.traces.options import positions_for

__all__ = ["check_solvers", "measure_speed", "noise_image"]

_SHOWN = 3
_ALL_AT_ONCE = 256  # views that a trace holds at the same time
_MOST = nextafter(1.0, 0.0)  # a trace may drop a layer whole, a solver is never asked to
_RANDOM = (
    "weights are random: answers mean nothing, and a sparsity that goes by answers may be found "
    "sooner or later than for trained weights"
)

Progress = Callable[[str, int, int], None]
_Work = Callable[[], Trace | PublishedRun | None]


def noise_image() -> Image.Image:
    """Noise at two scales, 500 x 375 pixels: what is in an image does not change the cost.

    Examples
    --------
    >>> noise_image().size
    (500, 375)
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 12, 16, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, (375, 500), mode="bicubic")[0]
    pixels = (pixels + 0.1 * torch.rand(3, 375, 500, generator=generator)).clamp(0, 1)
    return Image.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy())


def check_solvers(names: Sequence[str]) -> tuple[str, ...]:
    """Check names of solvers; ``all`` is every one.

    Raises
    ------
    InputError
        If one is unknown.

    Examples
    --------
    >>> check_solvers(["refit", "wanda"])
    ('refit', 'wanda')
    """
    for name in names:
        if name not in {*SOLVERS, "all"}:
            raise InputError(f"unknown solver {name!r}: choose from {', '.join(SOLVERS)}")
    return tuple(SOLVERS if "all" in names else dict.fromkeys(names))


def measure_speed(
    network: Network,
    image: Image.Image | str | Path | None = None,
    *,
    sparsity: Sparsity | None = None,
    augmentations: int = 64,
    repeats: int = 5,
    solvers: Sequence[str] = (),
    published: int = 1,
    seed: int = 0,
    memory: Mapping[str, float] | None = None,
    progress: Progress | None = None,
    keep: Callable[[SpeedReport], object] | None = None,
) -> SpeedReport:
    """Time forward passes, traces and the published steps in turn.

    Parameters
    ----------
    network
        A classifier in evaluation mode.
    image
        A path or PIL image; noise by default.
    sparsity
        As for :func:`sparsight.trace`, whose default is taken if none is given. Other solvers and
        the published steps get the shares, layer by layer, that the trace asked for.
    augmentations
        Views. If a trace has another number of them by default, that is timed as well.
    repeats
        How often each is timed.
    solvers
        Names in :data:`sparsight.traces.SOLVERS` of other traces to time; ``all`` is every one.
    published
        In how many of the repeats, the first ones, the published steps are timed too.
    seed
        Of the views.
    memory
        Peak memory to put down in the report; see :func:`sparsight.benchmarks.peak_memory`.
    progress
        Called as ``progress(what, done, total)``.
    keep
        Called with the report so far after each timing, so that an interrupted measurement
        leaves something.

    Returns
    -------
    SpeedReport

    Raises
    ------
    InputError
        Unusable image or settings, or too little memory on a GPU.

    Examples
    --------
    >>> import sparsight
    >>> report = measure_speed(sparsight.load("embedded"), augmentations=4, repeats=1)
    >>> list(report.seconds)
    ['forward', 'fastest forward', 'trace', 'default trace', 'published']
    >>> list(report.ratios)[2:]
    ['published over trace', 'published over default trace']
    """
    if repeats < 1:
        raise InputError(f"{repeats} repeats: at least one is needed")
    solvers = check_solvers(solvers)
    picture, name = _picture(image)
    views = _views(network, picture, augmentations, seed)
    subject = "a trace"
    try:
        default = partial(trace, network, picture, seed=seed)
        if sparsity is not None:
            default = partial(default, sparsity=sparsity)
        first = default()  # warms up, and says what the defaults are
        subjects = _subjects(network, picture, views, default, first, solvers)
        if not published:
            del subjects["published"]
        draft = _Draft(network, subjects, first)
        for repeat in range(repeats):
            for subject, work in subjects.items():
                if subject == "published" and repeat >= published:
                    continue
                if progress is not None:
                    progress(subject, repeat, repeats)
                watch = Stopwatch(network.device)
                found = work()
                watch.lap(subject)
                draft.add(subject, watch.total, found)
                report = draft.report(network, name, augmentations, repeats, memory or {})
                if keep is not None:
                    keep(report)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"device {network.device} has too little memory for {subject} of {augmentations} "
            "views: take fewer of them, or another device"
        ) from error
    return report


class _Draft:
    """A report that grows."""

    def __init__(self, network: Network, subjects: Iterable[str], first: Trace) -> None:
        self._seconds: dict[str, list[float]] = {subject: [] for subject in subjects}
        self._stages: dict[str, dict[str, list[float]]] = {}
        self._settings = dict(first.settings)
        self._layers = {"trace": sum(layer.requested > 0 for layer in first.layers)}
        self._notes: dict[str, None] = {}  # a set that keeps its order
        if network.info.get("weights") == "untrained":
            self._notes[_RANDOM] = None

    def add(self, subject: str, spent: float, found: Trace | PublishedRun | None) -> None:
        """Take in one timing."""
        self._seconds[subject].append(spent)
        for stage, part in (found.seconds if found is not None else {}).items():
            self._stages.setdefault(subject, {}).setdefault(stage, []).append(part)
        if isinstance(found, PublishedRun):
            self._layers["published"] = len(found.tensors)
            if found.note:
                self._notes[f"published steps: {found.note}"] = None
            if found.left_out:
                shown = ", ".join(found.left_out[:_SHOWN])
                more = ", ..." if len(found.left_out) > _SHOWN else ""
                left_out = f"{len(found.left_out)} layers dense: {shown}{more}"
                self._notes[f"published steps leave {left_out}"] = None

    def report(
        self,
        network: Network,
        image: str,
        augmentations: int,
        repeats: int,
        memory: Mapping[str, float],
    ) -> SpeedReport:
        """Report on the timings so far."""
        return SpeedReport(
            network=network.spec,
            weights=str(network.info.get("weights", "as built")),
            image=image,
            augmentations=augmentations,
            repeats=repeats,
            settings=self._settings,
            layers=dict(self._layers),
            machine=describe_machine(network.device),
            seconds=_frozen(self._seconds),
            stages={name: _frozen(parts) for name, parts in self._stages.items()},
            memory=dict(memory),
            notes=tuple(self._notes),
            versions=library_versions(),
        )


def _frozen(values: Mapping[str, Iterable[float]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(some) for name, some in values.items()}


def _picture(image: Image.Image | str | Path | None) -> tuple[Image.Image, str]:
    """Return the image, and its name and size in words."""
    if image is None:
        picture, name = noise_image(), "noise"
    elif isinstance(image, Image.Image):
        picture, name = image, "image"
    else:
        picture, name = open_image(image), Path(image).name
    return picture, f"{name}, {picture.width} x {picture.height} pixels"


def _views(network: Network, image: Image.Image, count: int, seed: int) -> Tensor:
    """Make the views that a trace makes."""
    preprocessing = network.preprocessing
    unit = to_unit(image, preprocessing.channels).to(network.device)
    views = Augmentation(count=count)(unit, preprocessing.size, seed=seed)
    return preprocessing.normalize(views).to(network.dtype)


def _subjects(
    network: Network,
    picture: Image.Image,
    views: Tensor,
    default: Callable[..., Trace],
    first: Trace,
    solvers: Sequence[str],
) -> dict[str, _Work]:
    """Make what is timed, by name, with forward passes warmed up."""
    count, seed = len(views), first.settings["seed"]
    last = views.contiguous(memory_format=memory_layout(network, views))
    batches, chunks = views.split(BATCH), last.split(int(first.settings["chunk"]))
    shares = {layer.name: layer.requested for layer in first.layers if layer.requested > 0}
    below_one = {name: min(share, _MOST) for name, share in shares.items()}

    def forward(batches: Sequence[Tensor]) -> None:
        for batch in batches:
            network.logits(batch)

    for warm in (batches, chunks):
        forward(warm[:1])
    subjects: dict[str, _Work] = {
        "forward": lambda: forward(batches),
        "fastest forward": lambda: forward(chunks),
    }
    if first.settings["augmentations"]["count"] == count:
        subjects["trace"] = default
    else:
        subjects |= {"trace": partial(default, augmentations=count), "default trace": default}
    if first.settings["views_used"] < count <= _ALL_AT_ONCE:
        subjects["trace of all views"] = partial(
            default, augmentations=count, positions=positions_for(count)
        )
        if network.dtype == torch.float32:
            subjects["trace in bfloat16"] = partial(
                default, augmentations=count, precision="bfloat16"
            )
    for solver in solvers:
        if solver != first.settings["solver"]:
            subjects[f"solver {solver}"] = partial(
                default, sparsity=below_one, augmentations=count, solver=solver
            )
    subjects["published"] = partial(
        published_trace, network, picture, shares, augmentations=count, seed=seed
    )
    return subjects
