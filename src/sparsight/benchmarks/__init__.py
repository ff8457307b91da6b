"""Measurements that the commands can repeat on any network and machine; one file for each."""

from sparsight.benchmarks.memory import peak_memory
from sparsight.benchmarks.published import PublishedRun, published_trace
from sparsight.benchmarks.report import SpeedReport
from sparsight.benchmarks.speed import check_solvers, measure_speed, noise_image

__all__ = [
    "PublishedRun",
    "SpeedReport",
    "check_solvers",
    "measure_speed",
    "noise_image",
    "peak_memory",
    "published_trace",
]
