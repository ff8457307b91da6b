"""Infidelity and sensitivity against captum called by hand, and where they must be zero."""

from __future__ import annotations

import pytest
import torch
from captum import metrics as captum_metrics
from torch import nn

from attribution.small import Plain, Residual, picture, seeded
from contracts import untouched
from sparsight.attribution import attribute
from sparsight.attribution.metrics import infidelity, sensitivity
from sparsight.errors import InputError, NetworkError


def affine():
    return seeded(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4)))


def pictures(count, size=16):
    return torch.stack([picture(size, seed=seed) for seed in range(count)])


@pytest.mark.parametrize("normalize", [True, False])
def test_infidelity_of_a_linear_network_is_zero_for_the_right_map(normalize):
    model, images = affine(), pictures(2, 8)
    gradient = model[1].weight[2].detach().reshape(1, 3, 8, 8).expand(2, -1, -1, -1)
    options = {"normalize": normalize, "samples": 20}
    assert infidelity(model, images, 2, gradient, **options).max() < 1e-12
    evidence = gradient * (images - 0.3)
    removal = {"perturbation": "removal", "baseline": 0.3} | options
    assert infidelity(model, images, 2, evidence, **removal).max() < 1e-12
    assert infidelity(model, images, 2, gradient.flip(3), **options).min() > 1e-3
    assert infidelity(model, images, 2, evidence.flip(3), **removal).min() > 1e-3


def test_infidelity_is_scale_free_only_if_normalised():
    model, images = seeded(Plain()), pictures(1)
    gradient = attribute(model, images[0], 1).map[None]
    a, b = (infidelity(model, images, 1, k * gradient, samples=10) for k in (1, 50))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=0)
    a, b = (
        infidelity(model, images, 1, k * gradient, samples=10, normalize=False) for k in (1, 50)
    )
    assert b > 10 * a
    nothing = infidelity(model, images, 1, torch.zeros_like(gradient), samples=10)
    assert nothing.isfinite().all()
    assert nothing > 0


def test_infidelity_is_captums():
    model, images = seeded(Plain()), pictures(1)
    gradient = attribute(model, images[0], 1).map[None].double()
    drawn = torch.Generator().manual_seed(3)
    change = 0.2 * torch.stack([torch.randn(3, 16, 16, generator=drawn) for _ in range(12)])
    expected = captum_metrics.infidelity(
        model, lambda x: (change.double(), x - change), images, gradient, target=1,
        n_perturb_samples=12,
    )  # fmt: skip
    found = infidelity(model, images, 1, gradient, samples=12, seed=3, normalize=False)
    torch.testing.assert_close(found, expected)


def test_sensitivity_is_captums():
    model, images = seeded(Plain()), pictures(1)

    def explain(inputs, target):
        return (
            torch.stack([attribute(model, x, target, "input_x_gradient").map for x in inputs[0]]),
        )

    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = captum_metrics.sensitivity_max(explain, images, target=1, n_perturb_samples=4)
    found = sensitivity(model, images, 1, "input_x_gradient", samples=4, seed=5)
    torch.testing.assert_close(found, expected.double())
    assert found > 0


def test_sensitivity_grows_with_the_radius_and_is_zero_for_a_constant_map():
    model, images = seeded(Residual()), pictures(2)
    small, large = (
        sensitivity(model, images, 0, "saliency", radius=r, samples=3) for r in (0.01, 1)
    )
    assert (large > small).all()
    assert sensitivity(affine(), pictures(1, 8), 0, "saliency").item() == 0


@pytest.mark.parametrize("perturbation", ["noise", "removal"])
def test_infidelity_of_a_batch_is_that_of_its_images(perturbation):
    model, images = seeded(Residual()), pictures(3)
    maps = torch.stack([attribute(model, x, t).map for t, x in enumerate(images)])
    options = {"perturbation": perturbation, "samples": 9}
    with untouched(model):
        whole = infidelity(model, images, [0, 1, 2], maps, **options)
    assert whole.dtype == torch.float64
    for row in range(3):
        one = infidelity(model, images[row, None], row, maps[row, None], batch=2, **options)
        torch.testing.assert_close(one[0], whole[row])
    assert torch.equal(whole, infidelity(model, images, [0, 1, 2], maps, **options))
    assert not torch.equal(whole, infidelity(model, images, [0, 1, 2], maps, seed=1, **options))


def test_sensitivity_of_a_batch_is_that_of_its_images():
    model, images = seeded(Residual(), dtype=torch.float32), pictures(2)
    settings = {"samples": 2}
    with untouched(model):
        whole = sensitivity(model, images, [0, 3], "gradient_shap", samples=2, settings=settings)
    for row, target in enumerate([0, 3]):
        one = sensitivity(
            model, images[row, None], target, "gradient_shap", samples=2, settings=settings
        )
        assert one[0] == whole[row]


def test_what_cannot_be_measured_is_refused():
    model, images = affine(), pictures(2, 8)
    maps = torch.ones_like(images)
    for options, message in [
        ({"relevance": maps[:, 0]}, "does not fit images"),
        ({"relevance": maps / 0}, "the relevance holds NaN"),
        ({"perturbation": "blur"}, "unknown perturbation 'blur'"),
        ({"size": 0}, "size is 0"),
        ({"perturbation": "removal", "size": 1.5}, "size is 1.5"),
        ({"samples": 0}, "samples is 0"),
        ({"target": 4}, "class 4 does not exist"),
        ({"baseline": float("inf")}, "the baseline holds NaN"),
    ]:
        with pytest.raises(InputError, match=message):
            infidelity(
                **({"network": model, "image": images, "target": 0, "relevance": maps} | options)
            )
    for options, message in [
        ({"radius": 0}, "radius is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"target": 4}, "class 4 does not exist"),
        ({"method": "tea_leaves"}, "unknown attribution method"),
        ({"settings": {"sugar": 1}}, "no setting 'sugar'"),
    ]:
        with pytest.raises(InputError, match=message):
            sensitivity(
                **({"network": model, "image": images, "target": 0, "method": "saliency"} | options)
            )
    with pytest.raises(NetworkError, match="training mode"):
        infidelity(model.train(), images, 0, maps)
    with pytest.raises(NetworkError, match="training mode"):
        sensitivity(model, images, 0, "saliency")
