"""Augmentation equals torchvision's, view by view, and is drawn reproducibly."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torchvision.transforms.v2 import functional

from sparsight.errors import InputError
from sparsight.traces.augment import Augmentation, crop_and_resize, shift_hue


@settings(max_examples=40, deadline=None)
@given(data=st.data(), height=st.integers(4, 60), width=st.integers(4, 60))
def test_crops_are_resized_as_torchvision_does(data, height, width) -> None:
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))
    h, w = data.draw(st.integers(2, height)), data.draw(st.integers(2, width))
    top, left = data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w))
    # torch repeats the first row in an output one pixel wide: nothing to compare with there.
    size = (data.draw(st.integers(2, 40)), data.draw(st.integers(2, 40)))
    found = crop_and_resize(image, torch.tensor([[top, left, h, w]]), size)
    expected = functional.resized_crop(image, top, left, h, w, list(size), antialias=True)
    torch.testing.assert_close(found[0], expected.clamp(0, 1), rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(turn=st.floats(-0.5, 0.5), seed=st.integers(0, 999), levels=st.sampled_from([2, 5, 256]))
def test_hue_turns_as_torchvision_does(turn: float, seed: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.randint(levels, (1, 3, 8, 8), generator=generator) / (levels - 1)
    found = shift_hue(rgb, torch.tensor([turn]))
    torch.testing.assert_close(found, functional.adjust_hue(rgb, turn), rtol=1e-4, atol=1e-4)


def test_same_seed_same_bytes_other_seed_other_views() -> None:
    image = torch.rand(3, 50, 70)
    state = torch.get_rng_state()
    one, two, other = (Augmentation(count=4)(image, (32, 32), seed=s) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
    assert one.shape == (4, 3, 32, 32)
    assert 0 <= float(one.min()) <= float(one.max()) <= 1


def test_views_differ_from_each_other_and_cover_the_recipe() -> None:
    draws = torch.rand(7, 2000, generator=torch.Generator().manual_seed(0))
    boxes = Augmentation()._boxes(draws[:4], 300, 400)
    area = boxes[:, 2] * boxes[:, 3] / (300 * 400)
    assert 0.15 < float(area.min()) < 0.25
    assert 0.5 < float(area.mean()) < 0.65
    assert bool((boxes[:, 0] + boxes[:, 2] <= 300).all())
    assert bool((boxes[:, 1] + boxes[:, 3] <= 400).all())
    assert bool((boxes >= 0).all())


def test_strength_zero_gives_the_image_itself() -> None:
    image = torch.rand(3, 32, 48)
    views = Augmentation(count=3, strength=0.0)(image, (32, 48))
    torch.testing.assert_close(views, image.expand(3, -1, -1, -1))


@pytest.mark.parametrize("shape", [(1, 40, 40), (3, 2, 2), (3, 3000, 20), (3, 1200, 1600)])
def test_grey_tiny_long_and_large_images(shape: tuple[int, ...]) -> None:
    views = Augmentation(count=2)(torch.rand(shape), (24, 24))
    assert views.shape == (2, shape[0], 24, 24)
    assert torch.isfinite(views).all()


@pytest.mark.parametrize(
    "bad",
    [{"count": 0}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 0.2)}, {"hue": 0.6}, {"flip": -1},
     {"ratio": (0, 1)}, {"strength": 2.0}, {"hidden": 1.5}, {"brightness": float("nan")}],
)  # fmt: skip
def test_bad_settings(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Augmentation(**bad)


def test_the_first_views_are_rendered_alone() -> None:
    picture = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(2))
    views = Augmentation(count=9)(picture, (32, 32), seed=5)
    few = Augmentation(count=9)(picture, (32, 32), seed=5, most=4)
    torch.testing.assert_close(few, views[:4])


def test_hidden_patches_have_the_fill_and_the_rest_is_the_view() -> None:
    picture = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(2))
    fill = (2.0, 3.0, 4.0)  # no value of a view
    plain = Augmentation(count=200)(picture, (48, 32), seed=5)
    views = Augmentation(count=200, hidden=0.75)(picture, (48, 32), seed=5, fill=fill)
    covered = (views == torch.tensor(fill)[:, None, None]).all(1)
    assert torch.equal(torch.where(covered[:, None], plain, views), plain)
    shares = covered.double().mean((1, 2))
    assert float(shares.min()) < 0.05
    assert 0.3 < float(shares.mean()) < 0.45
    assert float(shares.max()) > 0.6
    few = Augmentation(count=200, hidden=0.75)(picture, (48, 32), seed=5, most=4, fill=fill)
    torch.testing.assert_close(few, views[:4])


def test_hidden_patches_are_a_coarse_grid() -> None:
    shown = Augmentation(count=50, hidden=1.0)._shown(torch.Generator().manual_seed(0), (48, 48))
    for mask in shown:
        for line in (mask, mask.T):
            changes = (line[:, 1:] != line[:, :-1]).any(0).sum()
            assert int(changes) <= 7
