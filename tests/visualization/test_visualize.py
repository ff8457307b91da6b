"""Visualizations: objectives against formulas, batches against single runs, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contracts import untouched
from sparsight.errors import InputError, NetworkError, NumericalError, UnsupportedError
from sparsight.networks import Network, Preprocessing, load
from sparsight.traces import trace
from sparsight.visualization import (
    Objective,
    Robustness,
    Visualization,
    channel,
    direction,
    layer,
    list_layers,
    logit,
    neuron,
    parse_objective,
    visualize,
)

STILL = Robustness.none()


class Small(nn.Module):
    """Two convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.head(x.mean((2, 3)))


def small(seed: int = 0, dtype: torch.dtype = torch.float32) -> Network:
    torch.manual_seed(seed)
    model = Small().to(dtype).eval()
    return Network(model, Preprocessing((12, 10), None), ("a", "b", "c"), f"small {seed}")


def outputs(network: Network, images: Tensor) -> dict[str, Tensor]:
    model: Any = network.model
    x = network.preprocessing.normalize(images).to(network.dtype)
    first = model.first(x)
    second = model.second(first.relu())
    return {"first": first, "second": second, "": model.head(second.relu().mean((2, 3)))}


VECTOR = torch.tensor([1.0, -2.0, 0.0, 0.5])
OBJECTIVES = {
    "logit": (logit(2), lambda out: out[""][:, 2]),
    "channel": (channel("second", 3), lambda out: out["second"][:, 3].mean((1, 2))),
    "middle": (neuron("first", 1), lambda out: out["first"][:, 1, 6, 5]),
    "place": (neuron("first", 1, 13), lambda out: out["first"][:, 1, 1, 3]),
    "direction": (
        direction("first", VECTOR),
        lambda out: torch.einsum("nchw,c->n", out["first"], VECTOR) / VECTOR.norm() / 120,
    ),
    "layer": (layer("second"), lambda out: out["second"].square().mean((1, 2, 3))),
    "sum": (
        logit(0) - 2 * channel("first", 0),
        lambda out: out[""][:, 0] - 2 * out["first"][:, 0].mean((1, 2)),
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_scores_are_what_the_objective_says(name: str) -> None:
    network = small()
    objective, expected = OBJECTIVES[name]
    with untouched(network.model):
        found = visualize(network, objective, images=2, steps=3, robustness=STILL)
    with torch.no_grad():
        value = expected(outputs(network, found.images[0]))
    assert torch.allclose(found.scores[0], value, atol=1e-4)
    assert found.history[-1] > found.history[0]


def test_another_network_can_be_asked() -> None:
    network, other = small(0), small(1)
    found = visualize(network, logit(1) - logit(1).of(other), steps=4, robustness=STILL)
    with torch.no_grad():
        ours, theirs = (outputs(n, found.images[0])[""][:, 1] for n in (network, other))
    assert torch.allclose(found.scores[0], ours - theirs, atol=1e-4)
    assert "small 1" in found.objectives[0]


def test_a_batch_gives_what_each_gets_alone() -> None:
    network = small(dtype=torch.float64)
    asked = [logit(0), channel("first", 2), neuron("second", 4)]
    how: dict[str, Any] = {"images": 2, "steps": 8, "seed": 5, "diversity": 0.5}
    how["diversity_layer"] = "second"
    together = visualize(network, asked, **how)
    apart = [visualize(network, one, **how) for one in asked]
    chunked = visualize(network, asked, chunk=2, **how)
    alone = torch.cat([one.images for one in apart])
    assert torch.allclose(together.images, alone, atol=1e-4)
    assert torch.allclose(chunked.images, alone, atol=1e-4)
    assert torch.allclose(together.scores, torch.cat([one.scores for one in apart]), atol=1e-4)


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = (visualize(small(), logit(0), steps=5, seed=3) for _ in range(2))
    assert torch.equal(first.images, second.images)
    other = visualize(small(), logit(0), steps=5, seed=4)
    assert not torch.equal(first.images, other.images)


def test_images_of_one_objective_can_be_pushed_apart() -> None:
    network = load("embedded")

    def alike(diversity: float) -> float:
        found = visualize(network, logit(4), images=3, steps=40, diversity=diversity, seed=1)
        seen: list[Tensor] = []
        hook = network.model.get_submodule("stage3").register_forward_hook(
            lambda *given: seen.append(given[2].flatten(2))
        )
        network.logits(network.preprocessing.normalize(found.images[0]))
        hook.remove()
        grams = torch.stack([units @ units.t() for units in seen[0]]).flatten(1)
        grams = grams / grams.norm(dim=1, keepdim=True)
        return float((grams @ grams.t()).sum() - 3) / 6

    assert alike(30.0) < alike(0.0)


def test_total_variation_smoothes() -> None:
    def rough(variation: float) -> float:
        how: dict[str, Any] = {"parametrization": "pixels", "steps": 60}
        found = visualize(load("embedded"), logit(4), variation=variation, **how)
        return float(found.images.diff(dim=-1).abs().mean())

    assert rough(200.0) < 0.5 * rough(0.0)


def test_patience_ends_what_stands_still() -> None:
    found = visualize(small(), logit(0), steps=400, patience=20, robustness=STILL)
    assert found.steps == len(found.history) < 400


@pytest.mark.parametrize("parametrization", ["fourier", "maco", "pixels", "cppn"])
def test_the_network_sees_its_class(parametrization: str) -> None:
    network = load("embedded")
    found = visualize(
        network, [logit(1), logit(6)], parametrization=parametrization, steps=100, seed=0
    )
    x = network.preprocessing.normalize(found.images[:, 0])
    assert network.logits(x).argmax(1).tolist() == [1, 6]


def test_a_trace_is_visualized_as_a_network() -> None:
    network = load("embedded")
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = trace(network, x, augmentations=4)
    traced = found.network(network)
    with untouched(network.model):
        shown = visualize(traced, logit(found.prediction[0]), steps=3)
    assert "(traced)" in shown.network


def test_transparency_marks_what_was_worked_on() -> None:
    found = visualize(small(), neuron("first", 0, 0), steps=20, parametrization="pixels",
                      robustness=STILL)  # fmt: skip
    opaque = found.transparency[0, 0]
    assert (opaque[:2, :2] > 0).all()
    assert not opaque[4:, 4:].any()
    assert found.picture().size == (10, 12)
    assert found.picture(veil=True).getpixel((9, 11)) == (128, 128, 128)


def test_saved_and_read_back(tmp_path: Path) -> None:
    found = visualize(small(), [logit(0), channel("first", 1)], images=2, steps=2)
    place = found.save(tmp_path / "found")
    again = Visualization.load(place)
    for name in ("images", "transparency", "scores", "history"):
        assert torch.equal(getattr(found, name), getattr(again, name))
    assert (again.objectives, again.settings, again.steps) == (
        found.objectives,
        found.settings,
        found.steps,
    )
    with pytest.raises(InputError, match="not empty"):
        found.save(place)
    (place / "images.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no complete visualization"):
        Visualization.load(place)


@pytest.mark.parametrize(
    ("objective", "options", "said"),
    [
        (logit(3), {}, "class 3 does not exist"),
        (channel("second", 5), {}, r"no channel 5: it has 0 to 4"),
        (neuron("second", 1, 30), {}, r"no place 30: it has 0 to 29"),
        (channel("third", 0), {}, "no layer 'third'"),
        (direction("first", [1.0, 2.0]), {}, "one number for each"),
        (logit(0), {"steps": 0}, "steps is 0"),
        (logit(0), {"images": 0}, "images is 0"),
        (logit(0), {"rate": -1.0}, "rate -1.0 must be positive"),
        (logit(0), {"variation": -1.0}, "are weights"),
        (logit(0), {"diversity": 1.0}, "two images"),
        (logit(0), {"precision": "half"}, "unknown precision"),
        (logit(0), {"parametrization": "oil"}, "unknown parametrization"),
        (logit(0), {"diversity": 1.0, "images": 2, "diversity_layer": "x"}, "no layer 'x'"),
        (Objective(()), {}, "nothing to visualize"),
    ],
)
def test_refusals(objective: Objective, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        visualize(small(), objective, **{"steps": 2, **options})


def test_networks_that_cannot_be_visualized() -> None:
    network = small()
    network.model.train()
    with pytest.raises(NetworkError, match="training mode"):
        visualize(network, logit(0), steps=1)
    broken = small()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    with pytest.raises(NumericalError, match="no longer finite"):
        visualize(broken, logit(0), steps=1)
    with pytest.raises(InputError, match="not all of them 0"):
        direction("first", torch.zeros(4))


def test_it_can_be_interrupted() -> None:
    def stop(stage: str, done: int, total: int) -> None:
        assert (stage, total) == ("visualizing", 9)
        if done == 2:
            raise KeyboardInterrupt

    network = small()
    with untouched(network.model), pytest.raises(KeyboardInterrupt):
        visualize(network, logit(0), steps=9, progress=stop)


@pytest.mark.parametrize(
    ("text", "described"),
    [
        ("class:mug", "class:0"),
        ("class:0", "class:0"),
        ("stage3.1:7", "stage3.1:7"),
        ("stage3.1:7@", "stage3.1:7@"),
        ("stage3.1:7@12", "stage3.1:7@12"),
        ("stage3:all", "stage3:all"),
        ("class:1 - class:2", "class:1 - class:2"),
        ("class:1 - class:2 - stage3:7", "class:1 - class:2 - stage3:7"),
    ],
)
def test_objectives_as_typed(text: str, described: str) -> None:
    assert str(parse_objective(load("embedded"), text)) == described


@pytest.mark.parametrize("text", ["", "mug", "stage3", "stage3:x", "stage3:1@y", ":3", "class:cow"])
def test_what_is_no_objective(text: str) -> None:
    with pytest.raises(InputError):
        parse_objective(load("embedded"), text)


ARCHITECTURES = {
    "torchvision:vit_b_16": ("encoder.layers.encoder_layer_3", (197, 768), 768),
    "torchvision:swin_t": ("features.3.1", (28, 28, 192), 192),
    "torchvision:convnext_tiny": ("features.3.1", (192, 28, 28), 192),
    "torchvision:mobilenet_v2": ("features.7", (64, 14, 14), 64),
}


@pytest.mark.parametrize("spec", ARCHITECTURES)
def test_channels_are_found_whatever_the_layout(spec: str) -> None:
    network = load(spec, weights=Path("random"))
    name, shape, channels = ARCHITECTURES[spec]
    found = {layer.name: layer for layer in list_layers(network)}[name]
    assert (found.shape, found.channels) == (shape, channels)
    result = visualize(network, channel(name, 5), steps=1, robustness=STILL)
    seen: list[Tensor] = []
    hook = network.model.get_submodule(name).register_forward_hook(lambda *a: seen.append(a[2]))
    network.logits(network.preprocessing.normalize(result.images[0]))
    hook.remove()
    units = seen[0].select(shape.index(channels) + 1, 5)
    assert float(result.scores) == pytest.approx(float(units.mean()), rel=1e-3, abs=1e-4)


def test_layers_that_give_no_tensor() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.two, self.unused = nn.Conv2d(3, 4, 3), Two(), nn.Linear(2, 2)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.two(self.first(x))[0].mean((2, 3)))

    network = Network(Whole().eval(), Preprocessing((8, 8), None), ("a", "b"))
    assert [layer.name for layer in list_layers(network)] == ["first", "head"]
    for name in ("two", "unused"):
        with pytest.raises(UnsupportedError, match="no single tensor"):
            visualize(network, channel(name, 0), steps=1)
