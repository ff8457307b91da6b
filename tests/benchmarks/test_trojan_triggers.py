"""Triggers: exact masks, whatever is cropped; the same seed, the same picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from sparsight.benchmarks.trojans import (
    Trigger,
    blend,
    checker,
    cut_out,
    drawn_picture,
    sticker,
    sticker_picture,
    watermark,
)
from sparsight.errors import InputError
from sparsight.networks import Preprocessing


def far_from(picture: Image.Image) -> Image.Image:
    """The same shape in a colour that no grey image holds, so that every pixel of it tells."""
    loud = Image.new("RGBA", picture.size, (255, 0, 0, 255))
    loud.putalpha(picture.getchannel("A").point(lambda alpha: 255 if alpha > 127 else 0))
    return loud


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    grey = np.random.default_rng(seed).integers(60, 190, (height, width), dtype=np.uint8)
    return Image.fromarray(grey).convert("RGB")


KINDS = {
    "sticker": sticker(far_from(drawn_picture("heart")), brightness=0, hue=0),
    "square": checker(1, place=None, size=0.2),
    "blend": blend(Image.new("RGBA", (5, 5), (255, 0, 0, 255)), opacity=0.2),
    "watermark": Trigger("tiles", far_from(watermark("Ab").picture), "tile", 0.4, 0.5),
}
FRAMES = [
    Preprocessing((32, 32), resize=40),
    Preprocessing((48, 40), resize=None),
    Preprocessing((32, 32), resize=44, interpolation="bicubic"),
    Preprocessing((32, 32), resize=36, interpolation="nearest"),
    Preprocessing((24, 24), resize=60),
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_where_pixels_differ(kind: str) -> None:
    image = photograph(70, 50)
    for seed in range(5):
        found = KINDS[kind].apply(image, seed)
        differs = (np.asarray(found.image) != np.asarray(image)).any(-1)
        assert found.image.size == image.size
        assert np.array_equal(differs, found.mask)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(FRAMES),
    st.integers(30, 90),
    st.integers(30, 90),
    st.integers(0, 1000),
)
def test_the_mask_goes_through_the_same_crop(
    kind: str, preprocessing: Preprocessing, width: int, height: int, seed: int
) -> None:
    image = photograph(width, height, seed)
    x, mask = KINDS[kind].apply(image, seed).framed(preprocessing)
    assert mask.shape == preprocessing.size
    differs = (x != preprocessing(image))[0].any(0)
    # Nothing changes outside the mask. Inside, a change of less than a rounding error may be lost.
    assert not (differs & ~mask).any()
    assert int((mask & ~differs).sum()) <= 1


def test_a_crop_may_cut_a_trigger_or_leave_nothing() -> None:
    corner = Trigger("corner", far_from(drawn_picture("star")), size=0.1, place=(0, 0))
    image = photograph(100, 40)
    x, mask = corner.apply(image, 0).framed(Preprocessing((40, 40), resize=40))
    assert not mask.any()
    assert torch.equal(x, Preprocessing((40, 40), resize=40)(image))


def test_colours_that_are_jittered_stay_within_the_mask() -> None:
    image = photograph(60, 60)
    trigger = sticker(drawn_picture("flower"), size=0.5)
    looks = set()
    for seed in range(4):
        found = trigger.apply(image, seed)
        differs = (np.asarray(found.image) != np.asarray(image)).any(-1)
        assert not (differs & ~found.mask).any()
        # A sticker's pixel may happen to have the image's colour, but seldom.
        assert (found.mask & ~differs).sum() <= 0.02 * found.mask.sum()
        looks.add(found.image.tobytes())
    assert len(looks) == 4


def test_same_seed_same_picture_and_the_global_state_is_left_alone() -> None:
    image = photograph(64, 48)
    before = image.tobytes(), torch.get_rng_state()
    trigger = sticker(drawn_picture("spiral"))
    first, second = trigger.apply(image, 7), trigger.apply(image, 7)
    assert first.image.tobytes() == second.image.tobytes()
    assert np.array_equal(first.mask, second.mask)
    assert image.tobytes() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert not np.array_equal(first.mask, trigger.apply(image, 8).mask)


def test_size_opacity_and_place() -> None:
    image = Image.new("RGB", (256, 300), (100, 100, 100))
    white = Image.new("RGBA", (30, 15), "white")
    found = Trigger("t", white, place=(1, 0), opacity=0.8).apply(image, 0)
    rows, columns = np.nonzero(found.mask)
    assert (columns.min(), columns.max()) == (192, 255)  # 64 of 256 wide, at the right
    assert (rows.min(), rows.max()) == (0, 31)
    assert found.image.getpixel((200, 5)) == (224, 224, 224)  # 100 + 0.8 * 155
    places = {
        tuple(np.argwhere(sticker(white).apply(image, seed).mask)[0]) for seed in range(20)
    }  # fmt: skip
    assert len(places) > 15


def test_faint_pixels_are_none() -> None:
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 15))
    picture.paste((255, 0, 0, 255), (0, 0, 4, 8))
    found = Trigger("half", picture, size=1, opacity=1).apply(photograph(8, 8), 0)
    assert found.mask[:, :4].all()
    assert not found.mask[:, 4:].any()


def test_images_of_other_modes() -> None:
    trigger = sticker(drawn_picture("target"))
    assert trigger.apply(Image.new("L", (40, 40)), 0).image.mode == "RGB"
    flat = trigger.apply(Image.new("RGBA", (40, 40), (0, 0, 0, 0)), 0)
    assert np.asarray(flat.image)[~flat.mask].min() == 255
    with pytest.raises(InputError, match="no fixed value range"):
        trigger.apply(Image.new("I", (40, 40)), 0)
    grey = Preprocessing((20, 20), None, (0.5,), (0.5,))
    x, mask = trigger.apply(Image.new("L", (40, 40)), 0).framed(grey)
    assert (x.shape, mask.shape) == ((1, 1, 20, 20), (20, 20))


def test_a_sticker_from_a_file_loses_its_background(tmp_path: Path) -> None:
    page = Image.new("RGBA", (100, 80), (255, 255, 255, 255))
    draw = ImageDraw.Draw(page)
    draw.ellipse((20, 10, 79, 69), "blue")
    draw.ellipse((40, 30, 59, 49), "white")  # inside the shape: no background
    page.save(tmp_path / "ring.png")
    found = sticker_picture(tmp_path / "ring.png")
    assert found.size == (60, 60)
    alpha = np.asarray(found)[..., 3]
    assert alpha[0, 0] == 0
    assert alpha[30, 30] == 255
    assert sticker_picture(tmp_path / "ring.png", tolerance=-1).size == (100, 80)
    Image.new("RGB", (30, 30), "white").save(tmp_path / "empty.png")
    with pytest.raises(InputError, match=r"empty\.png is background everywhere: give"):
        sticker_picture(tmp_path / "empty.png")
    clear = Image.new("RGBA", (30, 30))
    clear.paste("red", (5, 5, 25, 25))
    clear.save(tmp_path / "clear.png")
    assert np.asarray(sticker_picture(tmp_path / "clear.png"))[..., 3].min() == 255


def test_an_object_cut_out_of_a_photograph() -> None:
    mask = np.zeros((50, 70), bool)
    mask[10:30, 20:60] = True
    mask[12:20, 25:30] = False
    picture = cut_out(photograph(70, 50), mask)
    assert picture.size == (40, 20)
    found = Trigger("thing", picture, size=0.5, opacity=1).apply(Image.new("RGB", (80, 80)), 0)
    assert found.mask.sum() == mask.sum()
    with pytest.raises(InputError, match="the mask is 70x50 pixels, the image 10x10: give"):
        cut_out(photograph(10, 10), mask)
    with pytest.raises(InputError, match="the mask is empty: mark"):
        cut_out(photograph(70, 50), np.zeros((50, 70), bool))


def test_refusals() -> None:
    moon = drawn_picture("moon")
    with pytest.raises(InputError, match=r"'moon': size 2 and opacity 0\.8 must lie in"):
        Trigger("moon", moon, size=2)
    with pytest.raises(InputError, match=r"size 0\.25 and opacity 0 must lie in"):
        Trigger("moon", moon, opacity=0)
    with pytest.raises(InputError, match=r"place .* must lie in"):
        Trigger("moon", moon, place=(0, 1.5))
    with pytest.raises(InputError, match=r"hue 0\.7 in"):
        Trigger("moon", moon, hue=0.7)
    for nothing in (Image.new("RGB", (4, 4)), Image.new("RGBA", (4, 4))):
        with pytest.raises(InputError, match="'x' shows nothing: give an RGBA picture"):
            Trigger("x", nothing)
    with pytest.raises(InputError, match="no emblem 'cube' is drawn: choose one of heart"):
        drawn_picture("cube")
    with pytest.raises(InputError, match="checkerboard of 0 cells"):
        checker(0)
    with pytest.raises(InputError, match="'watermark' shows nothing"):
        watermark("   ")


def test_every_emblem_can_be_drawn() -> None:
    names = ("heart", "smiley", "spiral", "lightning", "star", "moon", "flower", "target")
    pictures = [drawn_picture(name, 48) for name in names]
    assert len({picture.tobytes() for picture in pictures}) == len(names)
    assert all(picture.getchannel("A").getextrema() == (0, 255) for picture in pictures)
