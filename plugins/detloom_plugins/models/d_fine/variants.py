"""The five sizes of D-FINE, as published: layers, channels and learning rates."""

from __future__ import annotations

from dataclasses import dataclass

from detloom_plugins.models._d_fine.backbones import B0, B2, B4, B5, Backbone


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """levels: how many of the backbone's last stages are used (3: strides 8, 16, 32). width, feed_forward: channels of
    the encoder; decoder_width, decoder_feed_forward: of the decoder. expansion, depth: factors of the encoder's
    fusion blocks. points: sampled by the decoder's attention on each level. curvature: `c` of the bins' places.

    lr, backbone_lr: peak learning rates; parameters: their number, for people. weights: repositories of the hub, the
    first is the default.
    """

    name: str
    parameters: str
    backbone: Backbone
    levels: int = 3
    width: int = 256
    feed_forward: int = 1024
    expansion: float = 1.0
    depth: float = 1.0
    decoder_width: int = 256
    decoder_feed_forward: int = 1024
    decoder_layers: int = 6
    points: tuple[int, ...] = (3, 6, 3)
    heads: int = 8
    queries: int = 300
    denoising: int = 100
    curvature: float = 4.0
    lr: float = 2.5e-4
    backbone_lr: float = 1.25e-5
    weight_decay: float = 1.25e-4
    ema_decay: float = 0.9999
    weights: tuple[str, ...] = ()

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between two cells of each level that the encoder gives to the decoder."""
        return (8, 16, 32)[-self.levels :]


VARIANTS = (
    Variant(
        name="n",
        parameters="3.8 M",
        backbone=B0,
        levels=2,
        width=128,
        feed_forward=512,
        expansion=0.34,
        depth=0.5,
        decoder_width=128,
        decoder_feed_forward=512,
        decoder_layers=3,
        points=(6, 6),
        lr=4e-4,
        backbone_lr=2e-4,
        weight_decay=1e-4,
        weights=("dfine-nano-coco",),
    ),
    Variant(
        name="s",
        parameters="10.3 M",
        backbone=B0,
        expansion=0.5,
        depth=0.34,
        decoder_layers=3,
        lr=2e-4,
        backbone_lr=1e-4,
        weight_decay=1e-4,
        weights=("dfine-small-coco", "dfine-small-obj2coco"),
    ),
    Variant(
        name="m",
        parameters="19.6 M",
        backbone=B2,
        depth=0.67,
        decoder_layers=4,
        lr=2e-4,
        backbone_lr=2e-5,
        weight_decay=1e-4,
        weights=("dfine-medium-coco", "dfine-medium-obj2coco"),
    ),
    Variant(name="l", parameters="31.3 M", backbone=B4, weights=("dfine-large-coco", "dfine-large-obj2coco-e25")),
    Variant(
        name="x",
        parameters="62.7 M",
        backbone=B5,
        width=384,
        feed_forward=2048,
        curvature=8.0,
        backbone_lr=2.5e-6,
        ema_decay=0.9998,
        weights=("dfine-xlarge-coco", "dfine-xlarge-obj2coco"),
    ),
)
