"""Traces of many images: several at once as far as cores and memory go, in the order asked."""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import TypedDict, Unpack

import psutil
import torch
from PIL import Image
from torch import Tensor, nn

from sparsight.errors import InputError, SparsightError, UnsupportedError
from sparsight.networks import Network
from sparsight.traces.allocation import Sparsity
from sparsight.traces.augment import Augmentation
from sparsight.traces.engine import trace
from sparsight.traces.options import COMPENSATED, POSITIONS, check_options, most_views
from sparsight.traces.plan import make_plan
from sparsight.traces.result import Trace

__all__ = ["TraceOptions", "trace_many"]

Sample = Image.Image | str | Path | Tensor

_STREAMS = 8  # traces at once on a GPU: they wait for each other beyond that


class TraceOptions(TypedDict, total=False):
    """Options of :func:`sparsight.trace`, all but the image's own."""

    sparsity: Sparsity
    augmentations: int | Augmentation | Tensor
    solver: str
    seed: int
    damping: float | None
    focus: float
    positions: int
    gradients: int
    refitted: int
    pattern: str
    precision: str
    stem: bool
    chunk: int


def trace_many(
    network: Network,
    images: Iterable[Sample],
    *,
    at_once: int | None = None,
    memory: int | None = None,
    failed: Callable[[int, SparsightError], None] | None = None,
    **options: Unpack[TraceOptions],
) -> Iterator[tuple[int, Trace]]:
    """Trace many images and yield each trace as soon as it and those before it are there.

    Every trace is what :func:`sparsight.trace` returns for this image alone with the same number
    of torch's threads, to the last bit. Images are read when their turn comes, and no further
    ahead than traces are taken, so a generator without end is fine.

    Parameters
    ----------
    network
        A classifier in evaluation mode.
    images
        As for :func:`sparsight.trace`; ``(1, C, H, W)`` each if tensors.
    at_once
        How many images are worked on at the same time. By default as many as ``memory`` holds, but
        on the CPU no more than cores for torch's threads (``torch.set_num_threads(1)`` leaves one
        core to each), and on a GPU no more than 8, each on a stream of its own.
    memory
        Bytes that traces being made may take together, by an estimate; one image is always worked
        on. By default half of what is free when the first image is traced.
    failed
        Called with the number of an image that cannot be traced, and the error; the others go on.
        By default the error is raised in its turn.
    options
        Those of :func:`sparsight.trace`.

    Yields
    ------
    tuple of int and Trace
        The number of the image, from 0, and its trace.

    Raises
    ------
    InputError
        Unusable options; raised by the call, everything else when the image's turn comes.
    UnsupportedError
        A model that cannot be copied, which several images at once need.

    Examples
    --------
    >>> import torch, sparsight
    >>> network = sparsight.load("embedded")
    >>> pictures = (torch.randn(1, 3, 64, 64) for _ in range(3))
    >>> for number, found in sparsight.trace_many(network, pictures, augmentations=4):
    ...     print(number, found.agrees)
    0 True
    1 True
    2 True
    """
    check_options(network, options)
    for name, value in (("at_once", at_once), ("memory", memory)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value} is too small: give 1 or more")
    network.require_eval()
    return _stream(network, iter(images), at_once, memory, failed, options)


def _stream(
    network: Network,
    images: Iterator[Sample],
    at_once: int | None,
    memory: int | None,
    failed: Callable[[int, SparsightError], None] | None,
    options: TraceOptions,
) -> Iterator[tuple[int, Trace]]:
    at_once = at_once or _how_many(network, memory, options)
    results = _one_by_one if at_once == 1 else _together
    with closing(results(network, images, at_once, options)) as stream:
        for number, result in enumerate(stream):
            try:
                found = result()
            except SparsightError as error:
                if failed is None:
                    raise
                failed(number, error)
            else:
                yield number, found


def _one_by_one(
    network: Network, images: Iterator[Sample], _: int, options: TraceOptions
) -> Generator[Callable[[], Trace]]:
    for image in images:
        yield partial(trace, network, image, **options)


def _together(
    network: Network, images: Iterator[Sample], at_once: int, options: TraceOptions
) -> Generator[Callable[[], Trace]]:
    twins: SimpleQueue[Network] = SimpleQueue()
    for _ in range(at_once):
        twins.put(_twin(network))

    def work(image: Sample) -> Trace:
        twin = twins.get()
        try:
            return _on_a_stream(twin, image, options)
        finally:
            twins.put(twin)

    pool = ThreadPoolExecutor(at_once)
    try:
        pending = deque(pool.submit(work, image) for image in islice(images, at_once))
        while pending:
            yield pending.popleft().result
            pending.extend(pool.submit(work, image) for image in islice(images, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def _on_a_stream(network: Network, image: Sample, options: TraceOptions) -> Trace:
    if network.device.type != "cuda":
        return trace(network, image, **options)
    stream = torch.cuda.Stream(network.device)
    stream.wait_stream(torch.cuda.current_stream(network.device))
    with torch.cuda.stream(stream):
        found = trace(network, image, **options)
    stream.synchronize()
    return found


def _twin(network: Network) -> Network:
    """Copy modules and buffers, and share the values of parameters, which no trace writes to."""
    own = {
        id(p): nn.Parameter(p.data, requires_grad=p.requires_grad)  # counts versions of its own
        for p in network.model.parameters()
    }
    try:
        return replace(network, model=copy.deepcopy(network.model, own))
    except (TypeError, AttributeError, RuntimeError) as error:
        raise UnsupportedError(
            f"the model cannot be copied, which several images at once need ({error}): "
            "set at_once to 1"
        ) from error


def _how_many(network: Network, memory: int | None, options: TraceOptions) -> int:
    """Say how many traces fit into memory together, one at least."""
    device = network.device
    if device.type == "cuda":
        limit, free = _STREAMS, torch.cuda.mem_get_info(device)[0]
    else:
        cores = getattr(os, "process_cpu_count", os.cpu_count)() or 1
        limit, free = cores // torch.get_num_threads(), psutil.virtual_memory().available
    if limit <= 1:
        return 1
    one = _bytes_of_one(network, options)
    return max(1, min(limit, (free // 2 if memory is None else memory) // one))


def _bytes_of_one(network: Network, options: TraceOptions) -> int:
    """Estimate what one trace takes at its peak: activations of all views, weights, one layer."""
    preprocessing = network.preprocessing
    size = (1, preprocessing.channels, *preprocessing.size)
    noise = torch.randn(size, generator=torch.Generator().manual_seed(0))  # a picture has contrast
    plan = make_plan(network, noise.to(network.device, network.dtype))
    views = options.get("augmentations", 64)
    if isinstance(views, Tensor):
        count = len(views)
    else:
        count = views if isinstance(views, int) else views.count
    positions = options.get("positions", POSITIONS)
    if options.get("solver", COMPENSATED) == COMPENSATED:
        count = min(count, most_views(positions))
    weights = sum(p.numel() * p.element_size() for p in network.model.parameters())
    widest = max((m.columns for m in plan.order), default=1)
    layer = 4 * widest * (4 * positions + 3 * widest)
    return 3 * (1 + count) * plan.largest + 3 * weights + layer
