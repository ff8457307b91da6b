"""Definitions of the CIFAR-10 networks in the shared data folder, each a source for ``load``."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from torch import Tensor, nn

from sparsight.networks import Network, Preprocessing

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Block(nn.Module):
    """Two 3x3 convolutions; a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.pad = (outputs - inputs) // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(short, (0, 0, 0, 0, self.pad, self.pad)))


class CifarResNet(nn.Module):
    """He et al.'s ResNet for 32 x 32 px, ``6 n + 2`` layers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(blocks)))
        self.layer2 = nn.Sequential(
            *(Block(32 if i else 16, 32, 1 if i else 2) for i in range(blocks))
        )
        self.layer3 = nn.Sequential(
            *(Block(64 if i else 32, 64, 1 if i else 2) for i in range(blocks))
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class Patches(nn.Module):
    """Patch embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 128, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class EncoderViT(nn.Module):
    """A vision transformer on ``nn.TransformerEncoder``, whose fused fast path hides its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = Patches()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 128))
        self.pos_embed = nn.Parameter(torch.zeros(1, 65, 128))
        layer = nn.TransformerEncoderLayer(128, 8, 256, activation="relu", batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, 6)
        self.mlp_head = nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.mlp_head(self.transformer(x)[:, 0])


class Wide(nn.Module):
    """A pre-activation block; its shortcut, if there is one, takes the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = (  # as the weights call it
            nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None
        )

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideStage(nn.Module):
    """Two blocks."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(Wide(inputs, outputs, stride), Wide(outputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


class WideResNet(nn.Module):
    """WideResNet-16-1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = WideStage(16, 16, 1)
        self.block2 = WideStage(16, 32, 2)
        self.block3 = WideStage(32, 64, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class SimpleCNN(nn.Module):
    """Two convolutions and three linear layers, as benchmarks of federations have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


def vgg11() -> Network:
    """VGG-11 for 32 x 32 px, without normalisations."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if not outputs:
            layers.append(nn.MaxPool2d(2))
            continue
        conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        nn.init.kaiming_normal_(
            conv.weight, nonlinearity="relu"
        )  # else so deep a one learns little
        layers += [conv, nn.ReLU()]
        inputs = outputs
    return _network(nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10)))


def _network(model: nn.Module) -> Network:
    return Network(model, Preprocessing((32, 32), 32), CLASSES)


def _unnormalised(model: nn.Module) -> Network:
    return Network(model, Preprocessing((32, 32), 32, (0.0,) * 3, (1.0,) * 3), CLASSES)


def simple_cnn() -> Network:
    return _network(SimpleCNN())


def resnet8() -> Network:
    return _network(CifarResNet(1))


def resnet20() -> Network:
    return _network(CifarResNet(3))


def resnet56() -> Network:
    return _network(CifarResNet(9))


def vit_encoder() -> Network:
    return _network(EncoderViT())


def vit_timm_layout() -> Network:
    model = VisionTransformer(
        img_size=32, patch_size=4, num_classes=10, embed_dim=64, depth=4, num_heads=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    return _unnormalised(model)


def wrn16_1_backdoored() -> Network:
    return _unnormalised(WideResNet())
