"""ResNets that equal torchvision's layer for layer: keys, initial weights and outputs are the same, as tests check.

They are written again because `import torchvision` brings `torch._dynamo` with it, which costs 4 s at the start of
every command that trains.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Norm = Callable[[int], nn.Module]
CLASSES = 1000
"""Classes of torchvision's classifier, whose initialisation draws random numbers before the convolutions do."""


class ResNet(nn.Module):
    """Images [n, C, H, W] -> pooled features [n, 512 or 2048] (arXiv 1512.03385, table 1), without a classifier."""

    recomputes = False
    """Whether the backward pass computes the stem and each block again, instead of keeping what is in them."""

    def __init__(self, blocks: tuple[int, ...], *, bottleneck: bool, norm: Norm, channels: int = 3) -> None:
        super().__init__()
        kind: type[BasicBlock | Bottleneck] = Bottleneck if bottleneck else BasicBlock
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1, width = _layer(kind, 64, 64, blocks[0], stride=1, norm=norm)
        self.layer2, width = _layer(kind, width, 128, blocks[1], stride=2, norm=norm)
        self.layer3, width = _layer(kind, width, 256, blocks[2], stride=2, norm=norm)
        self.layer4, width = _layer(kind, width, 512, blocks[3], stride=2, norm=norm)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.feature_width = width
        nn.Linear(width, CLASSES)  # for the numbers it draws
        for module in self.modules():
            # A normal draw on the meta device imports `torch._dynamo` too (2 s), and there are no weights to draw.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, H, W] -> [n, d]."""
        if self.recomputes and torch.is_grad_enabled():
            for part in (self.stem, *self.layer1, *self.layer2, *self.layer3, *self.layer4):
                x = checkpoint(part, x, use_reentrant=False)
        else:
            x = self.stem(x)  # n x 64 x H/4 x W/4
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # n x d x H/32 x W/32
        return torch.flatten(self.avgpool(x), 1)

    def stem(self, x: Tensor) -> Tensor:
        """[n, C, H, W] -> [n, 64, H/4, W/4]."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))  # type: ignore[no-any-return]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and the shortcut around them."""

    expansion = 1

    def __init__(self, width: int, planes: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        shortcut = _shortcut(width, planes * self.expansion, stride, norm)
        self.conv1 = nn.Conv2d(width, planes, 3, stride, padding=1, bias=False)
        self.bn1 = norm(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] -> [n, planes, h / stride, w / stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 (with the stride, as in "ResNet v1.5") and 1 x 1, and the shortcut around them."""

    expansion = 4

    def __init__(self, width: int, planes: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        shortcut = _shortcut(width, planes * self.expansion, stride, norm)
        self.conv1 = nn.Conv2d(width, planes, 1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = norm(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] -> [n, 4 * planes, h / stride, w / stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)  # type: ignore[no-any-return]


def _layer(
    kind: type[BasicBlock | Bottleneck], width: int, planes: int, count: int, *, stride: int, norm: Norm
) -> tuple[nn.Sequential, int]:
    """`count` blocks, of which the first has the stride, and the number of channels that they end with."""
    out = planes * kind.expansion
    first = kind(width, planes, stride=stride, norm=norm)
    return nn.Sequential(first, *(kind(out, planes, stride=1, norm=norm) for _ in range(count - 1))), out


def _shortcut(width: int, out: int, stride: int, norm: Norm) -> nn.Module | None:
    """The shortcut's 1 x 1 convolution where a block changes size; it is initialised before the block's own, as in
    torchvision."""
    if stride == 1 and width == out:
        return None
    return nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), norm(out))
