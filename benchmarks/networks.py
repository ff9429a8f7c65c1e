"""The networks of the published tables, in plain PyTorch: VGG with BatchNorm and a small MNIST net."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

_POOL = 0
_VGG16 = (64, 64, _POOL, 128, 128, _POOL, *[256] * 3, _POOL, *[512] * 3, _POOL, *[512] * 3)
_VGG19 = (64, 64, _POOL, 128, 128, _POOL, *[256] * 4, _POOL, *[512] * 4, _POOL, *[512] * 4)


class Vgg(nn.Module):
    """VGG with BatchNorm for 32 x 32 images: (batch, 3, 32, 32) to scores (batch, 10)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.feature = nn.Sequential(*_layers(widths))
        self.classifier = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.avg_pool2d(self.feature(x), 2).flatten(1))


def vgg16() -> Vgg:
    """VGG-16."""
    return Vgg(_VGG16)


def vgg19() -> Vgg:
    """VGG-19."""
    return Vgg(_VGG19)


def _layers(widths: Sequence[int]) -> Iterator[nn.Module]:
    before = 3
    for width in widths:
        if width == _POOL:
            yield nn.MaxPool2d(2)
        else:
            yield from (nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            before = width


class MnistNet(nn.Module):
    """Two convolutions and two linear layers: (batch, 1, 28, 28) to scores (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(4 * 4 * 50, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(-1, 4 * 4 * 50))))
