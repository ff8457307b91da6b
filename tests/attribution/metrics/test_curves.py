"""Insertion and deletion against closed forms and a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from attribution.small import Plain, Residual, picture, seeded
from contracts import untouched
from sparsight.attribution.metrics import Curve, deletion, insertion
from sparsight.errors import InputError, NetworkError, NumericalError
from sparsight.networks import Network, Preprocessing

BOTH = [insertion, deletion]


def linear(x):
    """Two classes whose logits differ by the sum of the image."""
    total = x.flatten(1).sum(1)
    return torch.stack([total, torch.zeros_like(total)], 1)


def log_linear(x):
    """Class 0 has the probability 0.1 + 0.8 times the mean of the image."""
    chance = 0.1 + 0.8 * x.flatten(1).mean(1)
    return torch.stack([chance, 1 - chance], 1).log()


def test_closed_form_of_a_linear_softmax():
    image = torch.tensor([0.5, 2.0, -1.0, 1.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    inserted = insertion(linear, image, 0, image[:, 0], steps=4, relative=False)
    deleted = deletion(linear, image, 0, image[:, 0], steps=4, relative=False)
    sums = torch.tensor([0, 2, 3, 3.5, 2.5]).double()
    torch.testing.assert_close(inserted.values[0], sums.sigmoid())
    torch.testing.assert_close(deleted.values[0], (2.5 - sums).sigmoid())
    assert inserted.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert inserted.area.item() == pytest.approx(np.trapezoid(sums.sigmoid(), dx=0.25))
    whole = torch.tensor(2.5).double().sigmoid()
    relative = insertion(linear, image, 0, image[:, 0], steps=4)
    torch.testing.assert_close(relative.values[0], (sums.sigmoid() / whole).clamp(max=1))
    assert relative.values[0, -1] == 1
    assert deletion(linear, image, 0, image[:, 0], steps=4).values[0, 0] == 1


def test_closed_form_where_the_probability_is_linear_in_the_share():
    image = torch.ones(1, 1, 20, 10, dtype=torch.float64)
    heat = torch.rand(1, 20, 10)
    inserted = insertion(log_linear, image, 0, heat, relative=False)
    torch.testing.assert_close(inserted.values[0], 0.1 + 0.8 * inserted.shares)
    assert inserted.area.item() == pytest.approx(0.5)
    assert insertion(log_linear, image, 0, heat).area.item() == pytest.approx(0.5 / 0.9)
    assert deletion(log_linear, image, 0, heat).area.item() == pytest.approx(0.5 / 0.9)
    assert len(inserted.shares) == 101


def test_the_first_point_shows_nothing_inserted_and_nothing_deleted():
    """Published code takes the pixels ``order[-0:]`` here, which are all."""
    image = torch.ones(1, 1, 10, 10)
    assert insertion(log_linear, image, 0, image[:, 0], relative=False).values[0, 0] < 0.11
    assert deletion(log_linear, image, 0, image[:, 0], relative=False).values[0, 0] > 0.89


def test_hopeless_classes_do_not_divide_by_zero():
    image = torch.full((1, 1, 2, 2), 500.0)
    curve = deletion(linear, image, 1, image[:, 0], steps=4)  # exp(-2000) of the full image
    assert curve.values.tolist() == [[1, 1, 1, 1, 1]]


@pytest.mark.parametrize("metric", BOTH)
@pytest.mark.parametrize("baseline", [0.0, "blurred"])
def test_curves_are_a_plain_loop(metric, baseline):
    model = seeded(Plain())
    images = torch.stack([picture(seed=seed) for seed in (1, 2)])
    heat = torch.rand(2, 16, 16).round(decimals=1)  # ties
    empty = images.mean((2, 3), keepdim=True) if baseline == "blurred" else baseline
    found = metric(model, images, [2, 0], heat, steps=7, baseline=empty, relative=False, batch=3)
    for row, target in enumerate([2, 0]):
        order = np.argsort(-heat[row].flatten().numpy(), kind="stable")
        for step in range(8):
            shown = (images if metric is deletion else torch.zeros_like(images) + empty)[row]
            other = (images if metric is insertion else torch.zeros_like(images) + empty)[row]
            moved = torch.from_numpy(order[: 256 * step // 7].copy())
            shown = shown.clone().flatten(1)
            shown[:, moved] = other.flatten(1)[:, moved]
            chance = model(shown.reshape(1, 3, 16, 16)).softmax(1)[0, target].item()
            assert found.values[row, step].item() == pytest.approx(chance)


@pytest.mark.parametrize("metric", BOTH)
def test_batches_and_one_by_one_agree_and_the_model_is_untouched(metric):
    model = seeded(Residual())
    images = torch.stack([picture(seed=seed) for seed in range(3)])
    heat = images.sum(1)
    with untouched(model):
        whole = metric(model, images, torch.tensor([0, 1, 2]), heat, steps=5)
    for row in range(3):
        one = metric(model, images[row, None], row, heat[row, None], steps=5, batch=1)
        torch.testing.assert_close(one.values[0], whole.values[row])
    assert ((whole.values >= 0) & (whole.values <= 1)).all()
    assert ((whole.area >= 0) & (whole.area <= 1)).all()
    assert isinstance(whole, Curve)
    assert repr(whole).startswith("Curve(5 steps, area 0.")


def test_batch_bounds_the_images_per_pass():
    sizes = []

    def model(x):
        sizes.append(len(x))
        return linear(x)

    insertion(model, torch.rand(2, 1, 4, 4), 0, torch.rand(2, 4, 4), steps=9, batch=8)
    assert sizes == [8, 8, 4]


def test_networks_models_and_functions_are_all_asked():
    model = seeded(Plain(), dtype=torch.float32)
    preprocessing = Preprocessing((16, 16), None)
    network = Network(model, preprocessing, ("a", "b", "c", "d"))
    image, heat = picture()[None], torch.rand(1, 16, 16)
    areas = [
        insertion(asked, image, 1, heat, steps=5).area.item()
        for asked in (network, model, lambda x: {"logits": model(x.float())})
    ]
    assert areas[0] == areas[1] == areas[2]


@pytest.mark.parametrize("metric", BOTH)
def test_what_cannot_be_measured_is_refused(metric):
    image, heat = torch.rand(2, 1, 4, 4), torch.rand(2, 4, 4)
    with pytest.raises(InputError, match="100 steps for 16 pixels"):
        metric(linear, image, 0, heat)
    for name in ("steps", "batch"):
        for value in (0, 2.5, True):
            with pytest.raises(InputError, match=f"{name} is {value}"):
                metric(linear, image, 0, heat, **({"steps": 4} | {name: value}))
    for target, message in [
        (2, "class 2 does not exist: this network has classes 0 to 1"),
        (-1, "class -1 is no class index"),
        (True, "class True is no class index"),
        ([0, 1, 0], "3 classes for 2 images"),
    ]:
        with pytest.raises(InputError, match=message):
            metric(linear, image, target, heat, steps=4)
    for x, h, message in [
        (image[0], heat, "give preprocessed images"),
        (image.long(), heat, "give preprocessed images"),
        (image / 0, heat, "the image holds NaN"),
        (image[:0], heat[:0], "are empty"),
        (image, heat / 0, "the heat holds NaN"),
        (image, heat[:1], "does not fit images"),
    ]:
        with pytest.raises(InputError, match=message):
            metric(linear, x, 0, h, steps=4)
    for baseline, message in [(torch.zeros(3, 1, 1, 1), "of shape"), (float("nan"), "holds NaN")]:
        with pytest.raises(InputError, match=f"baseline {message}"):
            metric(linear, image, 0, heat, steps=4, baseline=baseline)
    with pytest.raises(NetworkError, match="training mode"):
        metric(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), image, 0, heat, steps=4)
    with pytest.raises(NumericalError, match="answers NaN"):
        metric(lambda x: linear(x) / 0, image, 0, heat, steps=4)
