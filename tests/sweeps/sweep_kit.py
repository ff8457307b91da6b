"""Networks that misbehave on one image, for workers that find them by this module's name."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor, nn

import sparsight
from sparsight.networks import Network


class Deadly(nn.Module):
    """Kills its process when it sees an image that is white."""

    def __init__(self) -> None:
        super().__init__()
        self.model = sparsight.load("embedded").model

    def forward(self, x: Tensor) -> Tensor:
        if bool((x[0] > 1.5).all()):
            os.kill(os.getpid(), signal.SIGKILL)
        answer: Tensor = self.model(x)
        return answer


def deadly() -> Network:
    base = sparsight.load("embedded")
    return Network(Deadly().eval(), base.preprocessing, base.labels, "deadly")


def white() -> Tensor:
    return torch.full((3, 64, 64), 2.0)
