"""One small detector of every family: what the contract and the settings are tested on. A new family adds itself."""

from __future__ import annotations

from functools import partial
from typing import Any

from d_fine_tools import D_FINE, DEIMV2
from detloom.detector import Detector
from detloom.specs import ModelContext, ModelSpec
from detloom_plugins.models import rt_detr, rt_detr_v2, yolox
from detloom_plugins.models._rt_detr.variants import Variant as RtDetrVariant
from detr_tools import HOST, Family
from rf_detr_tools import FAMILY as RF_DETR
from rf_detr_tools import SEG_FAMILY as RF_DETR_SEG

RT_DETR_TINY = RtDetrVariant(
    "tiny",
    "0.6 M",
    depths=(1, 1, 1, 1),
    widths=(16, 32, 64, 64),
    bottleneck=False,
    decoder_layers=2,
    expansion=0.5,
    encoder_width=64,
    encoder_ffn=128,
    stem_width=16,
    decoder_width=64,
    decoder_ffn=128,
)
SMALL = {"num_queries": 60, "num_denoising": 10}


def build_yolox(settings: Any, context: ModelContext) -> Detector:
    return yolox.build(yolox.VARIANTS[0], settings, context)


def build_yolox_seg(settings: Any, context: ModelContext) -> Detector:
    return yolox.build_seg(yolox.VARIANTS[0], settings, context)


FAMILIES: dict[str, Family] = {
    "yolox": Family("yolox-nano", build_yolox),
    "yolox-seg": Family("yolox-seg-nano", build_yolox_seg, {"mask_candidates": 3000}),
    "rt_detr": Family("rt_detr-r18", partial(rt_detr.build, RT_DETR_TINY), SMALL),
    "rt_detr_v2": Family("rt_detr_v2-r18", partial(rt_detr_v2.build, RT_DETR_TINY), SMALL),
    "d_fine": D_FINE,
    "deimv2": DEIMV2,
    "rf_detr": RF_DETR,
    "rf_detr-seg": RF_DETR_SEG,
}
DETRS = {name: family for name, family in FAMILIES.items() if not name.startswith("yolox")}

# Every setting of a DETR family, and a value with which one training step must be another one. For losses that only
# some families have, see the family's own tests.
CHANGED: dict[str, Any] = {
    "num_queries": 13,
    "l1_weight": 0.5,
    "class_cost": 50.0,
    "l1_cost": 300.0,
    "overlap_cost": 100.0,
    "freeze_norm": True,
    "num_denoising": 0,
    "label_noise": 1.0,
    "box_noise": 0.1,
    "distillation_weight": 0.1,
    "matching_union": False,
    "late_matching": 0.9,
    "group_detr": 2,
    "mask_weight": 0.5,
    "dice_weight": 0.5,
    "mask_cost": 500.0,
    "dice_cost": 500.0,
    "mask_point_ratio": 4,
}


def settings_of(family: str) -> tuple[str, list[str]]:
    """Key of a family's settings and the names of its fields."""
    spec = HOST.get(ModelSpec, DETRS[family].spec)
    return spec.settings_key, list(type(spec.settings()).model_fields)


def detr_leaves() -> set[str]:
    """Keys of the settings of all DETR families."""
    found = [settings_of(family) for family in DETRS]
    return {f"model.{key}.{name}" for key, names in found for name in names}
