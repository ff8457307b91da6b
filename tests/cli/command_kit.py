"""A small network as users write them, images, and what a command did."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

NETWORK = """
import os, time
from pathlib import Path
import torch
from torch import nn
from sparsight import Network, Preprocessing

LABELS = ("cat", "dog, hound", "[bold]<script>alert(1)</script>[/bold]", "hen", "ant", "bee")

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.conv2 = nn.Conv2d(8, 12, 3, 2, 1)
        self.fc = nn.Linear(12 * 16, 6)

    def forward(self, x):
        if os.environ.get("WAIT_AFTER") and Path(os.environ["WAIT_AFTER"]).exists():
            Path("waiting").touch()
            time.sleep(60)
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.fc(torch.flatten(x, 1))

def network(**_):
    torch.manual_seed(0)
    return Network(Small().eval(), Preprocessing((16, 16), 16), LABELS)

def untransposed():
    built = network()
    built.model.fc = nn.Sequential(nn.Unflatten(1, (12, 4, 4)), nn.ConvTranspose2d(12, 6, 1),
                                   nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return built

def parametrized():
    built = network()
    nn.utils.parametrizations.weight_norm(built.model.conv2)
    return built

def corrupt():
    built = network()
    with torch.no_grad():
        built.model.conv1.weight[0, 0, 0, 0] = float("nan")
    return built

def training():
    return Network(network().model.train(), Preprocessing((16, 16), 16), LABELS)

def failing():
    return {}["no such key"]

def bare():
    return Small()
"""

FAST = ("--augmentations", "3", "--methods", "saliency", "--sparsity", "0.5")


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of a failure, checked to be one."""
        assert self.code == 2, self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert "Traceback" not in self.err
        return lines[0].removeprefix("error: ")


def noise(path: Path, seed: int = 0, size: tuple[int, int] = (20, 24)) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


Run = Callable[..., Result]
