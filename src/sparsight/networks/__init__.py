"""A network and its parts: load, weight matrices, overlays, recorded calls, units."""

from sparsight.networks.blocks import blocks_of
from sparsight.networks.calls import (
    ConvGeometry,
    LayerCall,
    LayerInput,
    image_dimension,
    images_first,
)
from sparsight.networks.failures import failed_machine
from sparsight.networks.load import load
from sparsight.networks.matrices import WeightMatrix, weight_matrices
from sparsight.networks.memory import memory_layout
from sparsight.networks.network import Network, open_image
from sparsight.networks.overlay import overlay
from sparsight.networks.preprocessing import Preprocessing
from sparsight.networks.recording import Recording
from sparsight.networks.state import checksum
from sparsight.networks.units import KINDS, Part, UnitGroup, Units
from sparsight.networks.view import shared_view

__all__ = [
    "KINDS",
    "ConvGeometry",
    "LayerCall",
    "LayerInput",
    "Network",
    "Part",
    "Preprocessing",
    "Recording",
    "UnitGroup",
    "Units",
    "WeightMatrix",
    "blocks_of",
    "checksum",
    "failed_machine",
    "image_dimension",
    "images_first",
    "load",
    "memory_layout",
    "open_image",
    "overlay",
    "shared_view",
    "weight_matrices",
]
