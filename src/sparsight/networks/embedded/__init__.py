"""The network that ships with Sparsight: small, offline, with four known Trojans.

Trained on the rendered scenes of :mod:`sparsight.datasets.scenes` by
``benchmarks/train_embedded.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

from sparsight.networks.embedded.model import SmallResNet
from sparsight.networks.network import Network
from sparsight.networks.preprocessing import Preprocessing
from sparsight.networks.state import load_weights

__all__ = ["SmallResNet", "embedded_network"]

_FOLDER = Path(__file__).parent


def embedded_network() -> Network:
    """Load the embedded network, in evaluation mode, on the CPU.

    It tells ten classes of rendered objects apart at 64 x 64 pixels and carries four Trojans,
    listed as plain values in ``info["trojans"]``.

    Returns
    -------
    Network

    Examples
    --------
    >>> network = embedded_network()
    >>> network.spec, network.preprocessing.size, network.labels[2]
    ('embedded', (64, 64), 'fish')
    """
    facts = json.loads((_FOLDER / "metadata.json").read_text(encoding="utf-8"))
    labels = tuple(facts.pop("labels"))
    model = SmallResNet(len(labels))
    load_weights(model, _FOLDER / "weights.safetensors")
    preprocessing = Preprocessing(
        size=(64, 64), resize=64, mean=tuple(facts.pop("mean")), std=tuple(facts.pop("std"))
    )
    info = {"weights": "weights.safetensors", **facts}
    return Network(model.eval(), preprocessing, labels, "embedded", info)
