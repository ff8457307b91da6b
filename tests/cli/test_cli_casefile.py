"""``explain()``: what the case file says is what trace and methods found, the model untouched."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

import sparsight.casefile
from contracts import untouched
from sparsight.attribution import METHODS, attribute, choose_methods
from sparsight.casefile import explain
from sparsight.errors import InputError, NumericalError, UnsupportedError
from sparsight.networks import Network, Preprocessing, load
from sparsight.traces import Trace, trace
from sparsight.visualization import channel, logit, visualize


@pytest.fixture
def network(home: Path) -> Network:
    return load(str(home / "net.py") + ":network")


def test_the_case_is_what_trace_and_methods_found(network: Network) -> None:
    methods = ("saliency", "integrated_gradients", "lrp")
    with untouched(network.model):
        case = explain(
            network, "a.png", target="bee", methods=methods, sparsity=0.5, augmentations=4, seed=3
        )
    found = trace(
        network, "a.png", sparsity=0.5, augmentations=4, target=network.class_index("bee"), seed=3
    )
    assert (case.kl, case.sparsity, case.target_label) == (found.kl, found.sparsity, "bee")
    probabilities = found.traced_logits.double().softmax(-1)
    for row in case.classes:
        assert row.traced == pytest.approx(float(probabilities[row.index]))
    x = network.prepare("a.png")
    for pair in case.maps:
        dense = attribute(network, x, 5, pair.method, seed=3)
        with found.applied(network):
            traced = attribute(network, x, 5, pair.method, seed=3)
        assert torch.equal(torch.from_numpy(pair.heats["dense"]), dense.heat())
        assert torch.equal(torch.from_numpy(pair.heats["traced"]), traced.heat())
        assert (pair.dense_gap, pair.traced_gap) == (dense.gap, traced.gap)
        assert pair.signed == (METHODS[pair.method].reduction == "sum")
    shown = network.preprocessing.denormalize(x[0]).permute(1, 2, 0).numpy()
    assert abs(case.image - shown).max() < 1e-6


@pytest.mark.parametrize("kind", [UnsupportedError, NumericalError])
@pytest.mark.parametrize("when", ["dense", "traced"])
def test_a_method_that_refuses_is_listed_and_stops_no_other(
    network: Network,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Exception],
    when: str,
) -> None:
    original = sparsight.casefile.attribute
    asked: list[str] = []

    def refusing(
        network: Network, x: torch.Tensor, target: int, name: str, **options: int
    ) -> object:
        asked.append(name)
        if name == "saliency" and asked.count(name) == {"dense": 1, "traced": 2}[when]:
            raise kind("not here")
        return original(network, x, target, name, **options)

    monkeypatch.setattr(sparsight.casefile, "attribute", refusing)
    case = explain(
        network, "a.png", methods=("saliency", "input_x_gradient"), sparsity=0.5, augmentations=2
    )
    first, second = case.maps
    assert set(second.heats) == {"dense", "traced"}
    if when == "dense":
        assert first.refused == "not here"
    else:
        assert set(first.heats) == {"dense"}
        assert "not here" in first.notes[-1]


def test_the_model_survives_a_failure_in_the_middle(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sparsight.casefile.attribute
    asked: list[int] = []

    def interrupted(*given: object, **options: object) -> object:
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return original(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sparsight.casefile, "attribute", interrupted)
    with untouched(network.model), pytest.raises(KeyboardInterrupt):
        explain(network, "a.png", methods="saliency", sparsity=0.9, augmentations=2)
    assert len(asked) == 2


def test_grey_networks_and_images_in_memory() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    )
    grey = Network(model.eval(), Preprocessing((8, 8), 8, (0.5,), (0.5,)), ("a", "b", "c"))
    for image in (Image.new("RGBA", (9, 12), (200, 10, 10, 128)), torch.zeros(1, 1, 8, 8)):
        case = explain(grey, image, methods="saliency", augmentations=2)
        assert case.image.shape == (8, 8, 3)
        assert case.image_name == "image"


def test_visualizations_are_what_dense_network_and_trace_give(network: Network) -> None:
    with untouched(network.model):
        case = explain(
            network, "a.png", methods="saliency", augmentations=2, seed=3, chunk=1, steps=3,
            neurons=["conv2:1", "target", "conv2:1"],
        )  # fmt: skip
    assert [view.title for view in case.views] == ["conv2:1", case.target_label]
    found = trace(network, "a.png", augmentations=2, seed=3)
    wanted = [channel("conv2", 1), logit(case.target_index)]
    for side, asked in (("dense", network), ("traced", found.network(network))):
        seen = visualize(asked, wanted, steps=3, seed=3, chunk=1)
        for number, view in enumerate(case.views):
            image = seen.images[number, 0].permute(1, 2, 0)
            torch.testing.assert_close(torch.from_numpy(getattr(view, side)), image)
            assert getattr(view, f"{side}_score") == pytest.approx(float(seen.scores[number, 0]))
    assert {"dense visualizations", "traced visualizations"} <= set(case.timings)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"neurons": "nowhere:1"}, "no layer 'nowhere'"),
        ({"neurons": ["target", "conv2:999"]}, "conv2"),
        ({"neurons": "target", "steps": 0}, "0 steps of visualization"),
    ],
)
def test_what_cannot_be_visualized_is_refused_before_any_work(
    network: Network, monkeypatch: pytest.MonkeyPatch, given: dict[str, object], words: str
) -> None:
    monkeypatch.setattr("sparsight.casefile.trace", None)
    with pytest.raises(InputError, match=words):
        explain(network, "a.png", **given)


def test_progress_counts_up_to_its_total(network: Network) -> None:
    steps: list[tuple[str, int, int]] = []
    explain(
        network,
        "a.png",
        methods="saliency,lrp",
        augmentations=2,
        progress=lambda *step: steps.append(step),
    )
    assert {stage for stage, _, _ in steps} == {"observing", "solving", "mapping"}
    assert all(done < total for _, done, total in steps)
    assert [done for stage, done, _ in steps if stage == "mapping"] == [0, 1, 2, 3]


def test_a_layer_without_weights_is_a_warning(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = explain(network, "a.png", methods="saliency", sparsity=0.5, augmentations=2)
    assert not any("every weight" in warning for warning in full.warnings)

    def emptied(*arguments: object, **options: object) -> Trace:
        """A trace whose last layer got nothing but zeros as input."""
        found = trace(*arguments, **options)
        last = dataclasses.replace(found.layers[-1], sparsity=1.0)
        return dataclasses.replace(found, layers=(*found.layers[:-1], last))

    monkeypatch.setattr("sparsight.casefile.trace", emptied)
    empty = explain(network, "a.png", methods="saliency", sparsity=0.5, augmentations=2)
    assert any("every weight of fc" in warning for warning in empty.warnings)


def test_method_names() -> None:
    assert choose_methods("all") == tuple(METHODS)
    assert choose_methods(["LRP", "Integrated Gradients", "lrp"]) == ("lrp", "integrated_gradients")
    for name in METHODS:
        assert choose_methods(METHODS[name].title) == choose_methods(name) == (name,)
    with pytest.raises(InputError, match="choose from"):
        choose_methods("salience")
