"""Named sets of values: above a family's recipe, below whatever the user writes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

PRESETS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        # The values of the fine-tuning plan for DETR families: EMA, layer-wise decay, hard clipping, focal and CIoU.
        "plan": {
            "training.use_ema": True,
            "training.ema_decay": 0.9999,
            "training.use_llrd": True,
            "training.llrd_decay": 0.9,
            "training.gradient_clip": 0.1,
            "training.multi_scale": True,
            "training.scale_min": 480,
            "training.scale_max": 800,
            "loss.classification": "focal",
            "loss.focal.gamma": 2.0,
            "loss.focal.alpha": 0.25,
            "loss.box": "ciou",
            "loss.classification_weight": 1.0,
            "loss.box_weight": 5.0,
        },
    }
)
