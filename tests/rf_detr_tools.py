"""Small RF-DETR detectors, and pictures with masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detloom.detector import Targets
from detloom.specs import ModelContext
from detloom_plugins.models import rf_detr
from detloom_plugins.models.rf_detr.detector import RfDetrDetector
from detloom_plugins.models.rf_detr.variants import Backbone, Variant
from detr_tools import COLOURS, Family

SETTINGS = {"num_queries": 20, "group_detr": 3}
EYES = Backbone(patch=8, windows=2, table_px=96, features=(1, 3), blocks=3, heads=4, width=64)
BOXES = Variant("tiny", 96, EYES, layers=2, parameters="", width=64, ffn=128, self_heads=4, cross_heads=4)
MASKS = Variant("seg-tiny", 96, EYES, 2, "", masks=True, width=64, ffn=128, self_heads=4, cross_heads=4)


def _build(variant: Variant, settings: Any, context: ModelContext) -> RfDetrDetector:
    return rf_detr.build(variant, settings, context)


FAMILY = Family("rf_detr-nano", lambda s, c: _build(BOXES, s, c), SETTINGS, (96, 96), wide=(96, 144))
SEG_FAMILY = Family("rf_detr-seg-nano", lambda s, c: _build(MASKS, s, c), SETTINGS, (96, 96), wide=(96, 144))


def ellipses(
    size: tuple[int, int] = (96, 96), objects: Sequence[int] = (2, 2), seed: int = 0
) -> tuple[Tensor, Targets]:
    """Images with coloured ellipses on grey noise, a colour a class: their masks fill 79 % of their boxes."""
    rng = np.random.default_rng(seed)
    height, width = size
    most = max(1, *objects)
    images = rng.integers(90, 150, (len(objects), 3, height, width)).astype(np.uint8)
    boxes, labels = np.zeros((len(objects), most, 4), np.float32), np.full((len(objects), most), -1)
    masks = np.zeros((len(objects), most, height, width), np.uint8)
    y, x = np.mgrid[:height, :width] + 0.5
    for image, count in enumerate(objects):
        cells = rng.permutation(4)
        for row in range(count):
            h, w = rng.integers(height // 4, height // 2 - 4), rng.integers(width // 4, width // 2 - 4)
            top = cells[row] // 2 * height // 2 + rng.integers(0, height // 2 - h)
            left = cells[row] % 2 * width // 2 + rng.integers(0, width // 2 - w)
            mask = ((y - top - h / 2) / (h / 2)) ** 2 + ((x - left - w / 2) / (w / 2)) ** 2 <= 1
            label = (image + row) % len(COLOURS)
            images[image][:, mask] = np.array(COLOURS[label], np.uint8)[:, None]
            boxes[image, row], labels[image, row] = (left, top, left + w, top + h), label
            masks[image, row] = mask
    return torch.from_numpy(images), Targets(torch.from_numpy(boxes), torch.from_numpy(labels), torch.from_numpy(masks))
