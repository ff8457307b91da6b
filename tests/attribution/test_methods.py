"""Each method against its plain definition, and the contract all share."""

from __future__ import annotations

import pytest
import torch
from captum.attr import GradientShap, IntegratedGradients
from torch import nn

from attribution.small import Plain, Residual, Reused, picture, seeded
from sparsight.attribution import (
    METHODS,
    Attribution,
    Explained,
    Method,
    attribute,
    attribute_many,
    check_method,
)
from sparsight.attribution.segments import superpixels
from sparsight.errors import InputError, UnsupportedError

CHEAP = {
    "lime": {"samples": 50, "segments": 9},
    "gradient_shap": {"samples": 10},
    "integrated_gradients": {"steps": 20},
}


@pytest.mark.parametrize("name", METHODS)
def test_conformity(name):
    result = check_method(name, **CHEAP.get(name, {}))
    assert result.method == name


def test_the_papers_ten_methods_and_grad_cam_are_there():
    assert {method.title for method in METHODS.values()} == {
        "Saliency",
        "InputXGradient",
        "DeepLift",
        "LRP",
        "GuidedBackprop",
        "GuidedGradCam",
        "LIME",
        "Occlusion",
        "IntegratedGradients",
        "GradientShap",
        "GradCAM",
    }


def _gradient(model, x, target):
    x = x[None].clone().requires_grad_()
    return torch.autograd.grad(model(x)[0, target], x)[0][0]


def test_saliency_is_the_signed_gradient_and_times_the_input():
    model, x = seeded(Reused()), picture()
    gradient = _gradient(model, x, 3)
    assert torch.equal(attribute(model, x, 3).map, gradient.float())
    expected = (gradient * x).float()
    torch.testing.assert_close(attribute(model, x, 3, "input_x_gradient").map, expected)


def test_integrated_gradients_is_the_integral():
    model, x, x0 = seeded(Residual()), picture(), picture(seed=5)
    result = attribute(model, x, 1, "integrated_gradients", baseline=x0, steps=300)
    batch = x0 + ((torch.arange(500) + 0.5) / 500).reshape(-1, 1, 1, 1) * (x - x0)
    batch.requires_grad_()
    mean = torch.autograd.grad(model(batch)[:, 1].sum(), batch)[0].mean(0)
    expected = (mean * (x - x0)).float()
    assert float((result.map - expected).abs().max() / expected.abs().max()) < 0.02
    assert result.gap < 0.01
    captum = IntegratedGradients(model).attribute(x[None], x0[None], 1, n_steps=300)
    torch.testing.assert_close(result.map, captum[0].float(), rtol=1e-4, atol=1e-6)


def test_gradient_shap_is_complete_in_expectation_and_agrees_with_captum():
    model, x = (
        seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 196, 3))),
        picture(),
    )
    result = attribute(model, x, 1, "gradient_shap", samples=4000, chunk=500)
    assert result.gap < 0.02
    with torch.random.fork_rng():
        pool = torch.cat([torch.zeros_like(x)[None], x[None]])
        captum = GradientShap(model).attribute(
            x[None], n_samples=4000, stdevs=1e-4, baselines=pool, target=1
        )
    both = torch.stack([result.map.flatten(), captum.flatten().float()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.995


def test_occlusion_is_the_mean_loss_of_the_windows_over_a_pixel():
    model, x = seeded(Plain()), picture()
    result = attribute(model, x, 2, "occlusion", window=6, stride=5, baseline=0.3)
    total, count = torch.zeros(16, 16), torch.zeros(16, 16)
    for top in (0, 5, 10):
        for left in (0, 5, 10):
            covered = x.clone()
            covered[:, top : top + 6, left : left + 6] = 0.3
            loss = (model(x[None]) - model(covered[None]))[0, 2].detach()
            total[top : top + 6, left : left + 6] += float(loss)
            count[top : top + 6, left : left + 6] += 1
    expected = (total / count).expand(3, 16, 16)
    torch.testing.assert_close(result.map, expected, rtol=1e-4, atol=1e-6)


def test_occlusion_scales_the_papers_window_to_small_images():
    small = attribute(seeded(Plain()), picture(), 2, "occlusion").settings
    assert (small["window"], small["stride"]) == (1, 1)


def test_lime_recovers_a_linear_model():
    labels = torch.arange(16)[:, None].expand(16, 16) // 4
    values = torch.tensor([2.0, -1.0, 0.5, 3.0])
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 1, bias=False)).eval()
    weight = values[labels].expand(3, 16, 16) / (3 * 64)
    model[1].weight.data = weight.reshape(1, -1)
    result = attribute(
        model, torch.ones(3, 16, 16), 0, "lime", segments=labels, samples=300, penalty=1e-9
    )
    torch.testing.assert_close(result.heat(), values[labels], rtol=1e-3, atol=1e-4)
    assert "R2 = 1.00" in result.notes[0]


