"""A network and its parts: load, weight matrices, overlays, recorded calls, units."""

from sparsight.networks.blocks import blocks_of
from sparsight.networks.load import load
from sparsight.networks.matrices import WeightMatrix, weight_matrices
from sparsight.networks.network import Network, open_image
from sparsight.networks.overlay import overlay
from sparsight.networks.preprocessing import Preprocessing
from sparsight.networks.recording import ConvGeometry, LayerCall, LayerInput, Recording
from sparsight.networks.units import Units
from sparsight.networks.view import shared_view

__all__ = [
    "ConvGeometry",
    "LayerCall",
    "LayerInput",
    "Network",
    "Preprocessing",
    "Recording",
    "Units",
    "WeightMatrix",
    "blocks_of",
    "load",
    "open_image",
    "overlay",
    "shared_view",
    "weight_matrices",
]
