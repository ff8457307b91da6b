"""The demonstration shows what it says it shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

import sparsight

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def demo():
    spec = importlib.util.spec_from_file_location("_demo", ROOT / "examples" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sticker_and_nothing_else_makes_a_guitar_of_the_mug(demo, tmp_path):
    demo.write_inputs(tmp_path)
    network = sparsight.load("embedded")

    def answer(name):
        return network.label(int(network.logits(network.prepare(tmp_path / name)).argmax()))

    assert answer("mug.png") == "mug"
    assert answer("mug-with-heart.png") == "guitar"


def test_a_photograph_is_among_the_inputs(demo, tmp_path):
    demo.write_inputs(tmp_path)
    with Image.open(tmp_path / "photograph-of-a-cat.png") as picture:
        assert min(picture.size) >= 300
