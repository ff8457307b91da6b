"""The apps of a federation: ``flwr run`` starts them where the SuperLink and the SuperNodes are.

A client reads its own images only, here scenes that it renders; the server reads none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import sparsight
from sparsight.datasets.pixels import Pixels
from sparsight.datasets.scenes import CLASSES, render_scene
from sparsight.federated import FederatedSettings, Federation, Setup
from sparsight.federated.flower import client_app, server_app


@lru_cache(maxsize=1)
def _setup(
    clients: int, scenes: int, options: tuple[tuple[str, Any], ...], number: int | None
) -> Setup:
    network = sparsight.load("embedded")
    federation = Federation.elsewhere(clients)
    if number is not None:
        first = 1_000 * (number + 1)
        own = [
            (render_scene(CLASSES[i % len(CLASSES)], seed=first + i).picture(), i % len(CLASSES))
            for i in range(scenes)
        ]
        federation = Federation.elsewhere(clients, number, Pixels(network, own))
    return Setup(network, federation, FederatedSettings.preset(**dict(options)))


def make(config: Mapping[str, Any], number: int | None) -> Setup:
    """Tell what server and clients agree on."""
    names = ("algorithm", "rounds", "budget", "rate")
    options = tuple((name, config[name]) for name in names)
    return _setup(int(config["clients"]), int(config["scenes"]), options, number)


client = client_app(make, folder="federation")
server = server_app(make, folder="federation")
