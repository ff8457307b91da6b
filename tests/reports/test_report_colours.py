"""The scales are even to the eye, tell the truth on the plate, and survive colour blindness."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from sparsight.reports.colours import DIFFERENCE, HEAT, PLATE, SIGNED, lookup, oklab, ramp
from sparsight.reports.pictures import image_uri, indices, map_uri, outline_path, scale_uri, shrink

ARMS = ("heat", "for", "against", "more", "less")
# Machado, Oliveira and Fernandes 2009, full deuteranopia and protanopia, linear RGB.
BLIND = {
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}


def decode(uri):
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(\S+)", uri).groups()
    return kind, Image.open(io.BytesIO(base64.b64decode(data)))


def over_plate(rgba):
    alpha = rgba[..., 3:].astype(float) / 255
    return alpha * rgba[..., :3] + (1 - alpha) * np.array(PLATE)


@pytest.mark.parametrize("arm", ARMS)
def test_steps_are_even_and_darken_outwards(arm):
    lab = oklab(ramp(arm, 128))
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    assert steps.max() / steps.min() < 1.15
    assert (np.diff(lab[:, 0]) < 1e-4).all()
    assert lab[0, 0] - lab[-1, 0] > 0.5


@pytest.mark.parametrize(
    ("scale", "arms"),
    [(HEAT, ("heat",)), (SIGNED, ("against", "for")), (DIFFERENCE, ("less", "more"))],
)
def test_on_the_plate_a_map_has_exactly_the_colours_of_its_scale(scale, arms):
    shown = over_plate(lookup(scale))
    if scale == HEAT:
        expected = ramp(*arms, 256)
    else:
        down, up = (ramp(arm, 128) for arm in arms)
        expected = np.concatenate([down[-1:], down[:0:-1], up])
    assert np.abs(shown - 255 * expected).max() <= 1.6


@pytest.mark.parametrize("blindness", BLIND)
@pytest.mark.parametrize("pair", [("for", "against"), ("more", "less")])
def test_the_two_sides_differ_for_the_colour_blind(blindness, pair):
    def seen(arm):
        linear = (ramp(arm, 128)[64:] ** 2.2) @ np.array(BLIND[blindness]).T
        return oklab(linear.clip(0, 1) ** (1 / 2.2))

    apart = np.linalg.norm(seen(pair[0]) - seen(pair[1]), axis=1)
    assert apart.min() > 0.1


@pytest.mark.parametrize("scale", [HEAT, SIGNED, DIFFERENCE])
def test_a_picture_holds_its_values_to_one_step(scale):
    rng = np.random.default_rng(0)
    heat = rng.normal(size=(9, 7)).astype(np.float32)
    heat = np.abs(heat) if scale == HEAT else heat
    _, picture = decode(map_uri(heat, 2.0, scale))
    assert picture.size == (7, 9)
    index = np.asarray(picture)
    assert np.array_equal(index, indices(heat, 2.0, scale))
    value = index / 255 if scale == HEAT else (index.astype(float) - 128) / 127
    assert np.abs(2 * value - heat.clip(-2, 2)).max() <= 1.01 / 127
    assert np.array_equal(np.asarray(picture.convert("RGBA")), lookup(scale)[index])


def test_strips_photos_and_large_maps():
    assert decode(scale_uri(HEAT))[1].size == (256, 1)
    assert decode(scale_uri(SIGNED))[1].size == (255, 1)
    kind, picture = decode(image_uri(np.zeros((900, 600, 3)), photo=True))
    assert (kind, picture.size) == ("jpeg", (256, 384))
    heat = np.random.default_rng(0).random((768, 384)).astype(np.float32)
    assert shrink(heat).shape == (384, 192)
    assert shrink(heat).mean() == pytest.approx(heat.mean(), rel=1e-4)
    assert shrink(heat[:5, :5]) is not None


def test_an_outline_encloses_its_mask():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1:4] = True
    mask[2, 2] = False
    strokes = re.findall(r"M(\d+) (\d+)([hv])(\d+)", outline_path(mask))
    drawn = sum(int(length) for *_, length in strokes)
    padded = np.pad(mask, 1).astype(int)
    assert drawn == np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()
    assert ("1", "1", "h", "3") in strokes
