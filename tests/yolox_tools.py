"""Builds YOLOX detectors for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from detloom.detector import Targets
from detloom.specs import ModelContext
from detloom_plugins.losses import bce, iou
from detloom_plugins.models import yolox
from detloom_plugins.models._coco_names import COCO_NAMES
from detloom_plugins.models.yolox.detector import YoloxDetector
from detloom_plugins.models.yolox.settings import YoloxSettings
from detloom_schemas.base import Settings

LOSSES = {"classification": bce.build(Settings()), "box": iou.build(Settings())}
VARIANTS = {variant.name: variant for variant in yolox.VARIANTS}


def build(
    name: str = "nano",
    classes: Sequence[str] = COCO_NAMES,
    size: tuple[int, int] = (64, 96),
    settings: YoloxSettings | None = None,
    **context: object,
) -> YoloxDetector:
    values = {"losses": LOSSES, **context}
    return yolox.build(VARIANTS[name], settings or YoloxSettings(), ModelContext(tuple(classes), size, **values))


def targets_from_labels(labels: np.ndarray) -> Targets:
    """labels: [B, G, 5] as class, cx, cy, w, h; zeros where padded."""
    values = torch.from_numpy(labels)
    centre, side = values[..., 1:3], values[..., 3:5]
    there = values.sum(-1) > 0
    boxes = torch.cat((centre - side / 2, centre + side / 2), dim=-1)
    return Targets(boxes, torch.where(there, values[..., 0].long(), -1))
