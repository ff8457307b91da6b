"""Two halves of a set of images, one to learn from and one to measure on, and intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sparsight.networks import Network

BATCH = 16

Progress = Callable[[str, int, int], None]


def interval(values: Sequence[float]) -> list[float]:
    """Mean, and 95 % bootstrap interval of it."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(np.asarray(values, float), (2000, len(values))).mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return [float(np.mean(values)), float(low), float(high)]


class Half:
    """Images of one half, prepared, with labels and answers."""

    def __init__(self, network: Network, pairs: Sequence[tuple[Any, int]]) -> None:
        self.pairs = pairs
        self.images = torch.cat([network.prepare(image) for image, _ in pairs])
        self.labels = torch.tensor([label for _, label in pairs])
        self.answers = torch.cat(
            [network.logits(part).argmax(1) for part in self.images.split(BATCH)]
        )
        self.wrong = (self.answers != self.labels).nonzero()[:, 0]
        self.right = (self.answers == self.labels).nonzero()[:, 0]