@pytest.mark.parametrize("name", ["lime", "gradient_shap", "integrated_gradients", "occlusion"])
def test_chunks_change_nothing_but_rounding(name):
    model, x = seeded(Residual()), picture()
    settings = CHEAP.get(name, {"window": 8, "stride": 8})
    whole, parts = (attribute(model, x, 1, name, chunk=chunk, **settings).map for chunk in (64, 3))
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-8)


def test_superpixels_follow_colours_and_cover_the_image():
    image = torch.zeros(3, 12, 18)
    image[0, :, 9:] = 1
    labels = superpixels(image, 6)
    assert labels.shape == (12, 18)
    assert sorted(labels.unique().tolist()) == list(range(int(labels.max()) + 1))
    assert not set(labels[:, :9].unique().tolist()) & set(labels[:, 9:].unique().tolist())
    assert torch.equal(labels, superpixels(image, 6))
    with pytest.raises(InputError, match="1 segments"):
        superpixels(image, 1)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lime", {"samples": 1}, "samples >= 2"),
        ("lime", {"segments": torch.zeros(3, 3).long()}, "segments have shape"),
        ("occlusion", {"window": 99}, "window 99"),
        ("occlusion", {"window": 2, "stride": 3}, "stride"),
        ("gradient_shap", {"samples": 0}, "samples"),
        ("gradient_shap", {"baselines": ["blur"]}, "'blur'"),
        ("integrated_gradients", {"steps": 0}, "steps"),
        ("integrated_gradients", {"baseline": torch.zeros(5)}, "does not fit"),
        ("deep_lift", {"baseline": float("nan")}, "NaN"),
        ("saliency", {"steps": 3}, "has no setting 'steps'"),
        ("lrp", {"gamma": -1.0}, "gamma"),
        ("nonsense", {}, "choose one of"),
    ],
)
def test_impossible_settings_are_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        attribute(seeded(Plain()), picture(), 1, name, **settings)


def test_many_share_one_recording_and_collect_refusals():
    model, x = (
        seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(784, 3))),
        picture(),
    )
    refusals: dict[str, str] = {}
    names = ["lrp", "guided_backprop", "occlusion"]
    settings = {"occlusion": {"window": 8, "stride": 8}}
    many = attribute_many(model, x, 1, names, settings=settings, refusals=refusals)
    assert list(many) == ["lrp", "occlusion"]
    assert "gelu" in refusals["guided_backprop"]
    single = attribute(model, x, 1, "occlusion", window=8, stride=8)
    assert torch.equal(many["occlusion"].map, single.map)
    with pytest.raises(UnsupportedError, match="gelu"):
        attribute_many(model, x, 1, names)
    with pytest.raises(InputError, match="not among the methods"):
        attribute_many(model, x, 1, ["lrp"], settings=settings)


class _Wrong(Method):
    name, title, reference = "wrong", "Wrong", "nowhere"

    def explain(self, subject, *, scale: float = 1.0):
        with torch.no_grad():
            for parameter in subject.view.parameters():
                parameter.mul_(2)
        return Explained(subject.gradient(subject.x) * scale)


def test_the_kit_catches_a_method_that_spoils_the_weights():
    with pytest.raises(AssertionError, match="'wrong': the model or the random state changed"):
        check_method(_Wrong())


class _Right(_Wrong):
    def explain(self, subject, *, scale: float = 1.0):
        return Explained(subject.gradient(subject.x) * scale)


def test_a_method_need_not_be_registered():
    assert check_method(_Right(), scale=2.0).settings["scale"] == 2.0
    assert "wrong" not in METHODS


def test_results_print_reduce_and_survive_the_disk(tmp_path):
    result = attribute(seeded(Plain()), picture(), 2, "lrp")
    assert "conservation gap" in repr(result)
    assert torch.equal(result.heat(), result.map.sum(0))
    assert torch.equal(result.heat("max_abs"), result.map.abs().amax(0))
    assert torch.equal(result.heat("abs_sum"), result.map.sum(0).abs())
    with pytest.raises(InputError, match="unknown channel reduction"):
        result.heat("mean")
    result.save(tmp_path / "a")
    again = Attribution.load(tmp_path / "a")
    assert torch.equal(again.map, result.map)
    assert (again.gap, again.notes, again.settings) == (result.gap, result.notes, result.settings)
    with pytest.raises(InputError):
        Attribution.load(tmp_path)
    (tmp_path / "a" / "map.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="no complete attribution"):
        Attribution.load(tmp_path / "a")
