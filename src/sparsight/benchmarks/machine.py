"""What a measurement ran on, and a clock that waits for it."""

from __future__ import annotations

import platform
from pathlib import Path
from time import perf_counter

import torch

__all__ = ["Stopwatch", "describe_machine"]

_CPU_FACTS = Path("/proc/cpuinfo")


class Stopwatch:
    """Seconds by stage, with all work of a device done at the end of each.

    Accelerators work behind the back of the program, so that without waiting for them a stage
    would be charged for the work of another.

    Examples
    --------
    >>> watch = Stopwatch(torch.device("cpu"))
    >>> _ = torch.ones(9).sum()
    >>> watch.lap("sum"), watch.lap("sum")
    (None, None)
    >>> list(watch.seconds), watch.seconds["sum"] == watch.total
    (['sum'], True)
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._last = self._now()

    def _now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        now = self._now()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    @property
    def total(self) -> float:
        """Seconds of all laps."""
        return sum(self.seconds.values())


def _processor() -> str:
    if _CPU_FACTS.is_file():
        for line in _CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """Name the processor, its threads, and the accelerator if the device is one.

    Examples
    --------
    >>> sorted(describe_machine(torch.device("cpu")))
    ['device', 'processor', 'threads']
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "processor": _processor(), "threads": torch.get_num_threads()}
