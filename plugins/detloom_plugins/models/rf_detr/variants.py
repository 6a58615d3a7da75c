"""The sizes of RF-DETR, as published, and the ones that are not ours to give."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backbone:
    """DINOv2 with windowed attention. features: blocks (counted from 1) whose output feeds the detector; these look at
    the whole picture, the others at windows. table_px: side of the pictures that the table of positions stands for."""

    patch: int
    windows: int
    table_px: int
    features: tuple[int, ...] = (3, 6, 9, 12)
    blocks: int = 12
    heads: int = 6
    width: int = 384


@dataclass(frozen=True, slots=True)
class Variant:
    """name: without the family. resolution: pixels that the published weights were trained at. layers: of the decoder.
    queries: boxes that it proposes. masks: with a segmentation head. width, ffn, self_heads, cross_heads: of the
    decoder. parameters: their number, for people."""

    name: str
    resolution: int
    backbone: Backbone
    layers: int
    parameters: str
    queries: int = 300
    masks: bool = False
    width: int = 256
    ffn: int = 2048
    self_heads: int = 8
    cross_heads: int = 16

    @property
    def full_name(self) -> str:
        return f"rf_detr-{self.name}"

    @property
    def aliases(self) -> tuple[str, ...]:
        """The size alone, as people write it who know no other family."""
        return (self.name, self.name.replace("-", "")) if self.masks else (self.name,)

    @property
    def divisor(self) -> int:
        """Height and width of the network input are multiples of it: whole patches in whole windows."""
        return self.backbone.patch * self.backbone.windows


def _detector(name: str, resolution: int, layers: int, parameters: str) -> Variant:
    return Variant(name, resolution, Backbone(patch=16, windows=2, table_px=resolution), layers, parameters)


def _segmenter(name: str, resolution: int, layers: int, queries: int, parameters: str, windows: int = 2) -> Variant:
    backbone = Backbone(patch=12, windows=windows, table_px=resolution)
    return Variant(f"seg-{name}", resolution, backbone, layers, parameters, queries, masks=True)


# Of seg-large the original package says 200 queries and transformers' conversion script 300; a file with more is cut.
VARIANTS = (
    _detector("nano", 384, 2, "30.5 M"),
    _detector("small", 512, 3, "32.1 M"),
    _detector("medium", 576, 4, "33.7 M"),
    Variant("base", 560, Backbone(14, 4, 518, (2, 5, 8, 11)), 3, "32.2 M"),
    _detector("large", 704, 4, "33.9 M"),
    _segmenter("nano", 312, 4, 100, "33.6 M", windows=1),
    _segmenter("small", 384, 4, 100, "33.7 M"),
    _segmenter("medium", 432, 5, 200, "35.7 M"),
    _segmenter("large", 504, 5, 200, "35.9 M"),
    _segmenter("preview", 432, 4, 200, "34.2 M"),
)

_TOO_LARGE = re.compile(r"(?:rf_detr-)?(?:seg-?)?([2x]?)xl(?:arge)?")
"""However people write the sizes that exist elsewhere, under another licence."""


def refusal(name: str) -> str:
    """Why a size cannot be had; empty for any other name."""
    found = _TOO_LARGE.fullmatch(name)
    if found is None:
        return ""
    return (
        f"{name} cannot be had: RF-DETR {'2XL' if found[1] else 'XL'} is published under the Platform Model License "
        "(PML 1.0), not under Apache-2.0 like the sizes up to large"
    )
