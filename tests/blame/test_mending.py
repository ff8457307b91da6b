"""Units mended: a sweep against one repair at a time, and the damage it does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from blame.reference import network_of
from blame.test_saliency import batch, models
from contracts import untouched
from sparsight.blame import ORDERS, choices, mend, repair
from sparsight.errors import InputError, UnsupportedError
from sparsight.networks import Units, overlay

COUNTS = [0, 1, 4]


@pytest.mark.parametrize("name", ["odd", "vit"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_sweep_is_one_repair_after_the_other(name, steps):
    network = network_of(models()[name])
    units = Units.of(network.model)
    images, labels = batch(6)
    x, label = images[:1], int(labels[0])
    torch.manual_seed(1)
    scores = torch.rand(len(units), dtype=torch.float64)
    answers = network.logits(images).argmax(1)
    with untouched(network.model):
        found = mend(
            network, x, label, units, scores, counts=COUNTS, steps=steps, rate=0.3, draws=2,
            images=images, labels=answers, chunk=4, seed=5,
        )  # fmt: skip
    assert set(found) == set(ORDERS)
    predicted = int(answers[0])
    for order, own in found.items():
        chosen = choices(scores, COUNTS, order, 2, 5)
        assert own.curve.true.shape == own.lost.shape == chosen.shape[:2]
        for draw in range(len(chosen)):
            for place in range(len(COUNTS)):
                which = chosen[draw, place].nonzero()[:, 0]
                tensors = {}
                if len(which):
                    tensors = repair(network, x, label, units, which, steps=steps, rate=0.3).tensors
                with overlay(network.model, tensors):
                    wanted = network.logits(x)[0].softmax(0)
                    lost = (network.logits(images).argmax(1) != answers).double().mean()
                assert float(own.curve.true[draw, place]) == pytest.approx(float(wanted[label]))
                got = float(own.curve.predicted[draw, place])
                assert got == pytest.approx(float(wanted[predicted]))
                assert float(own.lost[draw, place]) == pytest.approx(float(lost))


def test_only_right_answers_can_be_lost():
    network = network_of(models()["odd"])
    units = Units.of(network.model)
    images, _ = batch(4)
    answers = network.logits(images).argmax(1)
    scores = torch.arange(len(units)).double()
    wrong = (answers + 1) % 5
    half = torch.where(torch.arange(4) < 2, answers, wrong)
    given = {"counts": [3], "rate": 2.0, "draws": 1}
    first = mend(network, images[:1], 1, units, scores, images=images, labels=half, **given)
    alone = mend(
        network, images[:1], 1, units, scores, images=images[:2], labels=answers[:2], **given
    )
    for order in ORDERS:
        assert torch.equal(first[order].lost, alone[order].lost)
    assert mend(network, images[:1], 1, units, scores, **given)["least"].lost is None
    with pytest.raises(InputError, match="nothing can be lost"):
        mend(network, images[:1], 1, units, scores, images=images, labels=wrong, **given)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "1 step or more"),
        ({"rate": 0.0}, "positive rate"),
        ({"counts": [0]}, "1 or more"),
        ({"counts": [10**6]}, "cannot switch off"),
        ({"loss": "none"}, "no loss is called"),
        ({"images": torch.zeros(1, 3, 12, 12)}, "give both"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    network = network_of(models()["odd"])
    units = Units.of(network.model)
    with pytest.raises(InputError, match=words):
        mend(network, batch(1)[0], 1, units, torch.zeros(len(units)), **({"counts": [1]} | options))


def test_a_network_that_asks_for_values_is_refused():
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.fc((x if bool(x.sum() > 1e9) else x.relu()).mean((2, 3)))

    network = network_of(Asks())
    units = Units.of(network.model)
    with pytest.raises(UnsupportedError, match="one choice at a time"):
        mend(network, batch(1)[0], 1, units, torch.zeros(len(units)), counts=[2])
