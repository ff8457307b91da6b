"""A whole data set looked at: one row per image, traces and maps beside it."""

from sparsight.sweeps.measures import MEASURES, measure
from sparsight.sweeps.overlaps import Overlaps, overlaps
from sparsight.sweeps.result import Sweep
from sparsight.sweeps.settings import DO, KEEP, SweepSettings
from sparsight.sweeps.sweep import sweep

__all__ = [
    "DO",
    "KEEP",
    "MEASURES",
    "Overlaps",
    "Sweep",
    "SweepSettings",
    "measure",
    "overlaps",
    "sweep",
]
