"""The published steps: the same weights as a trace by the sweep, from code that shares nothing."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

from contracts import untouched
from sparsight.benchmarks import noise_image, published_trace
from sparsight.errors import InputError, NetworkError, NumericalError
from sparsight.networks import Network, Preprocessing
from sparsight.traces import Trace, trace


class Small(nn.Module):
    """Strided, dilated, padded and pointwise convolutions; 64 rows, so that blocks are published's.

    With fewer rows a trace chooses among the weights of several inputs of a pointwise layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.wide = nn.Conv2d(6, 10, (3, 2), stride=(2, 1), padding=(0, 1), bias=False)
        self.dilated = nn.Conv2d(10, 7, 3, padding=2, dilation=2)
        self.pointwise = nn.Conv2d(7, 64, 1, stride=2)
        self.twice = nn.Linear(64, 64)
        self.head = nn.Linear(64, 65)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.wide(self.stem(x).relu()).relu()
        x = self.pointwise(self.dilated(x).relu()).relu().mean((2, 3))
        return self.head(self.twice(self.twice(x).relu()))


def network(model: nn.Module | None = None, channels: int = 3) -> Network:
    torch.manual_seed(0)
    model = Small() if model is None else model
    moments = {"mean": (0.5,) * channels, "std": (0.2,) * channels}
    return Network(model.eval(), Preprocessing((16, 16), 16, **moments), ("a",) * 65)


def asked(found: Trace) -> dict[str, float]:
    return {layer.name: layer.requested for layer in found.layers}


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.995, {"wide": 0.3, "head": 0.8}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_weights_are_those_of_a_trace(dtype: torch.dtype, sparsity: object) -> None:
    net = network()
    net.model.to(dtype)
    with torch.no_grad():
        net.model.stem.weight[2] = net.model.stem.bias[2] = 0  # an input that is always zero
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(150, 3, 16, 16, generator=generator).to(dtype)
    picture = noise_image()
    wanted = trace(net, picture, augmentations=views, sparsity=sparsity, solver="sparsegpt")
    with untouched(net.model):
        found = published_trace(net, picture, asked(wanted), augmentations=views, batch=64)
    assert found.tensors.keys() == wanted.tensors.keys()
    assert not found.left_out
    for name, tensor in wanted.tensors.items():
        assert found.tensors[name].dtype == dtype
        assert int((found.tensors[name] == 0).sum()) == int((tensor == 0).sum())
        apart = (found.tensors[name] - tensor).abs() > 1e-4
        # In float32, rounding may decide between two weights that cost the same.
        assert float(apart.float().mean()) <= (0.05 if dtype == torch.float32 else 0)


def test_what_the_published_code_cannot_prune_is_named() -> None:
    class Same(nn.Conv2d):
        pass

    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), Same(4, 4, 1), nn.Conv2d(4, 4, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 65),
    )  # fmt: skip
    net = network(model)
    names = dict.fromkeys("012345", 0.5) | {"8": 0.0}
    found = published_trace(net, noise_image(), names, augmentations=5)
    assert found.left_out == ("1", "2", "3", "4")
    assert set(found.tensors) == {"0.weight", "5.weight"}
    assert list(found.seconds) == ["augment", "record", "factorise", "sweep"]
    assert "2 parameters pruned" in repr(found)


def test_views_are_the_published_recipe_from_a_seed_in_batches() -> None:
    net = network()
    seen: list[torch.Tensor] = []
    net.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    told: list[tuple[str, int, int]] = []

    def run(seed: int, batch: int) -> torch.Tensor:
        seen.clear()
        published_trace(
            net, noise_image(), {"head": 0.5}, augmentations=7, seed=seed, batch=batch,
            progress=lambda *step: told.append(step),
        )  # fmt: skip
        assert [len(x) for x in seen] == [len(x) for x in torch.zeros(7).split(batch)]
        return torch.cat(seen)

    views = run(3, 3)
    assert views.shape == (7, 3, 16, 16)
    assert torch.equal(views, run(3, 7))
    assert not torch.equal(views, run(4, 3))
    unit = views * 0.2 + 0.5
    assert float(unit.min()) >= -1e-6
    assert float(unit.max()) <= 1 + 1e-6
    assert told[:4] == [*(("published: views", n, 7) for n in (0, 3, 6)),
                        ("published: layers", 0, 1)]  # fmt: skip


def test_grey_images_and_networks() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(4, 65))  # fmt: skip
    found = published_trace(network(model, 1), noise_image(), {"3": 0.5}, augmentations=3)
    assert set(found.tensors) == {"3.weight"}
    grey = Image.new("L", (20, 20), 90)
    assert published_trace(network(), grey, {"head": 0.5}, augmentations=2).tensors


def test_a_moment_that_float32_cannot_factorise() -> None:
    net = network(nn.Sequential(nn.Flatten(), nn.Linear(768, 65)))
    views = torch.ones(1, 3, 16, 16)
    found = published_trace(net, noise_image(), {"1": 0.5}, augmentations=views, damping=1e-6)
    assert found.note == "1 layers factorised in float64"
    assert torch.isfinite(found.tensors["1.weight"]).all()


def test_refusals_leave_the_network_alone() -> None:
    net = network()
    with untouched(net.model):
        with pytest.raises(InputError, match="no layer 'tail'"):
            published_trace(net, noise_image(), {"tail": 0.5})
        with pytest.raises(InputError, match="damping 0 must be positive"):
            published_trace(net, noise_image(), {"head": 0.5}, damping=0)
        with pytest.raises(InputError, match="no such image"):
            published_trace(net, "nowhere.png", {"head": 0.5})
    with torch.no_grad():
        net.model.stem.bias[0] = float("nan")
    bad = [hook for module in net.model.modules() for hook in module._forward_hooks]
    with pytest.raises(NumericalError, match="layer 'head': the published steps"):
        published_trace(net, noise_image(), {"head": 0.5}, augmentations=2)
    assert bad == [] == [h for module in net.model.modules() for h in module._forward_hooks]
    net.model.train()
    with pytest.raises(NetworkError, match="training mode"):
        published_trace(net, noise_image(), {"head": 0.5})
