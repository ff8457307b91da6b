"""Top examples: against a search by hand; boxes against the support of gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from contracts import untouched
from sparsight.datasets.scenes import render_scene
from sparsight.errors import InputError
from sparsight.networks import Network, Preprocessing, load
from sparsight.visualization import (
    channel,
    layer,
    logit,
    neuron,
    receptive_field,
    top_examples,
)


@pytest.fixture(scope="module")
def network() -> Network:
    return load("embedded")


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [render_scene(number % 10, seed=number).picture() for number in range(14)]


@pytest.mark.parametrize("chunk", [1, 5, 32])
def test_the_best_of_all(network: Network, scenes: list[Image.Image], chunk: int) -> None:
    asked = [channel("stage3.1", 7), neuron("stage2.0", 3), logit(6)]
    with untouched(network.model):
        found = top_examples(network, asked, scenes, count=4, chunk=chunk)
    x = torch.cat([network.prepare(scene) for scene in scenes])
    seen: dict[str, torch.Tensor] = {}
    for name in ("stage3.1", "stage2.0"):
        network.model.get_submodule(name).register_forward_hook(
            lambda module, _, output, name=name: seen.update({name: output})
        )
    logits = network.logits(x)
    for name in ("stage3.1", "stage2.0"):
        network.model.get_submodule(name)._forward_hooks.clear()
    side = seen["stage2.0"].shape[-1]
    expected = [
        seen["stage3.1"][:, 7].flatten(1).max(1).values,
        seen["stage2.0"][:, 3, side // 2, side // 2],
        logits[:, 6],
    ]
    for examples, scores in zip(found, expected, strict=True):
        order = scores.argsort(descending=True, stable=True)[:4].tolist()
        assert [example.source for example in examples] == [f"image {i}" for i in order]
        assert [e.score for e in examples] == pytest.approx(scores[order].tolist(), abs=1e-4)
    first = found[0][0]
    number = int(first.source.split()[1])
    assert torch.allclose(first.image, network.preprocessing.denormalize(x[number]), atol=1e-6)


def test_boxes_hold_what_the_neuron_sees() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(2, 2)).eval()  # fmt: skip
    network = Network(model, Preprocessing((20, 16), None), ("a", "b"))
    image = torch.randn(1, 3, 20, 16)
    (found,) = top_examples(network, channel("0", 1), [image], share=1.0)
    row, column = divmod(found[0].place, 12)
    assert found[0].box == (column, row, column + 5, row + 5)
    assert found[0].picture().size == (5, 5)
    (whole,) = top_examples(network, logit(0), [image], share=1.0)
    assert whole[0].box == (0, 0, 16, 20)


def test_a_share_of_the_energy() -> None:
    gradient = torch.zeros(1, 10, 10)
    gradient[0, 4:6, 3:7] = 10
    gradient[0, 0, 0] = 1
    assert receptive_field(gradient, 0.9) == (3, 4, 7, 6)
    assert receptive_field(gradient, 1.0) == (0, 0, 7, 6)
    assert receptive_field(torch.zeros(1, 4, 6)) == (0, 0, 6, 4)
    with pytest.raises(InputError, match=r"must lie in \(0, 1\]"):
        receptive_field(gradient, 0.0)


def test_files_are_named(network: Network, scenes: list[Image.Image], tmp_path: Path) -> None:
    files = []
    for number, scene in enumerate(scenes[:3]):
        files.append(tmp_path / f"{number}.png")
        scene.save(files[-1])
    steps: list[tuple[str, int, int]] = []
    (found,) = top_examples(
        network, logit(2), files, chunk=1, progress=lambda *step: steps.append(step)
    )
    assert {example.source for example in found} == {str(file) for file in files}
    assert steps[-1] == ("searching", 3, 3)


def test_refusals(network: Network, scenes: list[Image.Image]) -> None:
    for objective in (layer("stage3"), logit(0) - logit(1), logit(0).of(network)):
        with pytest.raises(InputError, match="cannot be searched"):
            top_examples(network, objective, scenes)
    with pytest.raises(InputError, match="no image to search"):
        top_examples(network, logit(0), [])
    with pytest.raises(InputError, match="must be 1 or more"):
        top_examples(network, logit(0), scenes, count=0)
    with pytest.raises(InputError, match="no channel 99999"):
        top_examples(network, channel("stage3", 99999), scenes)
