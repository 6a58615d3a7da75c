"""Small networks of D-FINE and DEIMv2."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from detloom_plugins.models import d_fine, deimv2
from detloom_plugins.models.d_fine.variants import Backbone, Variant
from detloom_plugins.models.deimv2.variants import Variant as Deimv2Variant
from detloom_plugins.models.deimv2.variants import VisionTransformer
from detr_tools import Family

STAGES = Backbone(
    stem=(3, 8, 16),
    inputs=(16, 32, 64, 128),
    middle=(8, 16, 24, 32),
    outputs=(32, 64, 128, 192),
    blocks=(1, 1, 1, 1),
    layers=2,
    affine=True,
)
SMALL = Variant(
    name="small",
    parameters="0.4 M",
    backbone=STAGES,
    levels=2,
    width=64,
    feed_forward=64,
    expansion=0.34,
    depth=0.34,
    decoder_width=64,
    decoder_feed_forward=64,
    decoder_layers=2,
    points=(4, 4),
    heads=4,
)
D_FINE = Family("d_fine-n", partial(d_fine.build, SMALL), {"num_queries": 40, "num_denoising": 20})
DEIMV2_SMALL = Deimv2Variant(
    name="small",
    parameters="0.4 M",
    backbone=STAGES,
    levels=2,
    width=64,
    feed_forward=64,
    expansion=0.34,
    depth=0.34,
    decoder_feed_forward=64,
    decoder_layers=2,
    points=(4, 4),
    heads=4,
)
THREE_STAGES = replace(
    STAGES,
    inputs=STAGES.inputs[:3],
    middle=STAGES.middle[:3],
    outputs=STAGES.outputs[:3],
    blocks=STAGES.blocks[:3],
    kernels=STAGES.kernels[:3],
)
DEIMV2_LITE = replace(DEIMV2_SMALL, backbone=THREE_STAGES, lite=True, points=(4, 2))
DEIMV2_TRANSFORMER = replace(
    DEIMV2_SMALL,
    backbone=VisionTransformer(width=48, heads=3, feed_forward=96, stages=(1, 2, 3), layers=3),
    levels=3,
    points=(2, 4, 2),
)
DEIMV2 = Family("deimv2-n", partial(deimv2.build, DEIMV2_SMALL), {"num_queries": 40, "num_denoising": 20})
LITE = Family(
    "deimv2-atto",
    partial(deimv2.build, DEIMV2_LITE),
    {"num_queries": 40, "num_denoising": 20, "matching_union": False, "distillation_weight": 0.0},
)
TRANSFORMER = Family("deimv2-s", partial(deimv2.build, DEIMV2_TRANSFORMER), {"num_queries": 40, "num_denoising": 20})
