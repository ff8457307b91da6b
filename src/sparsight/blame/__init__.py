"""Which units are to blame for a mistake: parameter-space saliency, and what follows from it."""

from sparsight.blame.engine import Blame, blame
from sparsight.blame.inputmap import OBJECTIVES, InputMap, input_map
from sparsight.blame.likeness import Neighbour, NeighbourIndex, neighbours
from sparsight.blame.mending import Mending, Repair, mend, repair
from sparsight.blame.moments import Moments
from sparsight.blame.saliency import LOSSES, Measured, SaliencyOf
from sparsight.blame.scores import SCORES, score, tail_probability
from sparsight.blame.survey import default_kinds, statistics
from sparsight.blame.switches import answers_without, usual_outputs
from sparsight.blame.usual import Statistics
from sparsight.blame.whatif import (
    COUNTS,
    ORDERS,
    Curve,
    choices,
    damage,
    knock_out,
)
from sparsight.networks.gates import MODES

__all__ = [
    "COUNTS",
    "LOSSES",
    "MODES",
    "OBJECTIVES",
    "ORDERS",
    "SCORES",
    "Blame",
    "Curve",
    "InputMap",
    "Measured",
    "Mending",
    "Moments",
    "Neighbour",
    "NeighbourIndex",
    "Repair",
    "SaliencyOf",
    "Statistics",
    "answers_without",
    "blame",
    "choices",
    "damage",
    "default_kinds",
    "input_map",
    "knock_out",
    "mend",
    "neighbours",
    "repair",
    "score",
    "statistics",
    "tail_probability",
    "usual_outputs",
]
