"""Small networks that hold every difficulty of the large ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def seeded(model: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Random weights, biases and statistics, none of them zero; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point():
            scale = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.3
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
            if tensor.ndim == 1 and name.endswith("weight"):
                tensor.add_(1)
    return model.to(dtype).eval()


def picture(size: int = 16, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, size, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Plain(nn.Module):
    """Every activation a module of its own, nothing in place: what captum can handle."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.hidden, self.head = nn.Linear(6 * 64, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.a(x)))
        x = self.relu2(self.b(x))
        return self.head(self.relu3(self.hidden(x.flatten(1))))


class Reused(Plain):
    """The same function with one in-place module for all activations."""

    def __init__(self) -> None:
        super().__init__()
        self.relu1 = self.relu2 = self.relu3 = nn.ReLU(inplace=True)


class Functional(Plain):
    """The same function without activation modules."""

    def __init__(self) -> None:
        super().__init__()
        del self.relu1, self.relu2, self.relu3, self.pool

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        x = self.b(x).relu_()
        return self.head(torch.clamp_min(self.hidden(x.flatten(1)), 0))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.c1, self.b1 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.c2, self.b2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        for _ in range(2):
            out = self.b2(self.c2(self.relu(self.b1(self.c1(x)))))
            out += x
            x = self.relu(out)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class SqueezeExcite(nn.Module):
    """Depthwise convolution, SiLU, ReLU6, a sigmoid gate, group norm, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.mix, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.stem(x)), inplace=True)
        y = F.relu6(self.depth(x))
        gate = torch.sigmoid(self.up(F.silu(self.down(y.mean((2, 3), keepdim=True)))))
        y = torch.cat([y * gate, x], 1)
        return self.head(F.hardswish(self.mix(y)).amax((2, 3)))


class ChannelsLast(nn.Module):
    """A ConvNeXt-like block in NHWC with a layer scale, then hand-written RMS norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.depth, self.norm = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.LayerNorm(8)
        self.wide, self.slim = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.last, self.head = nn.Identity(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.slim(F.gelu(self.wide(y))) * self.scale
        x = self.last(x.permute(0, 2, 3, 1) + y)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.head(x.mean((1, 2)))


class Attention(nn.Module):
    """A class token, positions, ``MultiheadAttention`` and attention written out by hand."""

    def __init__(self, size: int = 16, width: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        tokens = (size // 4) ** 2 + 1
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(torch.zeros(1, tokens, width))
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.block1, self.block2 = nn.Identity(), nn.Identity()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.slim = nn.Linear(width, 16), nn.Linear(16, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        y = self.n1(x)
        x = self.block1(x + self.attention(y, y, y, need_weights=False)[0])
        q, k, v = self.qkv(self.n2(x)).chunk(3, -1)
        weights = (torch.einsum("bid,bjd->bij", q, k) / 3).softmax(-1)
        x = self.block2(x + self.out(weights @ v))
        x = x + self.slim(F.gelu(self.wide(x)))
        return self.head(x[:, 0])


ALL = {c.__name__: c for c in (Plain, Residual, SqueezeExcite, ChannelsLast, Attention)}
