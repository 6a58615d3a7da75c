"""RF-DETR learns from random weights, boxes and masks, and what it learned survives averaging, saving and export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from detloom.detector import Targets
from detr_tools import Learned, build, check_learned, overfit, predict
from rf_detr_tools import FAMILY, SEG_FAMILY, ellipses


def mask_overlaps(learned: Learned) -> torch.Tensor:
    """[B, G]: of each object with the mask of the best prediction that lies on its box."""
    found = predict(learned.detector, learned.images)
    from pycocotools import mask as coco

    rows = []
    for detections, boxes, masks in zip(found, learned.targets.boxes, _masks(learned.targets), strict=True):
        assert detections.masks is not None
        best = [int(np.abs(detections.boxes[:2] - box.numpy()).sum(1).argmin()) for box in boxes]
        truth = [coco.encode(np.asfortranarray(mask.numpy())) for mask in masks]
        rows.append([float(coco.iou([detections.masks[b]], [t], [0])[0, 0]) for b, t in zip(best, truth, strict=True)])
    return torch.tensor(rows)


def _masks(targets: Targets) -> torch.Tensor:
    assert targets.masks is not None
    return targets.masks


def test_one_batch_is_learned_from_random_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learned = overfit(build(FAMILY), steps=300, lr=2e-3)
    check_learned(learned, lambda: build(FAMILY), tmp_path)


def test_one_batch_with_masks_is_learned_from_random_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learned = overfit(build(SEG_FAMILY), steps=220, lr=2e-3, batch=ellipses())
    check_learned(learned, lambda: build(SEG_FAMILY), tmp_path)
    overlaps = mask_overlaps(learned)
    assert overlaps.shape == (2, 2) and float(overlaps.min()) > 0.9, overlaps
    # An ellipse fills 79 % of its box: the masks are no boxes.
    assert float(overlaps.mean()) > 0.93
