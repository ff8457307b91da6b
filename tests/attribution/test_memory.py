"""Repeated calls must not hold on to what earlier calls computed."""

import gc

import pytest
import torch
from torch import nn

from sparsight.attribution import METHODS, attribute


def alive() -> int:
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("method", list(METHODS))
def test_no_tensor_survives_a_call(method: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    ).eval()  # fmt: skip
    x = torch.randn(1, 3, 16, 16)
    few = {"lime": {"samples": 20}, "gradient_shap": {"samples": 4}}.get(method, {})
    attribute(model, x, 1, method, **few)
    before = alive()
    for _ in range(3):
        attribute(model, x, 1, method, **few)
    assert alive() <= before
