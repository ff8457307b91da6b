"""The small sub-network that tells a few classes apart: filters and branches, copied unchanged."""

from sparsight.chains.extract import extract, extract_many
from sparsight.chains.fidelity import (
    CONTROLS,
    Fidelity,
    Selection,
    constant_answer,
    controls,
    fidelity,
    judge,
)
from sparsight.chains.graph import ChainGraph, Edge, Node, chain_graph
from sparsight.chains.result import Chain
from sparsight.chains.selectors import SELECTORS
from sparsight.chains.settings import PUBLISHED, ChainSettings
from sparsight.chains.slicing import Sliced, cut

__all__ = [
    "CONTROLS",
    "PUBLISHED",
    "SELECTORS",
    "Chain",
    "ChainGraph",
    "ChainSettings",
    "Edge",
    "Fidelity",
    "Node",
    "Selection",
    "Sliced",
    "chain_graph",
    "constant_answer",
    "controls",
    "cut",
    "extract",
    "extract_many",
    "fidelity",
    "judge",
]
