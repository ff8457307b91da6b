"""Finding the last spatial layer and reading it the right way round."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from attribution.small import Attention, ChannelsLast, Plain, Residual, picture, seeded
from sparsight.attribution import Subject, attribute
from sparsight.attribution.layout import Layout, last_spatial_layer, possible_layouts
from sparsight.errors import UnsupportedError


@pytest.mark.parametrize(
    ("shape", "size", "grids", "expected"),
    [
        ((1, 512, 7, 7), (224, 224), [], ["NCHW 7x7"]),
        ((1, 7, 7, 768), (224, 224), [], ["NHWC 7x7"]),
        ((1, 512, 7, 10), (224, 320), [], ["NCHW 7x10"]),
        ((1, 7, 10, 512), (224, 320), [], ["NHWC 7x10"]),
        ((1, 197, 768), (224, 224), [(14, 14)], ["NTC 14x14 after 1 prefix tokens"]),
        ((1, 192, 196), (224, 224), [(14, 14)], ["NCT 14x14"]),
        ((1, 261, 384), (224, 224), [(16, 16)], ["NTC 16x16 after 5 prefix tokens"]),
        ((1, 49, 768), (224, 224), [(56, 56)], ["NTC 7x7"]),
        ((1, 71, 64), (112, 160), [(7, 10)], ["NTC 7x10 after 1 prefix tokens"]),
        ((1, 7, 7, 7), (224, 224), [], ["NCHW 7x7", "NHWC 7x7"]),
        ((1, 512, 1, 1), (224, 224), [], []),
        ((1, 3, 197, 64), (224, 224), [], []),
    ],
)
def test_shapes(shape, size, grids, expected):
    assert [str(layout) for layout in possible_layouts(shape, size, grids)] == expected


def test_maps_of_each_kind():
    maps = torch.arange(24.0).reshape(1, 2, 3, 4)
    tokens = torch.cat([torch.zeros(1, 1, 2), maps.flatten(2).transpose(1, 2)], 1)
    for kind, tensor, prefix in (
        ("NCHW", maps, 0),
        ("NHWC", maps.permute(0, 2, 3, 1), 0),
        ("NTC", tokens, 1),
        ("NCT", tokens.transpose(1, 2), 1),
    ):
        assert torch.equal(Layout(kind, 3, 4, prefix).maps(tensor), maps)


def test_equals_captum_on_a_cnn():
    model, x = seeded(Residual()), picture()
    result = attribute(model, x, 2, "grad_cam", relu=False)
    assert result.settings["layer"] == "relu"
    assert "call 5" in result.notes[0]

    class Split(nn.Module):
        """The same network with its last ReLU apart, so that captum can name it."""

        def __init__(self):
            super().__init__()
            self.inner, self.last, self.head = model, nn.Identity(), model.head

        def forward(self, x):
            kept = []
            handle = model.relu.register_forward_hook(lambda m, i, o: kept.append(o.clone()))
            model(x)
            handle.remove()
            return self.head(self.last(kept[-1]).mean((2, 3)))

    split = Split()
    cam = LayerGradCam(split, split.last).attribute(x[None], 2)
    large = nn.functional.interpolate(cam.float(), (16, 16), mode="bilinear")
    torch.testing.assert_close(result.map.sum(0), large[0, 0], rtol=1e-4, atol=1e-6)


def test_channels_last_is_read_as_such():
    model, x = seeded(ChannelsLast()), picture()
    layer = last_spatial_layer(Subject(model, x, 1))
    assert (layer.name, str(layer.layout), layer.whole) == ("last", "NHWC 4x4", True)
    kept = []
    handle = model.last.register_forward_hook(lambda m, i, o: kept.append(o))
    model(x[None])
    handle.remove()
    assert torch.equal(layer.activation, kept[0].detach().permute(0, 3, 1, 2))


@pytest.mark.parametrize("size", [16, 24])
def test_tokens_behind_which_patches_no_longer_matter_are_passed_over(size):
    layer = last_spatial_layer(Subject(seeded(Attention(size)), picture(size), 1))
    grid = size // 4
    assert layer.name == "block1"
    assert str(layer.layout) == f"NTC {grid}x{grid} after 1 prefix tokens"


def test_branches_are_passed_over_for_the_trunk():
    layer = last_spatial_layer(Subject(seeded(Residual()), picture(), 1))
    assert layer.whole
    assert layer.name not in {"b2", "c2"}


class _Cube(nn.Module):
    """As many channels as rows and columns."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last, self.conv = last, nn.Conv2d(3, 4, 4, 4)
        self.cube, self.head = nn.Identity(), nn.Linear(4, 2)

    def forward(self, x):
        x = self.conv(x)
        x = self.cube(x.permute(0, 2, 3, 1) if self.last else x.relu())
        return self.head(x.relu().mean((1, 2) if self.last else (2, 3)))


@pytest.mark.parametrize(("last", "kind"), [(True, "NHWC"), (False, "NCHW")])
def test_a_probe_tells_what_shape_cannot(last, kind):
    layer = last_spatial_layer(Subject(seeded(_Cube(last)), picture(), 1))
    assert (layer.name, layer.layout.kind) == ("cube", kind)


class _Scrambled(_Cube):
    def forward(self, x):
        x = self.conv(x)
        x = self.cube(x.sum((1, 2, 3), keepdim=True).expand(-1, 4, 4, 4) * 1.0)
        return self.head(x.mean((2, 3)))


def test_an_ambiguous_layer_is_refused():
    model = seeded(_Scrambled(False))
    model.conv = nn.Sequential(nn.Flatten(1), nn.Linear(768, 64), nn.Unflatten(1, (4, 4, 4)))
    with pytest.raises(UnsupportedError, match=r"'cube'.*NCHW 4x4 or as NHWC 4x4"):
        attribute(seeded(model), picture(), 1, "grad_cam")


def test_no_map_at_all_is_refused():
    model = seeded(nn.Sequential(nn.Flatten(), nn.Linear(768, 5), nn.ReLU(), nn.Linear(5, 2)))
    with pytest.raises(UnsupportedError, match="no layer to read"):
        attribute(model, picture(), 1, "grad_cam")


def test_rectangular_images():
    model = seeded(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )
    )
    x = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(0)).double()
    result = attribute(model, x, 0, "grad_cam", relu=False)
    assert result.map.shape == (3, 16, 24)
    torch.testing.assert_close(result.map.sum(0)[None], _cam_signed(model, model[1], x, 0))


def _cam_signed(model, layer, x, target):
    cam = LayerGradCam(model, layer).attribute(x[None], target)
    return nn.functional.interpolate(cam.float(), x.shape[1:], mode="bilinear")[0]


def test_guided_grad_cam_is_the_product():
    model, x = seeded(Plain()), picture()
    cam = attribute(model, x, 2, "grad_cam")
    guided = attribute(model, x, 2, "guided_backprop")
    product = attribute(model, x, 2, "guided_grad_cam")
    torch.testing.assert_close(product.map, guided.map * cam.map.sum(0))
