"""The eight published sizes of DEIMv2."""

from __future__ import annotations

from dataclasses import dataclass

from detloom_plugins.models._d_fine.backbones import B0, Backbone


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionTransformer:
    """A ViT of 12 layers with rotary positions: DINOv3's own (`registers` > 0) or a smaller one taught by it.

    stages: layers whose output is used, the finest level first, counted from 1. gated: SwiGLU in its hidden layers,
    whose width is `feed_forward`. detail: channels of the convolutions beside it, which see small things.
    """

    width: int
    heads: int
    feed_forward: int
    stages: tuple[int, int, int]
    layers: int = 12
    registers: int = 0
    gated: bool = False
    detail: int = 16


ATTO = Backbone(
    stem=(3, 16, 16),
    inputs=(16, 64, 256),
    middle=(16, 32, 64),
    outputs=(64, 256, 256),
    blocks=(1, 1, 1),
    layers=3,
    affine=True,
    kernels=(3, 3, 3),
)
FEMTO = Backbone(
    stem=(3, 16, 16),
    inputs=(16, 64, 256),
    middle=(16, 32, 64),
    outputs=(64, 256, 512),
    blocks=(1, 1, 1),
    layers=3,
    affine=True,
    kernels=(3, 3, 5),
)
PICO = Backbone(
    stem=(3, 16, 16),
    inputs=(16, 64, 256),
    middle=(16, 32, 64),
    outputs=(64, 256, 512),
    blocks=(1, 1, 2),
    layers=3,
    affine=True,
    kernels=(3, 3, 5),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """lite: an encoder of two levels without attention, over the backbone's last stage; one box head for all decoder
    layers and no gates. The other names as in D-FINE's variants; feed_forward of a lite encoder is unused.

    lr, backbone_lr: peak learning rates for batches of 32. weights: the hub's repository.
    """

    name: str
    parameters: str
    backbone: Backbone | VisionTransformer
    lite: bool = False
    levels: int = 3
    width: int = 256
    feed_forward: int = 512
    expansion: float = 1.0
    depth: float = 1.0
    decoder_feed_forward: int = 512
    decoder_layers: int = 4
    points: tuple[int, ...] = (3, 6, 3)
    heads: int = 8
    queries: int = 300
    resolution: int = 640
    lr: float = 5e-4
    backbone_lr: float = 2.5e-5
    weight_decay: float = 1e-4
    late_matching: float = 0.2
    weights: str = ""

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between two cells of each level that the decoder sees."""
        return (8, 16, 32)[-self.levels :]


VARIANTS = (
    Variant(
        name="atto",
        parameters="0.5 M",
        backbone=ATTO,
        lite=True,
        levels=2,
        width=64,
        expansion=0.34,
        depth=0.5,
        decoder_feed_forward=160,
        decoder_layers=3,
        points=(4, 2),
        queries=100,
        resolution=320,
        lr=1e-3,
        backbone_lr=5e-4,
        late_matching=0.1,
        weights="DEIMv2_HGNetv2_ATTO_COCO",
    ),
    Variant(
        name="femto",
        parameters="1.0 M",
        backbone=FEMTO,
        lite=True,
        levels=2,
        width=96,
        expansion=0.34,
        depth=0.5,
        decoder_feed_forward=256,
        decoder_layers=3,
        points=(4, 2),
        queries=150,
        resolution=416,
        lr=8e-4,
        backbone_lr=4e-4,
        late_matching=0.1,
        weights="DEIMv2_HGNetv2_FEMTO_COCO",
    ),
    Variant(
        name="pico",
        parameters="1.5 M",
        backbone=PICO,
        lite=True,
        levels=2,
        width=112,
        expansion=0.34,
        depth=0.5,
        decoder_feed_forward=320,
        decoder_layers=3,
        points=(4, 2),
        queries=200,
        lr=8e-4,
        backbone_lr=4e-4,
        late_matching=0.1,
        weights="DEIMv2_HGNetv2_PICO_COCO",
    ),
    Variant(
        name="n",
        parameters="3.6 M",
        backbone=B0,
        levels=2,
        width=128,
        expansion=0.34,
        depth=0.5,
        decoder_layers=3,
        points=(6, 6),
        lr=4e-4,
        backbone_lr=2e-4,
        late_matching=0.15,
        weights="DEIMv2_HGNetv2_N_COCO",
    ),
    Variant(
        name="s",
        parameters="9.8 M",
        backbone=VisionTransformer(width=192, heads=3, feed_forward=768, stages=(4, 8, 12)),
        width=192,
        expansion=0.34,
        depth=0.67,
        late_matching=0.25,
        weights="DEIMv2_DINOv3_S_COCO",
    ),
    Variant(
        name="m",
        parameters="18.4 M",
        backbone=VisionTransformer(width=256, heads=4, feed_forward=1024, stages=(4, 8, 12)),
        expansion=0.67,
        weights="DEIMv2_DINOv3_M_COCO",
    ),
    Variant(
        name="l",
        parameters="32.6 M",
        backbone=VisionTransformer(width=384, heads=6, feed_forward=1536, stages=(6, 9, 12), registers=4, detail=32),
        width=224,
        feed_forward=896,
        decoder_feed_forward=1792,
        backbone_lr=1.25e-5,
        weight_decay=1.25e-4,
        late_matching=0.25,
        weights="DEIMv2_DINOv3_L_COCO",
    ),
    Variant(
        name="x",
        parameters="51.2 M",
        backbone=VisionTransformer(
            width=384, heads=6, feed_forward=1536, stages=(6, 9, 12), registers=4, gated=True, detail=64
        ),
        feed_forward=1024,
        expansion=1.25,
        depth=1.37,
        decoder_feed_forward=2048,
        decoder_layers=6,
        backbone_lr=1e-5,
        weight_decay=1.25e-4,
        weights="DEIMv2_DINOv3_X_COCO",
    ),
)
