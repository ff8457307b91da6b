"""Sparsight: keep only the parameters that matter for the question, then look."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsight.attribution import Attribution, attribute
    from sparsight.errors import SparsightError
    from sparsight.networks import Network, Preprocessing, load, overlay
    from sparsight.traces import Augmentation, Trace, TraceDiff, compare, trace, trace_many

__version__ = "0.1.0"

_HOMES = {
    "Attribution": "sparsight.attribution",
    "Augmentation": "sparsight.traces",
    "Network": "sparsight.networks",
    "Preprocessing": "sparsight.networks",
    "SparsightError": "sparsight.errors",
    "Trace": "sparsight.traces",
    "TraceDiff": "sparsight.traces",
    "attribute": "sparsight.attribution",
    "compare": "sparsight.traces",
    "load": "sparsight.networks",
    "overlay": "sparsight.networks",
    "trace": "sparsight.traces",
    "trace_many": "sparsight.traces",
}

__all__ = [
    "Attribution",
    "Augmentation",
    "Network",
    "Preprocessing",
    "SparsightError",
    "Trace",
    "TraceDiff",
    "__version__",
    "attribute",
    "compare",
    "load",
    "overlay",
    "trace",
    "trace_many",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that the command line starts fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sparsight' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
