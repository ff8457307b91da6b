"""Many images: the same traces as one by one, in order, within memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparsight.errors import InputError, NumericalError, SparsightError, UnsupportedError
from sparsight.networks import Network, load
from sparsight.traces import Trace, many, trace, trace_many


@pytest.fixture(scope="module")
def network() -> Network:
    return load("embedded")


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    return list(torch.randn(5, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


def assert_same(one: Trace, other: Trace) -> None:
    assert one.settings == other.settings
    assert torch.equal(one.dense_logits, other.dense_logits)
    assert torch.equal(one.traced_logits, other.traced_logits)
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("solver", ["compensated", "sparsegpt"])
def test_traces_are_those_of_the_images_alone(
    network: Network, pictures: list[Tensor], at_once: int, solver: str
) -> None:
    options = {"augmentations": 4, "solver": solver, "sparsity": "network:0.9"}
    before = {name: value.clone() for name, value in network.model.state_dict().items()}
    found = list(trace_many(network, pictures, at_once=at_once, **options))  # type: ignore[arg-type]
    assert [number for number, _ in found] == list(range(5))
    for (_, many_at_once), picture in zip(found, pictures, strict=True):
        assert_same(many_at_once, trace(network, picture, **options))  # type: ignore[arg-type]
    after = network.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("at_once", [1, 2])
def test_images_are_read_no_further_ahead_than_they_are_worked_on(
    network: Network, pictures: list[Tensor], at_once: int
) -> None:
    read = 0

    def endless() -> Iterator[Tensor]:
        nonlocal read
        while True:
            read += 1
            yield pictures[read % 5]

    stream = trace_many(network, endless(), at_once=at_once, augmentations=2)
    assert [next(stream)[0] for _ in range(3)] == [0, 1, 2]
    assert read <= 3 + at_once
    stream.close()  # type: ignore[attr-defined]
    assert read <= 3 + at_once


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_bad_image_is_told_of_in_its_turn(
    network: Network, pictures: list[Tensor], at_once: int, tmp_path: Path
) -> None:
    images = [
        pictures[0],
        tmp_path / "missing.png",
        pictures[1],
        torch.full((1, 3, 64, 64), torch.nan),
    ]
    seen: list[int] = []
    found = trace_many(network, images, at_once=at_once, augmentations=2)
    with pytest.raises(InputError, match="no such image file"):
        seen.extend(number for number, _ in found)
    assert seen == [0]
    failed: list[tuple[int, SparsightError]] = []
    found = trace_many(
        network, images, at_once=at_once, failed=lambda *what: failed.append(what), augmentations=2
    )
    assert [number for number, _ in found] == [0, 2]
    assert [number for number, _ in failed] == [1, 3]


def test_no_images_no_traces(network: Network) -> None:
    assert list(trace_many(network, [])) == []


def test_bad_options_are_refused_by_the_call(network: Network) -> None:
    for wrong in ({"solver": "magic"}, {"at_once": 0}, {"memory": 0}, {"pattern": "odd"}):
        with pytest.raises(InputError):
            trace_many(network, [], **wrong)  # type: ignore[arg-type]


def test_memory_bounds_how_many_are_worked_on(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many.os, "process_cpu_count", lambda: 64, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    one = many._bytes_of_one(network, {})
    assert many._how_many(network, 10 * one, {}) == 10
    assert many._how_many(network, 100 * one, {}) == 32
    assert many._how_many(network, 1, {}) == 1
    few, more, most = (many._bytes_of_one(network, {"augmentations": n}) for n in (10, 20, 30))
    assert most - more == more - few > 0
    assert many._bytes_of_one(network, {"augmentations": 1000}) == one  # the others are not used
    assert many._bytes_of_one(network, {"augmentations": 65, "solver": "sparsegpt"}) > one
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert many._how_many(network, None, {}) == 1


def test_twins_share_parameters_and_keep_what_is_tied() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    network = load("embedded")
    twin = many._twin(Network(nn.Sequential(first, second), network.preprocessing, ("a",) * 4))
    one, two = twin.model[0], twin.model[1]  # type: ignore[index]
    assert one is not first
    assert one.weight is two.weight is not first.weight
    assert one.weight.data_ptr() == first.weight.data_ptr()


def test_a_model_that_cannot_be_copied_is_named(network: Network, pictures: list[Tensor]) -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network.model

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x)
            return y

        def __deepcopy__(self, memo: object) -> object:
            raise TypeError("no")

    odd = Network(Stubborn().eval(), network.preprocessing, network.labels)
    with pytest.raises(UnsupportedError, match="set at_once to 1"):
        next(trace_many(odd, pictures, at_once=2, augmentations=2))
    assert next(trace_many(odd, pictures, at_once=1, augmentations=2))[0] == 0


def test_errors_that_are_not_the_images_fault_are_not_swallowed(
    network: Network, pictures: list[Tensor]
) -> None:
    def broken() -> Iterator[Tensor]:
        yield pictures[0]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(trace_many(network, broken(), at_once=2, failed=lambda *_: None, augmentations=2))
    assert issubclass(NumericalError, SparsightError)
