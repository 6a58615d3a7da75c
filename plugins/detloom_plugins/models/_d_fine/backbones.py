"""Sizes of HGNetV2."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """HGNetV2 (PaddleDetection). stem: channels of the picture, of the stem and behind it; the tuples have one entry a
    stage. affine: a learned scale and shift behind each activation."""

    stem: tuple[int, int, int]
    inputs: tuple[int, ...]
    middle: tuple[int, ...]
    outputs: tuple[int, ...]
    blocks: tuple[int, ...]
    layers: int
    affine: bool
    kernels: tuple[int, ...] = (3, 3, 5, 5)


B0 = Backbone(
    stem=(3, 16, 16),
    inputs=(16, 64, 256, 512),
    middle=(16, 32, 64, 128),
    outputs=(64, 256, 512, 1024),
    blocks=(1, 1, 2, 1),
    layers=3,
    affine=True,
)
B2 = Backbone(
    stem=(3, 24, 32),
    inputs=(32, 96, 384, 768),
    middle=(32, 64, 128, 256),
    outputs=(96, 384, 768, 1536),
    blocks=(1, 1, 3, 1),
    layers=4,
    affine=True,
)
B4 = Backbone(
    stem=(3, 32, 48),
    inputs=(48, 128, 512, 1024),
    middle=(48, 96, 192, 384),
    outputs=(128, 512, 1024, 2048),
    blocks=(1, 1, 3, 1),
    layers=6,
    affine=False,
)
B5 = Backbone(
    stem=(3, 32, 64),
    inputs=(64, 128, 512, 1024),
    middle=(64, 128, 256, 512),
    outputs=(128, 512, 1024, 2048),
    blocks=(1, 2, 5, 2),
    layers=6,
    affine=False,
)
