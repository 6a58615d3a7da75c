# ruff: noqa: TID253
"""Building blocks of YOLOX. Attribute names are those of the official checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BN_EPS = 1e-3


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm, SiLU. Keeps the size, or divides it by the stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=BN_EPS)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.bn(self.conv(x)))
        return result


class SeparableUnit(nn.Module):
    """A depthwise and then a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.dconv = ConvUnit(inputs, inputs, kernel, stride, groups=inputs)
        self.pconv = ConvUnit(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.pconv(self.dconv(x))
        return result


def spatial_unit(inputs: int, outputs: int, stride: int, depthwise: bool) -> nn.Module:
    """The 3x3 convolution of a variant: separable in nano, full in the others."""
    kind = SeparableUnit if depthwise else ConvUnit
    return kind(inputs, outputs, 3, stride)


class Bottleneck(nn.Module):
    """1x1 then 3x3 convolution, with a residual connection where `shortcut` says so."""

    def __init__(self, channels: int, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels, 1)
        self.conv2 = spatial_unit(channels, channels, 1, depthwise)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv2(self.conv1(x))
        return result + x if self.shortcut else result


class CspLayer(nn.Module):
    """Cross-stage partial layer: half of the channels pass through the bottlenecks, half go round them."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        hidden = outputs // 2
        self.conv1 = ConvUnit(inputs, hidden, 1)
        self.conv2 = ConvUnit(inputs, hidden, 1)
        self.conv3 = ConvUnit(2 * hidden, outputs, 1)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut, depthwise) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv3(torch.cat((self.m(self.conv1(x)), self.conv2(x)), dim=1))
        return result


class SpatialPyramid(nn.Module):
    """Max pools over 5, 9 and 13 pixels beside the input (He et al. 2015)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = ConvUnit(inputs, inputs // 2, 1)
        self.conv2 = ConvUnit(inputs // 2 * 4, outputs, 1)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        # Pooling 5 twice equals pooling 9, three times 13: the same numbers from a fifth of the comparisons.
        five = self.pool(x)
        nine = self.pool(five)
        result: Tensor = self.conv2(torch.cat((x, five, nine, self.pool(nine)), dim=1))
        return result


class Focus(nn.Module):
    """Each 2x2 patch of pixels becomes four channels' worth of one pixel, then a 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvUnit(inputs * 4, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W]. The patches are stacked column by column, as the official weights expect."""
        columns = (x[..., ::2], x[..., 1::2])
        patches = [column[..., row::2, :] for column in columns for row in (0, 1)]
        result: Tensor = self.conv(torch.cat(patches, dim=1))
        return result
