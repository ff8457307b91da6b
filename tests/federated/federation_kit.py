"""A small federation that trains in a moment."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sparsight.datasets.pixels import Pixels
from sparsight.federated import Federation, dirichlet
from sparsight.networks import Network, Preprocessing

CLASSES = ("red", "green", "blue")


class Net(nn.Module):
    """Two convolutions with normalisations, a hidden layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.two, self.norm2 = nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8, 12)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm1(self.one(x)))
        x = F.relu(self.norm2(self.two(x)))
        return self.fc(F.relu(self.hidden(x.mean((2, 3)))))


def network_of(model: nn.Module | None = None) -> Network:
    """Return the network, always the same one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Net() if model is None else model
    return Network(made if model is not None else made.eval(), Preprocessing((8, 8), 8), CLASSES)


def images_of(count: int, seed: int = 0) -> list[tuple[np.ndarray, int]]:
    """Return noise with a cast of colour, which is the class."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        image = rng.integers(0, 120, (3, 8, 8))
        image[number % 3] += rng.integers(20, 120)
        found.append((image.astype(np.uint8), number % 3))
    return found


def federation_of(
    clients: int = 4, count: int = 120, alpha: float = 0.5, *, styles: float = 0.0
) -> Federation:
    """Return clients with unlike images, and images of nobody."""
    network = network_of()
    data = Pixels(network, images_of(count))
    parts = dirichlet(data.labels, clients, alpha, seed=1, least=8)
    return Federation.of(data, parts, Pixels(network, images_of(30, 1)), styles=styles)
