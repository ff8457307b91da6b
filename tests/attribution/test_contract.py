"""Inputs that cannot be explained, and models that must not notice."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from attribution.small import Attention, Plain, Residual, picture, seeded
from contracts import untouched
from sparsight.attribution import METHODS, attribute
from sparsight.errors import InputError, NetworkError, NumericalError, UnsupportedError
from sparsight.networks.view import shared_view

CHEAP = {
    "lime": {"samples": 6, "segments": 4},
    "gradient_shap": {"samples": 3},
    "integrated_gradients": {"steps": 3},
    "occlusion": {"window": 8, "stride": 8},
    "lrp": {"tolerance": 1e9},
    "deep_lift": {"tolerance": 1e9},
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("build", [Residual, Attention])
def test_models_do_not_notice(name, build):
    model = seeded(build(), dtype=torch.float32)
    model.head.weight.requires_grad_(False)
    model.head.bias.grad = torch.ones_like(model.head.bias)
    handle = model.register_forward_hook(lambda module, args, output: None)
    with untouched(model):
        try:
            result = attribute(model, picture(dtype=torch.float32), 1, name, **CHEAP.get(name, {}))
        except UnsupportedError as refusal:
            assert "ReLU" in str(refusal)  # noqa: PT017
        else:
            assert not result.map.requires_grad
    handle.remove()


class _Failing(Residual):
    failure: BaseException | None = None
    calls = 0

    def forward(self, x):
        self.calls += 1
        if self.failure is not None and x.shape[0] > 1:
            raise self.failure
        return super().forward(x)


@pytest.mark.parametrize("failure", [ValueError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", ["lime", "gradient_shap", "integrated_gradients", "occlusion"])
def test_interrupted_half_way(name, failure):
    model = seeded(_Failing())
    model.failure = failure
    with untouched(model), pytest.raises(type(failure)):
        attribute(model, picture(), 1, name, **CHEAP[name])
    assert model.calls == 0  # the private copy was asked, not the model


@pytest.mark.parametrize(
    ("image", "target", "message"),
    [
        (torch.zeros(3, 16), 0, "give one image"),
        (torch.zeros(2, 3, 16, 16), 0, "give one image"),
        (torch.zeros(16, 16, 3), 0, "looks like NHWC"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), 0, "torch.uint8"),
        ("cat.png", 0, "str"),
        (torch.full((3, 16, 16), float("nan")), 0, "NaN"),
        (torch.zeros(3, 16, 16), 4, "classes 0 to 3"),
        (torch.zeros(3, 16, 16), -1, "classes 0 to 3"),
        (torch.zeros(3, 16, 16), True, "does not exist"),
    ],
)
def test_impossible_questions(image, target, message):
    with pytest.raises(InputError, match=message) as error:
        attribute(seeded(Plain()), image, target)
    assert "\n" not in str(error.value)


def test_training_mode_is_named():
    model = seeded(Residual())
    model.b1.train()
    with pytest.raises(NetworkError, match="'b1' is in training mode"):
        attribute(model, picture(), 0)


def test_corrupt_weights_and_detached_models():
    model = seeded(Plain())
    model.head.bias.data[0] = float("nan")
    with pytest.raises(NumericalError, match="corrupt"):
        attribute(model, picture(), 1)

    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().mean((2, 3))

    with pytest.raises(NetworkError, match="do not depend differentiably"):
        attribute(Detached().eval(), picture(), 1)


def test_what_cannot_be_copied_is_refused():
    model = seeded(Plain())
    model.lock = (i for i in range(3))
    with pytest.raises(UnsupportedError, match="cannot be copied"):
        attribute(model, picture(), 1)


def test_pruned_models_with_hooks_and_frozen_callers():
    model = seeded(Plain())
    prune.l1_unstructured(model.a, "weight", 0.5)
    model(picture()[None])  # leaves a non-leaf weight, which deepcopy alone refuses
    with untouched(model):
        expected = attribute(model, picture(), 1, "lrp").map
    with torch.no_grad():
        assert torch.equal(attribute(model, picture(), 1, "lrp").map, expected)
    with torch.inference_mode():
        assert torch.equal(attribute(model, picture(), 1, "lrp").map, expected)


def test_views_share_memory_and_nothing_else():
    model = seeded(Residual())
    model.tied = model.head
    view = shared_view(model)
    inner = view.model
    assert inner.head is inner.tied
    assert inner.head.weight.data_ptr() == model.head.weight.data_ptr()
    assert not any(p.requires_grad for p in view.parameters())
    assert inner.bn.running_mean.data_ptr() != model.bn.running_mean.data_ptr()


def test_dictionaries_of_outputs_are_understood():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = seeded(Plain())

        def forward(self, x):
            return {"loss": None, "logits": self.inner(x)}

    a = attribute(Wrapped().eval(), picture(), 2, "deep_lift")
    assert torch.equal(a.map, attribute(seeded(Plain()), picture(), 2, "deep_lift").map)
