"""A case in the making: how far it is, and a way to stop it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Executor
from threading import Event
from typing import NamedTuple

from sparsight.reports import CaseFile

__all__ = ["Job", "Step"]


class Step(NamedTuple):
    """How far a stage is.

    Examples
    --------
    >>> str(Step("solving", 3, 14))
    'solving: 3 of 14'
    """

    stage: str
    done: int
    total: int

    def __str__(self) -> str:
        return f"{self.stage}: {self.done} of {self.total}"


class Job:
    """Work that was handed to an executor, and that stops soon after it is told to.

    Parameters
    ----------
    work
        Called with the job. It must call :meth:`check` or :meth:`report` often: these raise once
        the job is cancelled.
    line
        Where the work waits for its turn.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> def work(job):
    ...     while True:
    ...         job.report("counting", 1, 2)
    >>> with ThreadPoolExecutor(1) as line:
    ...     job = Job(work, line)
    ...     job.cancel()
    >>> job.over, job.cancelled
    (True, True)
    """

    def __init__(self, work: Callable[[Job], CaseFile], line: Executor) -> None:
        self._stop = Event()
        self.step: Step | None = None
        self._future = line.submit(work, self)

    def check(self) -> None:
        """Go on, or end the work here.

        Raises
        ------
        concurrent.futures.CancelledError
            If the job was cancelled.
        """
        if self._stop.is_set():
            raise CancelledError

    def report(self, stage: str, done: int, total: int) -> None:
        """Take note of a step; of the form that :func:`sparsight.trace` calls.

        Raises
        ------
        concurrent.futures.CancelledError
            If the job was cancelled.
        """
        self.check()
        self.step = Step(stage, done, total)

    def cancel(self) -> None:
        """Ask the work to stop; nothing happens if it is over."""
        if not self._future.done():
            self._stop.set()
            self._future.cancel()

    @property
    def waiting(self) -> bool:
        """Whether other work is done first."""
        return not self._future.running() and not self._future.done()

    @property
    def over(self) -> bool:
        """Whether nothing is computed any more."""
        return self._future.done()

    @property
    def cancelled(self) -> bool:
        """Whether it was told to stop before it was over."""
        return self._stop.is_set()

    def result(self, timeout: float | None = None) -> CaseFile:
        """Wait for the case.

        Raises
        ------
        concurrent.futures.CancelledError
            If the job was cancelled.
        SparsightError
            Whatever is wrong with the image or the network, named.
        TimeoutError
            If the case is not there after so many seconds.
        """
        case = self._future.result(timeout)
        self.check()
        return case
