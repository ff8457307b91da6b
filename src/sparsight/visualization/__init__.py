"""What a neuron wants to see: images that raise what a network says, dense or traced."""

from sparsight.visualization.engine import visualize
from sparsight.visualization.examples import Example, receptive_field, top_examples
from sparsight.visualization.layers import Layer, find_layer, list_layers
from sparsight.visualization.objectives import (
    Objective,
    channel,
    direction,
    layer,
    logit,
    neuron,
    parse_objective,
    parse_objectives,
)
from sparsight.visualization.parametrizations import PARAMETRIZATIONS, parametrization
from sparsight.visualization.result import Visualization
from sparsight.visualization.robustness import Robustness

__all__ = [
    "PARAMETRIZATIONS",
    "Example",
    "Layer",
    "Objective",
    "Robustness",
    "Visualization",
    "channel",
    "direction",
    "find_layer",
    "layer",
    "list_layers",
    "logit",
    "neuron",
    "parametrization",
    "parse_objective",
    "parse_objectives",
    "receptive_field",
    "top_examples",
    "visualize",
]
