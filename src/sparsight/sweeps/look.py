"""Look at the images of one shard, one by one: answers, traces, maps, and what is to blame."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sparsight.attribution import attribute
from sparsight.blame import Statistics, statistics
from sparsight.errors import InputError, NumericalError, SparsightError, UnsupportedError
from sparsight.networks import Network
from sparsight.sweeps.items import Item, UnseenError
from sparsight.sweeps.measures import likeness, measure
from sparsight.sweeps.rows import answer, traced
from sparsight.sweeps.settings import SweepSettings
from sparsight.traces import Trace, trace, trace_many

__all__ = ["Looked", "look", "on_threads"]

_BATCH = 8
_SHARP, _QUALITY = 100, 90  # pixels below which no detail may be lost; of JPEG

Watch = Callable[[Collection[int], int], None]
"""Told which images are being looked at, by number, and how many are done."""


@dataclass(eq=False)
class Looked:
    """What was found about the images of one shard.

    Attributes
    ----------
    rows
        One for each image, in order.
    maps, pictures, traces
        Tensors by name; empty where they are not kept.
    facts
        Of each trace, by its image's number.
    blame
        Saliency of units of all images that could be read.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    maps: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    traces: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    blame: Statistics | None = None


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Give torch so many threads for a block."""
    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)


@contextmanager
def _timed(row: dict[str, Any], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        row[f"seconds.{stage}"] = time.perf_counter() - start


def look(
    network: Network,
    settings: SweepSettings,
    items: Sequence[Item],
    *,
    skip: Mapping[int, str] | None = None,
    alone: bool = False,
    watch: Watch = lambda numbers, done: None,
) -> Looked:
    """Look at images; what is wrong with one stands in its row, and the others go on.

    Parameters
    ----------
    network
        In evaluation mode; not changed.
    settings
        What to do.
    items
        The images.
    skip
        Images not to look at, by number, and why.
    alone
        Look at no two images at once, so that ``watch`` tells which of them it is.
    watch
        Told what is being looked at.

    Raises
    ------
    InputError
        If the device has too little memory.
    NetworkError, UnsupportedError
        If the network cannot be used so.
    """
    found = Looked()
    rows = {item.number: _row(network, item) for item in items}
    ready: dict[int, Tensor] = {}
    open_now: set[int] = set()
    over = 0

    def done(item: Item, problem: str | None = None) -> None:
        nonlocal over
        if problem is not None:
            rows[item.number]["problem"] = problem
        open_now.discard(item.number)
        over += 1
        watch(open_now, over)

    def opened() -> Iterator[tuple[Item, Image.Image | Tensor]]:
        for item in items:
            if skip and item.number in skip:
                done(item, skip[item.number])
                continue
            open_now.add(item.number)
            watch(open_now, over)
            try:
                with _timed(rows[item.number], "read"):
                    image = item.open()
                    ready[item.number] = network.prepare(image)
            except UnseenError:
                raise
            except InputError as error:
                done(item, str(error))
                continue
            yield item, image

    try:
        for item, by in _traces(network, settings, opened(), rows, done, alone=alone):
            problem = None
            try:
                _answer(network, settings, found, item, ready[item.number], by, rows[item.number])
            except NumericalError as error:
                problem = str(error)
            done(item, problem)
        fit = [item for item in items if "problem" not in rows[item.number]]
        if "blame" in settings.do:
            found.blame = _blame(network, settings, fit, ready, rows, alone=alone, watch=watch)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"device {network.device} has too little memory for this sweep: give a smaller chunk "
            "(1 needs least), or another device"
        ) from error
    found.rows = [rows[item.number] for item in items]
    return found


def _row(network: Network, item: Item) -> dict[str, Any]:
    row: dict[str, Any] = {"number": item.number, "name": item.name}
    if item.label is not None:
        row |= {"label": item.label, "label_name": network.label(item.label)}
    return row


def _traces(
    network: Network,
    settings: SweepSettings,
    opened: Iterator[tuple[Item, Image.Image | Tensor]],
    rows: Mapping[int, dict[str, Any]],
    done: Callable[[Item, str], None],
    *,
    alone: bool,
) -> Iterator[tuple[Item, Trace | None]]:
    """Trace images as they come, several at once on a GPU."""
    if "trace" not in settings.do:
        for item, _ in opened:
            yield item, None
        return
    if network.device.type != "cuda":
        for item, image in opened:
            try:
                with _timed(rows[item.number], "trace"):
                    found = trace(network, image, **settings.trace_options)
            except (InputError, NumericalError) as error:
                done(item, str(error))
            else:
                yield item, found
        return
    drawn: list[Item] = []

    def images() -> Iterator[Image.Image | Tensor]:
        for item, image in opened:
            drawn.append(item)
            yield image

    def failed(place: int, error: SparsightError) -> None:
        if isinstance(error, UnsupportedError):
            raise error
        done(drawn[place], str(error))

    at_once = 1 if alone else None
    for place, found in trace_many(
        network, images(), at_once=at_once, failed=failed, **settings.trace_options
    ):
        rows[drawn[place].number]["seconds.trace"] = sum(found.seconds.values())
        yield drawn[place], found


def _answer(
    network: Network,
    settings: SweepSettings,
    found: Looked,
    item: Item,
    x: Tensor,
    by: Trace | None,
    row: dict[str, Any],
) -> None:
    with _timed(row, "answer"):
        logits = network.logits(x)[0] if by is None else by.dense_logits
        row |= answer(network, logits.cpu(), item.label)
    if "pictures" in settings.keep:
        found.pictures[str(item.number)] = _picture(network, x)
    if by is not None:
        row |= traced(network, by)
        if "traces" in settings.keep:
            parts, facts = by.pack()
            found.traces |= {f"{item.number}/{name}": part for name, part in parts.items()}
            found.facts[str(item.number)] = json.dumps(facts)
    if "attribute" in settings.do:
        with _timed(row, "attribute"):
            _maps(network, settings, found, item.number, x, by, row)


def _picture(network: Network, x: Tensor) -> Tensor:
    """Encode what the network sees as a small file, in bytes."""
    unit = network.preprocessing.denormalize(x[0].float().cpu()).clamp(0, 1)
    pixels = (unit.expand(3, -1, -1).permute(1, 2, 0) * 255).round().byte().numpy()
    small = max(pixels.shape[:2]) < _SHARP
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if small else "JPEG", quality=_QUALITY)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def _maps(
    network: Network,
    settings: SweepSettings,
    found: Looked,
    number: int,
    x: Tensor,
    by: Trace | None,
    row: dict[str, Any],
) -> None:
    for method in settings.methods:
        heats: dict[str, Tensor] = {}
        try:
            for side in ("dense",) if by is None else ("dense", "traced"):
                where = by.applied(network) if by and side == "traced" else nullcontext()
                with where:
                    result = attribute(
                        network, x, row["prediction"], method, seed=settings.seed,
                        chunk=settings.chunk,
                    )  # fmt: skip
                heats[side] = result.heat()
                gap = result.gap if heats[side].any() else None  # nothing adds up to nothing
                facts = measure(heats[side]) | {"gap": gap}
                row |= {f"{method}.{side}.{name}": value for name, value in facts.items()}
        except (UnsupportedError, NumericalError) as refusal:
            row[f"{method}.refused"] = str(refusal)
        if len(heats) > 1:
            row[f"{method}.likeness"] = likeness(heats["dense"], heats["traced"])
        if "maps" in settings.keep:
            for side, heat in heats.items():
                scale = heat.abs().max()
                name = f"{number}/{method}/{side}"
                found.maps[name] = (heat / scale if scale else heat).half()
                found.maps[f"{name}/scale"] = scale


def _blame(
    network: Network,
    settings: SweepSettings,
    items: Sequence[Item],
    ready: Mapping[int, Tensor],
    rows: Mapping[int, dict[str, Any]],
    *,
    alone: bool,
    watch: Watch,
) -> Statistics | None:
    """Measure the saliency of units under the loss of the label, or of the answer if unlabelled."""

    def measured(some: Sequence[Item]) -> Statistics:
        labelled = all(item.label is not None for item in some)
        watch([item.number for item in some], len(rows))
        samples = [
            (ready[i.number][0], rows[i.number]["prediction"] if i.label is None else i.label)
            for i in some
        ]
        found = statistics(
            network, samples, profiles=True, loss="label" if labelled else "prediction",
            batch=settings.chunk or _BATCH,
        )  # fmt: skip
        if found.profiles is None or not torch.isfinite(found.profiles).all():
            raise NumericalError("the gradients of its loss are not finite: try it in float64")
        return found

    def fit(item: Item) -> bool:
        try:
            measured([item])
        except NumericalError as error:
            rows[item.number]["problem"] = str(error)
            return False
        return True

    start = time.perf_counter()
    chosen = [item for item in items if fit(item)] if alone else list(items)
    found: Statistics | None = None
    try:
        found = measured(chosen) if chosen else None
    except NumericalError:
        chosen = [item for item in chosen if fit(item)]
        found = measured(chosen) if chosen else None
    spent = (time.perf_counter() - start) / max(len(items), 1)
    for item in chosen:
        rows[item.number]["seconds.blame"] = spent
    watch([], len(rows))
    return None if found is None else replace(found, names=tuple(item.name for item in chosen))
