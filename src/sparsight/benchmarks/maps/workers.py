"""Rows from several processes."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context

import cloudpickle
import torch

from sparsight.benchmarks.maps.row import Measure, Row
from sparsight.errors import InputError, SparsightError

__all__ = ["spread"]

Job = tuple[int, int]
"""Numbers of an arm and of a case."""

_mine: list[Measure] = []  # what a worker measures with


def spread(measure: Measure, jobs: Sequence[Job], workers: int) -> Iterator[Row]:
    """Measure jobs in this process, or in several; rows come as they are done.

    Workers are started anew, not forked, since threads of a forked torch may wait for ever.

    Raises
    ------
    InputError
        If what is measured cannot be copied, or there is less than one worker.
    SparsightError
        If a worker is killed.
    """
    if workers < 1:
        raise InputError(f"{workers} workers cannot measure anything: ask for one or more")
    if min(workers, len(jobs)) <= 1:
        for job in jobs:
            yield measure.row(*job)
        return
    try:
        content = cloudpickle.dumps(measure)  # networks are of classes from users' files too
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"the network cannot be copied to other processes ({error}): use one worker"
        ) from error
    before = active_children()
    threads = max(1, (os.cpu_count() or 1) // workers)
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin, initargs=(content, threads)
    )
    try:
        with _deaf():
            futures = [pool.submit(_work, job) for job in jobs]
        for done in as_completed(futures):
            yield done.result()
    except BaseException as error:  # an interrupted run does not wait for what is under way
        for process in active_children():
            if process not in before:
                process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise SparsightError(
                "a worker was killed, maybe for want of memory: use fewer workers"
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C for a moment, so that processes begun meanwhile leave it to their parent."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin(content: bytes, threads: int) -> None:
    torch.set_num_threads(threads)
    _mine.append(pickle.loads(content))  # from the parent, through a pipe


def _work(job: Job) -> Row:
    return _mine[0].row(*job)
