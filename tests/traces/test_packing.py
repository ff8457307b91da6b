"""Sparse tensors in few bytes: exact for everything, small, and safe to read from strangers."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, floating_dtypes
from safetensors.torch import load_file, save_file

from sparsight.errors import InputError
from sparsight.traces import LayerTrace, Trace
from sparsight.traces.packing import pack, pack_all, unpack, unpack_all

RESNET50_WEIGHTS = 25_502_912


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the last bit, NaN payloads included."""
    same_form = a.shape == b.shape and a.dtype == b.dtype
    raw = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return same_form and torch.equal(*raw)


def sparse(count: int, sparsity: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(count, generator=generator) >= sparsity
    return (torch.randn(count, generator=generator) * 0.02 * kept).to(dtype) + 0.0


@given(
    arrays(
        st.one_of(floating_dtypes(endianness="=", sizes=(16, 32, 64))),
        array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
        fill=st.just(0.0),
    )
)
def test_whatever_is_packed_comes_back_bit_for_bit(array: Any) -> None:
    tensor = torch.from_numpy(array) + 0.0
    assert same_bits(unpack(*pack(tensor), tensor.shape, tensor.dtype), tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.97, 1.0])
def test_every_type_and_density(dtype: torch.dtype, sparsity: float) -> None:
    tensor = sparse(1003, sparsity, dtype).reshape(17, 59)
    transposed = tensor.t()  # not contiguous
    parts, forms = pack_all({"a.weight": tensor, "b": transposed})
    again = unpack_all(parts, json.loads(json.dumps(forms)))
    assert list(again) == ["a.weight", "b"]
    assert same_bits(again["a.weight"], tensor)
    assert same_bits(again["b"], transposed)


@pytest.mark.parametrize(("sparsity", "megabytes"), [(0.95, 5.6), (0.9, 10.6), (0.5, 47)])
def test_a_trace_of_resnet50_is_small(sparsity: float, megabytes: float) -> None:
    """In proportion, from gaussian values at random places: real traces are no harder."""
    count = 2_000_000
    size = sum(map(len, pack(sparse(count, sparsity)))) / count * RESNET50_WEIGHTS
    assert size < megabytes * 1e6


def test_dropped_channels_cost_nothing() -> None:
    tensor = sparse(256 * 1024, 0.0).reshape(256, 1024).clone()
    tensor[torch.arange(256) % 7 > 0] = 0
    assert len(pack(tensor)[0]) < tensor.numel() / 8 / 50


def test_nothing_larger_than_the_shape_is_unpacked() -> None:
    bomb = zlib.compress(bytes(50_000_000))
    good, values = pack(torch.ones(64))
    tracemalloc.start()
    for mask, content in ((bomb, values), (good, bomb)):
        with pytest.raises(ValueError, match="does not unpack to"):
            unpack(mask, content, (64,), torch.float32)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def example() -> Trace:
    layer = LayerTrace("fc", "fc.weight", "linear", 1, 8, 16, 0.5, 0.5, 0.1, 0.01)
    logits = torch.arange(8.0)
    return Trace({"fc.weight": sparse(128, 0.5).reshape(8, 16)}, (layer,), logits, logits, {})


def test_zeros_have_no_sign() -> None:
    weight = torch.tensor([[0.0, -0.0, -1.5]])
    found = Trace({"fc.weight": weight}, (), torch.zeros(2), torch.zeros(2), {})
    assert found.tensors["fc.weight"].signbit().tolist() == [[False, False, True]]
    assert weight.signbit().tolist() == [[False, True, True]]


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    folder = example().save(tmp_path / "t")
    file = folder / "trace.safetensors"
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"the trace in .* is damaged"):
            Trace.load(folder)
    file.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="is damaged"):
        Trace.load(folder)
    file.unlink()
    with pytest.raises(InputError, match="is damaged"):
        Trace.load(folder)


def form(**change: Any) -> dict[str, Any]:
    return {"tensors": {"fc.weight": {"shape": [8, 16], "dtype": "float32"} | change}}


FORGED = {
    "another shape": form(shape=[8, 15]),
    "a shape of astronomers": form(shape=[2**40, 2**40]),
    "a negative shape": form(shape=[-8, -16]),
    "a shape of words": form(shape="many"),
    "a shape of fractions": form(shape=[8.0, 16.0]),
    "another type": form(dtype="float16"),
    "no floating type": form(dtype="int32"),
    "a type of ours": form(dtype="save"),
    "a missing tensor": {"tensors": {"gone.weight": {"shape": [8, 16], "dtype": "float32"}}},
    "no tensors": {"tensors": None},
    "layers without fields": {"layers": [{}]},
    "layers that are none": {"layers": 3},
    "settings that are none": {"settings": 5},
    "no checksum": {"sha256": None},
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_forged_manifests_are_refused_in_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = example().save(tmp_path / "t")
    manifest = folder / "trace.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(InputError, match="is damaged") as caught:
        Trace.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["mask:fc.weight", "values:fc.weight"])
@pytest.mark.parametrize(
    "content", [b"", b"junk", zlib.compress(b"short"), zlib.compress(b"1" * 999)]
)
def test_forged_parts_are_refused(tmp_path: Path, part: str, content: bytes) -> None:
    folder = example().save(tmp_path / "t")
    file, manifest = folder / "trace.safetensors", folder / "trace.json"
    forged = torch.tensor(list(content), dtype=torch.uint8)
    save_file(load_file(file) | {part: forged}, file)
    honest = {"sha256": sha256(file.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | honest))
    with pytest.raises(InputError, match="is damaged"):
        Trace.load(folder)
