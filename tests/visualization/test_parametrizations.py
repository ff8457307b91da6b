"""Images of every parametrization: range, gradients, colours, the same on repetition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.errors import InputError
from sparsight.visualization import PARAMETRIZATIONS, Robustness, parametrization
from sparsight.visualization.colours import COLOURS, correlate, frequencies

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@settings(max_examples=12, deadline=None)
@given(
    count=st.integers(1, 3),
    channels=st.sampled_from([1, 3, 4]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_images_lie_between_black_and_white(
    name: str, count: int, channels: int, height: int, width: int, seed: int
) -> None:
    shape = (count, channels, height, width)
    images = parametrization(name, shape, seed=seed).images()
    assert images.shape == shape
    assert torch.isfinite(images).all()
    assert ((images >= 0) & (images <= 1)).all()
    assert torch.equal(images, parametrization(name, shape, seed=seed).images())


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_gradients(name: str) -> None:
    made = parametrization(name, (2, 3, 4, 5), seed=1).to(torch.device("cpu"), torch.float64)
    if name == "cppn":  # the last matrix begins at 0, where nothing reaches the others
        made.values[-1] = torch.randn_like(made.values[-1]).requires_grad_()
    values = [value.detach().clone().requires_grad_() for value in made.values]

    def images(*given: torch.Tensor) -> torch.Tensor:
        made.values = list(given)
        return made.images()

    assert torch.autograd.gradcheck(images, tuple(values), fast_mode=True)


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_images_do_not_touch_one_another(name: str) -> None:
    made = parametrization(name, (2, 3, 6, 6), seed=2).to(torch.device("cpu"))
    made.images()[0].sum().backward()
    for value in made.values:
        assert value.grad is not None
        assert not value.grad[1].any()


def test_fourier_adds_up_waves() -> None:
    made = parametrization("fourier", (1, 1, 6, 6))
    made.values[0].zero_()
    made.values[0][0, 0, 1, 2] = torch.tensor([1.0, 0.0])
    raw = made.raw()[0, 0]
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    wave = torch.cos(2 * torch.pi * (y + 2 * x) / 6)
    assert torch.allclose(raw / raw.abs().max(), wave / wave.abs().max(), atol=1e-5)


def test_maco_keeps_the_strength_of_waves() -> None:
    made = parametrization("maco", (1, 1, 9, 9), seed=1)
    before = torch.fft.rfft2(made.raw()).abs()
    made.values[0] += 0.3 * torch.randn(made.values[0].shape)
    after = torch.fft.rfft2(made.raw()).abs()
    inner = (slice(None), slice(None), slice(None), slice(1, None))  # the rest is its own mirror
    assert torch.allclose(before[inner], after[inner], rtol=1e-3, atol=1e-4)


def test_slow_waves_have_a_frequency_too() -> None:
    found = frequencies(8, 6)
    assert found.shape == (8, 4)
    assert found[0, 0] == found.min() == 1 / 8
    assert float(found[4, 3]) == pytest.approx((0.5**2 + 0.5**2) ** 0.5)


def test_colours_are_those_that_were_measured() -> None:
    file = ROOT / "benchmarks" / "results" / "photo-statistics.json"
    assert json.loads(file.read_text())["colours"] == [list(row) for row in COLOURS]
    assert max(sum(x * x for x in row) for row in COLOURS) == pytest.approx(1, abs=1e-3)
    four = torch.rand(2, 4, 3, 3)
    assert correlate(four) is four


def test_no_such_parametrization() -> None:
    with pytest.raises(InputError, match=r"unknown parametrization 'oil': choose from pixels"):
        parametrization("oil", (1, 3, 4, 4))


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 9))
def test_moved_images_keep_shape_and_range(height: int, width: int, seed: int) -> None:
    images = torch.rand(2, 3, height, width)
    moved = Robustness()(images, torch.Generator().manual_seed(seed))
    assert moved.shape == images.shape
    assert ((moved >= -1e-6) & (moved <= 1 + 1e-6)).all()


def test_moves_are_those_that_are_said() -> None:
    images = torch.zeros(1, 1, 20, 20)
    images[..., 5, 10] = 1
    shift = Robustness(pad=0.5, jitter=0.5, scale=(1.0, 1.0), rotate=0.0)
    places = set()
    for seed in range(30):
        moved = shift(images, torch.Generator().manual_seed(seed))
        if moved.max() > 0.2 and moved.max() < 1.01:
            places.add(int(moved.flatten().argmax()))
    assert len(places) > 15
    zoom = Robustness(pad=0.0, jitter=0.0, scale=(2.0, 2.0), rotate=0.0)
    square = torch.zeros(1, 1, 20, 20)
    square[..., 8:12, 8:12] = 1
    assert float(zoom(square, torch.Generator()).sum()) == pytest.approx(64, rel=0.05)
    turn = Robustness(pad=0.0, jitter=0.0, scale=(1.0, 1.0), rotate=180.0)
    bar = torch.zeros(1, 1, 21, 21)
    bar[..., 10, 4:17] = 1
    turned = [turn(bar, torch.Generator().manual_seed(seed)) for seed in range(5)]
    assert all(float(one.sum()) == pytest.approx(13, rel=0.1) for one in turned)


@pytest.mark.parametrize(
    "given", [{"pad": -0.1}, {"jitter": 2.0}, {"scale": (0.0, 1.0)}, {"rotate": 190.0}]
)
def test_moves_out_of_range(given: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Robustness(**given)  # type: ignore[arg-type]
