"""A small AP meter: boxes in, AP at one IoU out, without a dataset."""
# ruff: noqa: TID253

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detloom.evaluate.columns import Found, Truth
from detloom.evaluate.matching import IGNORED, TRUE, match
from detloom.geometry import Detections


class APMeter:
    """AP at one IoU, as the area under the exact precision-recall curve with monotone precision (Everingham et al.,
    VOC 2010), for quick looks where no split exists. The numbers that a run reports come from `evaluate_detections`.
    """

    def __init__(self, classes: int, iou: float = 0.5) -> None:
        self.classes = classes
        self.iou = iou
        self._images: list[tuple[Detections, NDArray[np.float64], NDArray[np.int64]]] = []

    def update(self, found: Detections, boxes: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
        """One image. boxes: truth [N, 4] xyxy in the pixels of the detections; labels: [N] class indices."""
        truth = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        self._images.append((found, truth, np.asarray(labels, dtype=np.int64)))

    def reset(self) -> None:
        self._images.clear()

    def compute(self) -> dict[str, float | list[float | None]]:
        """`AP`: mean over the classes that have truth (0.0 when none has); `per_class`: None without truth."""
        truth, found = self._columns()
        outcome = match(truth, found, iou=self.iou)
        per_class: list[float | None] = []
        for index in range(self.classes):
            mine = (found.label == index) & (outcome != IGNORED)
            order = np.argsort(-found.scores[mine], kind="stable")
            per_class.append(_area(outcome[mine][order] == TRUE, int((truth.label == index).sum())))
        present = [value for value in per_class if value is not None]
        return {"AP": float(np.mean(present)) if present else 0.0, "per_class": list(per_class)}

    def _columns(self) -> tuple[Truth, Found]:
        images = self._images
        boxes = np.concatenate([truth for _, truth, _ in images]) if images else np.zeros((0, 4))
        labels = [labels for _, _, labels in images]
        truth = Truth(
            image=np.repeat(np.arange(len(images)), [len(part) for part in labels]),
            label=np.concatenate(labels) if images else np.zeros(0, dtype=np.int64),
            boxes=_xywh(boxes),
            area=np.zeros(len(boxes)),
            crowd=np.zeros(len(boxes), dtype=np.bool_),
            rles=None,
            sizes=(),
        )
        parts = [found for found, _, _ in images]
        found = Found(
            image=np.repeat(np.arange(len(images)), [len(part) for part in parts]),
            label=np.concatenate([part.labels for part in parts]) if parts else np.zeros(0, dtype=np.int64),
            boxes=_xywh(np.concatenate([part.boxes for part in parts]) if parts else np.zeros((0, 4))),
            scores=np.concatenate([part.scores for part in parts]).astype(np.float64) if parts else np.zeros(0),
            rles=None,
        )
        return truth, found


def _xywh(xyxy: NDArray[np.floating]) -> NDArray[np.float64]:
    boxes = np.asarray(xyxy, dtype=np.float64).copy()
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _area(hits: NDArray[np.bool_], truths: int) -> float | None:
    if truths == 0:
        return None
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    best_to_the_right = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_to_the_right[hits].sum() / truths)
