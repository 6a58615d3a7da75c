# ruff: noqa: TID253
"""The YOLOX network: CSPDarknet, path aggregation and the decoupled head (Ge et al. 2021, section 2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .blocks import ConvUnit, CspLayer, Focus, SpatialPyramid, spatial_unit

if TYPE_CHECKING:
    from . import Variant

STRIDES = (8, 16, 32)
PRIOR = 0.01
"""Probability that every anchor starts with, so that the many empty ones do not swamp the first steps
(Lin et al. 2017, section 3.3)."""


class CspDarknet(nn.Module):
    """The backbone. Gives features at strides 8, 16 and 32 with 4, 8 and 16 times the base channels."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        base = int(64 * variant.width)
        blocks = max(round(3 * variant.depth), 1)
        self.stem = Focus(3, base)
        self.dark2 = self._stage(base, blocks, variant)
        self.dark3 = self._stage(2 * base, 3 * blocks, variant)
        self.dark4 = self._stage(4 * base, 3 * blocks, variant)
        self.dark5 = nn.Sequential(
            spatial_unit(8 * base, 16 * base, 2, variant.depthwise),
            SpatialPyramid(16 * base, 16 * base),
            CspLayer(16 * base, 16 * base, blocks, shortcut=False, depthwise=variant.depthwise),
        )

    @staticmethod
    def _stage(inputs: int, blocks: int, variant: Variant) -> nn.Sequential:
        return nn.Sequential(
            spatial_unit(inputs, 2 * inputs, 2, variant.depthwise),
            CspLayer(2 * inputs, 2 * inputs, blocks, shortcut=True, depthwise=variant.depthwise),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eighth: Tensor = self.dark3(self.dark2(self.stem(x)))
        sixteenth: Tensor = self.dark4(eighth)
        return eighth, sixteenth, self.dark5(sixteenth)


class PathAggregation(nn.Module):
    """The neck, top-down and then bottom-up (Liu et al. 2018); it holds the backbone, as in the official files."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        small, middle, large = (int(channels * variant.width) for channels in (256, 512, 1024))
        blocks = round(3 * variant.depth)

        def merge(inputs: int, outputs: int) -> CspLayer:
            return CspLayer(inputs, outputs, blocks, shortcut=False, depthwise=variant.depthwise)

        self.backbone = CspDarknet(variant)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral_conv0 = ConvUnit(large, middle, 1)
        self.C3_p4 = merge(2 * middle, middle)
        self.reduce_conv1 = ConvUnit(middle, small, 1)
        self.C3_p3 = merge(2 * small, small)
        self.bu_conv2 = spatial_unit(small, small, 2, variant.depthwise)
        self.C3_n3 = merge(2 * small, middle)
        self.bu_conv1 = spatial_unit(middle, middle, 2, variant.depthwise)
        self.C3_n4 = merge(2 * middle, large)

    def neck_modules(self) -> tuple[nn.Module, ...]:
        """Everything but the backbone."""
        return tuple(module for name, module in self.named_children() if name != "backbone")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns features at strides 8, 16 and 32."""
        eighth, sixteenth, thirty_second = self.backbone(x)
        top = self.lateral_conv0(thirty_second)
        middle = self.reduce_conv1(self.C3_p4(torch.cat((self.upsample(top), sixteenth), dim=1)))
        out8 = self.C3_p3(torch.cat((self.upsample(middle), eighth), dim=1))
        out16 = self.C3_n3(torch.cat((self.bu_conv2(out8), middle), dim=1))
        out32 = self.C3_n4(torch.cat((self.bu_conv1(out16), top), dim=1))
        return out8, out16, out32


class DecoupledHead(nn.Module):
    """Class scores in one branch; box and objectness in the other; one set of layers a stride."""

    def __init__(self, classes: int, variant: Variant) -> None:
        super().__init__()
        hidden = int(256 * variant.width)
        inputs = [int(channels * variant.width) for channels in (256, 512, 1024)]

        def branch() -> nn.Sequential:
            return nn.Sequential(*(spatial_unit(hidden, hidden, 1, variant.depthwise) for _ in range(2)))

        self.stems = nn.ModuleList(ConvUnit(channels, hidden, 1) for channels in inputs)
        self.cls_convs = nn.ModuleList(branch() for _ in inputs)
        self.reg_convs = nn.ModuleList(branch() for _ in inputs)
        self.cls_preds = nn.ModuleList(nn.Conv2d(hidden, classes, 1) for _ in inputs)
        self.reg_preds = nn.ModuleList(nn.Conv2d(hidden, 4, 1) for _ in inputs)
        self.obj_preds = nn.ModuleList(nn.Conv2d(hidden, 1, 1) for _ in inputs)
        for layer in (*self.cls_preds, *self.obj_preds):
            set_prior(layer)

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns class logits [B, N, C], box regressions [B, N, 4] and objectness logits [B, N, 1]; N runs over
        the strides and, within one, over rows and columns."""
        classes, boxes, objectness = [], [], []
        for level, feature in enumerate(features):
            x = self.stems[level](feature)
            class_branch, box_branch = self.cls_convs[level](x), self.reg_convs[level](x)
            classes.append(self.cls_preds[level](class_branch))
            boxes.append(self.reg_preds[level](box_branch))
            objectness.append(self.obj_preds[level](box_branch))
        return by_anchor(classes), by_anchor(boxes), by_anchor(objectness)


def set_prior(layer: nn.Module) -> None:
    """Set the bias of a score layer so that its first scores are about PRIOR."""
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    nn.init.constant_(layer.bias, -math.log((1 - PRIOR) / PRIOR))


def by_anchor(maps: list[Tensor]) -> Tensor:
    """[B, C, h, w] of each stride to [B, N, C]."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
