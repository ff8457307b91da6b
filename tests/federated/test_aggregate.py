"""What a server makes of uploads, against loops over single entries in double precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsight.federated import Payload, average, average_steps, effective_steps
from sparsight.federated.aggregate import variate_change


@given(st.integers(0, 2**31), st.integers(1, 5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_each_entry_is_averaged_over_those_who_sent_it(seed: int, clients: int, rows: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    server = {"w": torch.randn(4, 3, generator=generator)}
    uploads = []
    for _ in range(clients):
        mask = torch.rand((4,) if rows else (4, 3), generator=generator) < 0.5
        value = torch.randn(4, 3, generator=generator)
        uploads.append((float(torch.randint(1, 9, (), generator=generator)), value, mask))
    sent = [(n, Payload({"w": value}, {"w": mask})) for n, value, mask in uploads]
    found = average(server, sent)["w"]
    for row in range(4):
        for column in range(3):
            total = weight = 0.0
            for count, value, mask in uploads:
                if bool(mask[row] if rows else mask[row, column]):
                    total += count * float(value[row, column])
                    weight += count
            if weight:
                assert float(found[row, column]) == pytest.approx(total / weight, rel=1e-6)
            else:
                assert found[row, column] == server["w"][row, column], "untouched: to the bit"


def test_everything_sent_is_federated_averaging_to_the_bit() -> None:
    torch.manual_seed(0)
    server = {"a": torch.randn(5, 2), "b": torch.randn(7)}
    clients = [{n: torch.randn_like(v) for n, v in server.items()} for _ in range(3)]
    counts = [10.0, 3.0, 7.0]
    found = average(server, [(n, Payload(own)) for n, own in zip(counts, clients, strict=True)])
    for name in server:
        mean = sum(n * own[name].double() for n, own in zip(counts, clients, strict=True)) / 20.0
        assert torch.equal(found[name], mean.float())


def test_steps_with_momentum_are_counted_as_the_plain_ones_they_come_to() -> None:
    for momentum in (0.0, 0.5, 0.9):
        for steps in (1, 2, 17):
            velocity = moved = 0.0
            for _ in range(steps):
                velocity = momentum * velocity + 1.0
                moved += velocity
            assert effective_steps(steps, momentum) == pytest.approx(moved)


def test_normalised_steps_do_not_favour_who_makes_more() -> None:
    """Clients at like slopes and unlike numbers of steps: each pulls by its images alone."""
    server = {"w": torch.zeros(2)}
    one, two = torch.tensor([-10.0, 0.0]), torch.tensor([0.0, -2.0])
    sent = [(1.0, 10.0, Payload({"w": one})), (1.0, 2.0, Payload({"w": two}))]
    found = average_steps(server, sent)["w"]
    assert torch.allclose(found, torch.tensor([-3.0, -3.0])), "six steps, half of each"
    plain = average(server, [(1.0, p) for _, _, p in sent])["w"]
    assert plain[0] != plain[1]


def test_a_variate_is_the_mean_gradient_of_the_steps() -> None:
    torch.manual_seed(0)
    x, slope, control = torch.randn(6), torch.randn(6), torch.randn(6)
    own = torch.randn(6)
    y, rate = x.clone(), 0.1
    for _ in range(5):
        y = y - rate * (slope + control - own)
    everything = torch.ones(6, dtype=torch.bool)
    change = variate_change(x, y, control, everything, effective_steps(5) * rate)
    assert torch.allclose(own + change, slope, atol=1e-5)
