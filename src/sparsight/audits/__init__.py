"""Does an answer hang on a planted or spurious cue? Verdicts for images, classes and networks."""

from sparsight.audits.audit import audit
from sparsight.audits.blending import blended_entropy
from sparsight.audits.calibration import Calibration, calibrate
from sparsight.audits.inversion import Inverted, anomalies, invert
from sparsight.audits.result import FILES, Audit
from sparsight.audits.transfer import Hosts, Transfer, patches, transfer
from sparsight.audits.verdict import ClassVerdict, judge

__all__ = [
    "FILES",
    "Audit",
    "Calibration",
    "ClassVerdict",
    "Hosts",
    "Inverted",
    "Transfer",
    "anomalies",
    "audit",
    "blended_entropy",
    "calibrate",
    "invert",
    "judge",
    "patches",
    "transfer",
]
