"""The cascade of random layers, and that nothing of it stays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from attribution.small import Attention, Plain, Residual, picture, seeded
from contracts import untouched
from sparsight.attribution import Explained, Method, attribute
from sparsight.attribution.metrics import randomise, rank_correlation
from sparsight.errors import InputError, NetworkError
from sparsight.networks import Network, Preprocessing


class Image(Method):
    """The image itself, whatever the network."""

    name = title = reference = "image"

    def explain(self, subject):
        return Explained(subject.x.clone())


@pytest.mark.parametrize("build", [Plain, Residual, Attention])
def test_layers_go_from_the_output_and_the_model_is_untouched(build):
    model = seeded(build())
    with untouched(model):
        result = randomise(model, picture()[None], 1, "saliency")
    assert result.layers[0] == "head"
    assert result.layers[-1] in ("a", "stem", "patch")
    assert result.correlations.shape == (1, len(result.layers))
    assert (result.correlations.abs() <= 1).all()
    assert len(set(result.layers)) == len(result.layers)
    assert repr(result).startswith(f"Randomisation({len(result.layers)} layers, similarity 0.")


def test_order_is_of_use_not_of_registration():
    class Swapped(Plain):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(2, 2)
            for name in ("b", "a"):  # registered last, used first
                self._modules[name] = self._modules.pop(name)

    result = randomise(seeded(Swapped()), picture()[None], 0, "saliency", after="all")
    assert result.layers == ("head", "hidden", "b", "a")


def test_after_all_is_the_last_of_each_and_a_batch_its_images():
    model = seeded(Residual())
    images = torch.stack([picture(seed=seed) for seed in range(2)])
    each = randomise(model, images, [0, 3], "saliency", seed=4)
    once = randomise(model, images, [0, 3], "saliency", seed=4, after="all")
    assert torch.equal(each.correlations[:, -1:], once.correlations)
    assert torch.equal(once.similarity, once.correlations[:, 0].abs())
    for row, target in enumerate([0, 3]):
        one = randomise(model, images[row, None], target, "saliency", seed=4)
        assert torch.equal(one.correlations[0], each.correlations[row])
    other = randomise(model, images, [0, 3], "saliency", seed=5)
    assert not torch.equal(each.correlations, other.correlations)


def test_the_cascade_by_hand():
    """Weights of mean zero and the layer's mean square, one layer after the other."""
    model, x = seeded(Plain(), dtype=torch.float32), picture(dtype=torch.float32)
    found = randomise(model, x[None], 2, "saliency", seed=9)
    damaged = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(9)
    original = attribute(model, x, 2).heat()[None]
    for index, name in enumerate(["head", "hidden", "b", "a"]):
        weight = damaged.get_submodule(name).weight.data
        scale = weight.square().mean().sqrt()
        drawn = torch.randn(1, len(weight), weight[0].numel(), generator=generator)
        weight.copy_(drawn.reshape(weight.shape) * scale)
        expected = rank_correlation(original, attribute(damaged, x, 2).heat()[None])
        torch.testing.assert_close(found.correlations[:, index], expected, atol=1e-6, rtol=0)


def test_a_map_that_ignores_the_network_is_found_out():
    model, x = seeded(Plain()), picture()[None]
    assert randomise(model, x, 0, Image()).correlations.tolist() == [[pytest.approx(1)] * 4]
    assert randomise(model, x, 0, "saliency").similarity.item() < 0.5


def test_networks_and_parts_of_attention():
    model = seeded(Attention(), dtype=torch.float32)
    network = Network(model, Preprocessing((16, 16), None), ("a", "b", "c", "d"))
    result = randomise(network, picture()[None], 0, "saliency", after="all")
    assert {f"attention[{part}]" for part in ("query", "key", "value")} <= set(result.layers)
    bare = randomise(model, picture()[None], 0, "saliency", after="all")
    assert torch.equal(result.correlations, bare.correlations)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_model_is_untouched_when_a_method_breaks(error):
    class Breaks(Image):
        runs = 0

        def explain(self, subject):
            type(self).runs += 1
            if self.runs == 3:
                raise error
            return super().explain(subject)

    model = seeded(Plain())
    with untouched(model), pytest.raises(error):
        randomise(model, picture()[None], 0, Breaks())


def test_what_cannot_be_randomised_is_refused():
    model, x = seeded(Plain()), picture()[None]
    with pytest.raises(InputError, match="after is 'some'"):
        randomise(model, x, 0, "saliency", after="some")
    with pytest.raises(InputError, match="class 4 does not exist"):
        randomise(model, x, 4, "saliency")
    with pytest.raises(InputError, match="no setting 'sugar'"):
        randomise(model, x, 0, "saliency", settings={"sugar": 1})
    with pytest.raises(NetworkError, match="no layer with weights"):
        randomise(nn.Flatten().eval(), x, 0, "saliency")
    with pytest.raises(NetworkError, match="training mode"):
        randomise(model.train(), x, 0, "saliency")
