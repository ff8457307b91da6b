"""SPADE: the weights that matter for one sample, as a trace beside the untouched network."""

from sparsight.traces.allocation import DEFAULT_SPARSITY, Sparsity, allocate
from sparsight.traces.augment import Augmentation
from sparsight.traces.compare import LayerDiff, TraceDiff, compare
from sparsight.traces.engine import trace, trace_at
from sparsight.traces.layers import LayerTrace
from sparsight.traces.many import TraceOptions, trace_many
from sparsight.traces.options import COMPENSATED
from sparsight.traces.overlap import Overlap
from sparsight.traces.presets import PRESETS
from sparsight.traces.result import Trace
from sparsight.traces.solvers import SOLVERS

__all__ = [
    "COMPENSATED",
    "DEFAULT_SPARSITY",
    "PRESETS",
    "SOLVERS",
    "Augmentation",
    "LayerDiff",
    "LayerTrace",
    "Overlap",
    "Sparsity",
    "Trace",
    "TraceDiff",
    "TraceOptions",
    "allocate",
    "compare",
    "trace",
    "trace_at",
    "trace_many",
]
