"""Evaluation of detections: the 12 COCO numbers, per class and per image. Heavy: import it inside functions."""

from __future__ import annotations

from detloom.evaluate.coco import (
    evaluate_coco_files,
    evaluate_detections,
    evaluate_with_masks,
    rank_images,
    referee,
    to_coco_results,
)
from detloom.evaluate.confusion import cells_of, confusion_matrix
from detloom.evaluate.evaluator import COCOEvaluator, PassOptions
from detloom.evaluate.matching import ImageScore, best_and_worst
from detloom.evaluate.meter import APMeter
from detloom.evaluate.results import METRICS, SEGM, ClassResult, Evaluation

__all__ = [
    "METRICS",
    "SEGM",
    "APMeter",
    "COCOEvaluator",
    "ClassResult",
    "Evaluation",
    "ImageScore",
    "PassOptions",
    "best_and_worst",
    "cells_of",
    "confusion_matrix",
    "evaluate_coco_files",
    "evaluate_detections",
    "evaluate_with_masks",
    "rank_images",
    "referee",
    "to_coco_results",
]
