"""Networks from every source, and every way a file can be wrong."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from sparsight.errors import (
    InputError,
    NetworkError,
    NumericalError,
    SparsightError,
    UnsupportedError,
)
from sparsight.networks import Network, Preprocessing, load, open_image
from sparsight.networks.outputs import unwrap_logits

FILE = """
import torch
from torch import nn
from sparsight.networks import Network, Preprocessing

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 5))

def network():
    return Network(model(), Preprocessing((16, 16), 16), ())

def bare():
    return model()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def state(file: Path) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in load(f"{file}:network").model.state_dict().items()}


def test_from_a_file(file: Path) -> None:
    network = load(f"{file}:network")
    assert network.labels == tuple(f"class {i}" for i in range(5))
    assert not network.model.training
    assert network.logits(torch.zeros(2, 3, 16, 16)).shape == (2, 5)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_weights_with_prefixes_and_half_precision(file: Path, suffix: str, prefix: str) -> None:
    wanted = {k: v + 1 for k, v in state(file).items()}
    path = file.with_suffix(suffix)
    content = {prefix + k: v.half() for k, v in wanted.items()}
    if suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save({"state_dict": content, "epoch": 3}, path)
    loaded = load(f"{file}:network", weights=path).model.state_dict()
    for key, value in wanted.items():
        torch.testing.assert_close(loaded[key], value, rtol=1e-3, atol=1e-3)


def test_missing_unexpected_and_misshapen_keys_are_listed(file: Path) -> None:
    content = state(file)
    content["extra"] = content.pop("4.bias")
    content["0.bias"] = torch.zeros(7)
    save_file(content, file.with_suffix(".safetensors"))
    with pytest.raises(NetworkError) as caught:
        load(f"{file}:network", weights=file.with_suffix(".safetensors"))
    for part in ("1 missing: 4.bias", "1 unexpected: extra", "0.bias (7,) instead of (4,)"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nan_weights_are_refused(file: Path) -> None:
    content = state(file)
    content["0.bias"][0] = float("nan")
    save_file(content, file.with_suffix(".safetensors"))
    with pytest.raises(NumericalError, match=r"0\.bias"):
        load(f"{file}:network", weights=file.with_suffix(".safetensors"))


class Payload:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("kind", ["absent", "corrupt", "corrupt pt", "pickle", "list", "text"])
def test_bad_weight_files(file: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = file.with_suffix(".safetensors" if kind in {"absent", "corrupt"} else ".pt")
    if kind.startswith("corrupt"):
        path.write_bytes(b"not weights at all")
    elif kind == "pickle":
        torch.save({"a": Payload()}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "text":
        path = file.with_suffix(".txt")
        path.write_text("hello")
    with pytest.raises(NetworkError) as caught:
        load(f"{file}:network", weights=path)
    assert str(path) in str(caught.value)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("resnet50", "torchvision:NAME"),
        ("torchvision:resnet5", "resnet50"),
        ("timm:resnet1", "close"),
        ("nowhere/file.py:f", "no such Python file"),
        ("hf:/nowhere/at/all", "cannot be loaded"),
    ],
)
def test_unknown_specs_name_the_remedy(spec: str, hint: str) -> None:
    with pytest.raises(NetworkError, match=hint):
        load(spec, weights="random")


def test_file_without_preprocessing_or_function(file: Path) -> None:
    with pytest.raises(NetworkError, match="Preprocessing"):
        load(f"{file}:bare")
    with pytest.raises(NetworkError, match="no function"):
        load(f"{file}:absent")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "a\nb\nc\nd\ne\n"),
        ("labels.json", '["a", "b", "c", "d", "e"]'),
        ("labels.csv", "index,name\n1,b\n0,a\n2,c\n3,d\n4,e\n"),
        ("map.json", '{"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"}'),
    ],
)
def test_labels(file: Path, name: str, text: str) -> None:
    path = file.parent / name
    path.write_text(text)
    assert load(f"{file}:network", labels=path).labels == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("text", ["a\nb\n", "", '{"x": 1}', "[1"])
def test_bad_labels(file: Path, text: str) -> None:
    path = file.parent / ("labels.json" if text[:1] in "{[" and text else "labels.txt")
    path.write_text(text)
    with pytest.raises(InputError):
        load(f"{file}:network", labels=path)


def test_huggingface_from_a_config(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1},
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    network = load(f"hf:{tmp_path}", weights="random")
    assert network.labels == ("no", "yes")
    assert network.preprocessing.size == (32, 32)
    assert network.classifier(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_outputs_are_unwrapped_or_refused() -> None:
    logits = torch.zeros(2, 3)
    for output in (
        logits,
        (logits, None),
        [logits],
        {"logits": logits, "x": logits},
        {"y": logits},
    ):
        assert unwrap_logits(output) is logits
    for output in (None, {"a": logits, "b": logits}, torch.zeros(2, 3, 4)):
        with pytest.raises(UnsupportedError):
            unwrap_logits(output)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1"])
def test_image_modes_that_work(tmp_path: Path, mode: str) -> None:
    network = Network(nn.Linear(1, 1).eval(), Preprocessing((8, 8), 8), ("a",))
    x = network.prepare(Image.new(mode, (20, 10)))
    assert x.shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (1, 1)),
        Image.new("F", (9, 9)),
        Image.new("I;16", (9, 9)),
        torch.zeros(1, 8, 8, 3),
        torch.full((1, 3, 8, 8), float("nan")),
        "absent.png",
    ],
)
def test_unusable_images(image: Image.Image | torch.Tensor | str) -> None:
    network = Network(nn.Linear(1, 1).eval(), Preprocessing((8, 8), 8), ("a",))
    with pytest.raises(InputError) as caught:
        network.prepare(image)
    assert "\n" not in str(caught.value)


def test_undecodable_files(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(InputError):
        open_image(path)
    path.write_text("no image")
    with pytest.raises(InputError):
        open_image(path)


def test_classes_by_name_and_number() -> None:
    network = Network(nn.Linear(1, 1), Preprocessing((8, 8), 8), ("cat, tabby", "dog", "tabby"))
    assert network.class_index("1") == network.class_index("Dog") == network.class_index(1) == 1
    assert network.class_index("cat") == 0
    assert network.class_index("tabby") == 2
    for bad in ("3", "-1", "ca", "wolf"):
        with pytest.raises(SparsightError):
            network.class_index(bad)
