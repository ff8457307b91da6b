"""Payloads: everything comes back, nothing else gets in, and bytes are as few as they can be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from sparsight.errors import InputError
from sparsight.federated import Payload, pack, unpack
from sparsight.federated.packing import cost

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@st.composite
def payloads(draw: st.DrawFn) -> tuple[Payload, dict[str, torch.Tensor]]:
    """Tensors of any shape, with masks over rows, over entries, or none."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values, masks = {}, {}
    for number in range(draw(st.integers(1, 3))):
        shape = draw(SHAPES)
        name = f"layer{number}.weight"
        values[name] = torch.randn(shape, generator=generator)
        kind = draw(st.sampled_from(["none", "rows", "entries"]))
        if kind != "none":
            size = shape[:1] if kind == "rows" else shape
            masks[name] = torch.rand(size, generator=generator) < draw(st.floats(0, 1))
    like = {name: torch.empty_like(value) for name, value in values.items()}
    return Payload(values, masks, {"round": draw(st.integers(0, 9)), "note": "ä|bits"}), like


@given(payloads())
@settings(max_examples=150, deadline=None)
def test_what_is_packed_comes_back(case: tuple[Payload, dict[str, torch.Tensor]]) -> None:
    payload, like = case
    found = unpack(pack(payload), like)
    assert dict(found.facts) == dict(payload.facts)
    assert set(found.values) == set(payload.values)
    for name, value in payload.values.items():
        mask = payload.mask(name).expand_as(value)
        assert torch.equal(found.mask(name).expand_as(value), mask)
        assert torch.equal(found.values[name], value * mask)


@given(st.integers(1, 3000), st.data())
@settings(max_examples=60, deadline=None)
def test_telling_which_costs_what_is_said(count: int, data: st.DataObject) -> None:
    chosen = data.draw(st.integers(0, count))
    value, mask = torch.ones(count, 2), torch.zeros(count, dtype=torch.bool)
    mask[torch.randperm(count)[:chosen]] = True
    whole = unpack(pack(Payload({"w": value}, {"w": mask})), {"w": value})
    assert int(whole.mask("w").expand(count, 2)[:, 0].sum()) == chosen
    stored = pack(Payload({"w": value}, {"w": mask}))
    length = int.from_bytes(stored[:8], "little")
    assert len(stored) - 8 - length == chosen * 8 + cost(chosen, count)


def test_bytes_fall_with_what_is_sent() -> None:
    value = torch.ones(1000, 10)
    sizes = []
    for share in (1.0, 0.5, 0.1, 0.01, 0.0):
        mask = torch.arange(1000) < share * 1000
        sizes.append(len(pack(Payload({"w": value}, {"w": mask}))))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < 41_000
    assert sizes[-1] < 400


LIKE = {"w": torch.zeros(4, 3)}
GOOD = pack(Payload({"w": torch.ones(4, 3)}, {"w": torch.tensor([True, False, True, False])}))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "header"),
        (GOOD[:-3], "."),
        (save({"w": torch.ones(4, 3)}), "__metadata__"),
        (pack(Payload({"v": torch.ones(4, 3)})), "a tensor too many"),
        (pack(Payload({"w": torch.ones(4, 4)})), "does not fit"),
        (pack(Payload({"w": torch.full((4, 3), torch.nan)})), "not finite"),
        (pack(Payload({"w": torch.full((4, 3), 1e300, dtype=torch.float64)})), "not finite"),
        (save({"w": torch.ones(2, 3), "w|numbers": torch.tensor([0, 9])}, {"facts": "{}"}), "9"),
        (save({"w": torch.ones(2, 3), "w|numbers": torch.tensor([1, 1])}, {"facts": "{}"}), "1 pl"),
        (save({"w": torch.ones(2, 3), "w|bits": torch.tensor([1, 1])}, {"facts": "{}"}), "bytes"),
        (save({"w": torch.ones(4, 3)}, {"facts": "[]"}), "facts"),
        (save({"w": torch.ones(4, 3)}, {"facts": "{"}), "."),
    ],
)
def test_a_message_that_does_not_fit_is_refused_in_a_line(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as told:
        unpack(data, LIKE)
    assert "\n" not in str(told.value)
