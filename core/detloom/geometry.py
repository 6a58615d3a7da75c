"""How an image becomes a network input, and how raw predictions become detections: rules as data.

Both rules are stored with every checkpoint and export, so that whoever runs the file needs nothing else.
"""
# ruff: noqa: TID253

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray

Resize = Literal["letterbox", "stretch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRule:
    """From an image of any size to the network input.

    size: (height, width) in pixels. letterbox: scaled by one factor, placed at the top left, the rest filled with
    pad_value; stretch: height and width scaled apart. The network then computes (pixel * scale - mean) / std on
    channels in the given order; that last step is inside the model, also in every exported file.
    """

    size: tuple[int, int]
    resize: Resize = "letterbox"
    pad_value: int = 114
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def ratios(self, original: tuple[int, int]) -> tuple[float, float]:
        """Factors (y, x) from original (height, width) to network input."""
        y, x = self.size[0] / original[0], self.size[1] / original[1]
        return (min(y, x), min(y, x)) if self.resize == "letterbox" else (y, x)

    def content_size(self, original: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that the picture itself takes inside the network input."""
        y, x = self.ratios(original)
        # 11 * (480 / 11) is 479.99...: a side that fills the input must not lose its last pixel.
        height = min(max(int(original[0] * y + 1e-6), 1), self.size[0])
        width = min(max(int(original[1] * x + 1e-6), 1), self.size[1])
        return height, width

    def resize_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """image: uint8 [H, W, 3]. Returns uint8 [h, w, 3], resized and not yet padded."""
        height, width = self.content_size(image.shape[:2])
        if (height, width) == image.shape[:2]:
            return image
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, dtype=np.uint8)

    def pad(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Fill up to `size` at the bottom and the right. Returns uint8 [size[0], size[1], 3]."""
        height, width = image.shape[:2]
        if (height, width) == self.size:
            return image
        canvas = np.full((*self.size, 3), self.pad_value, dtype=np.uint8)
        canvas[:height, :width] = image
        return canvas

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """image: uint8 RGB [H, W, 3]. Returns uint8 RGB [size[0], size[1], 3]."""
        return self.pad(self.resize_image(image))

    def boxes_to_input(self, boxes: NDArray[np.floating[Any]], original: tuple[int, int]) -> NDArray[np.float32]:
        """boxes: [N, 4] xyxy in pixels of the original image. Returns float32 in pixels of the network input."""
        y, x = self.ratios(original)
        return np.asarray(boxes * np.array([x, y, x, y]), dtype=np.float32)

    def boxes_to_image(self, boxes: NDArray[np.floating[Any]], original: tuple[int, int]) -> NDArray[np.float32]:
        """The way back, clipped to the original image."""
        y, x = self.ratios(original)
        restored = boxes / np.array([x, y, x, y])
        limit = np.array([original[1], original[0], original[1], original[0]])
        return np.asarray(np.clip(restored, 0, limit), dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        fields = dict(values)
        for name in ("size", "mean", "std"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostRule:
    """From decoded boxes and scores to detections.

    nms: one class a box (its best), class-wise suppression; topk: the best (box, class) pairs, no suppression.
    candidates: boxes that enter the suppression, best first.
    """

    kind: Literal["nms", "topk"]
    score_threshold: float = 0.01
    nms_threshold: float = 0.65
    max_detections: int = 100
    candidates: int = 3000

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Detections:
    """What was found in one image, best first.

    boxes: float32 [N, 4] xyxy in pixels; scores: float32 [N] in 0..1; labels: int64 [N] class indices;
    masks: one COCO RLE a detection, or None for a detector of boxes.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: tuple[Mapping[str, Any], ...] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> Detections:
        """Those with at least this score."""
        keep = self.scores >= score
        masks = None if self.masks is None else tuple(m for m, k in zip(self.masks, keep, strict=True) if k)
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], masks)


MaskRows = Callable[[int, NDArray[np.int64]], NDArray[np.float32]]
"""(number of the image in the batch, chosen rows [K]) to their mask logits [K, h, w] over the whole network input."""


def finish(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    sizes: Sequence[tuple[int, int]],
    input_rule: InputRule,
    rule: PostRule,
    masks: MaskRows | None = None,
) -> list[Detections]:
    """From decoded arrays to detections in original pixels; shared by all runtimes.

    boxes: [B, N, 4] xyxy in pixels of the network input; scores: [B, N, C] in 0..1; sizes: original (height, width)
    of each image; masks: None for a detector of boxes. Only the masks of kept detections are asked for, image by
    image. Raises DetloomError for mask logits that are not numbers.
    """
    found: list[Detections] = []
    for number, (image_boxes, image_scores, size) in enumerate(zip(boxes, scores, sizes, strict=True)):
        rows, kept = choose(image_boxes, image_scores, rule)
        restored = input_rule.boxes_to_image(kept.boxes, size)
        rles = None if masks is None else _rles(masks(number, rows), input_rule, size)
        found.append(Detections(restored, kept.scores, kept.labels, rles))
    return found


def _rles(logits: NDArray[np.float32], input_rule: InputRule, size: tuple[int, int]) -> tuple[Mapping[str, Any], ...]:
    from detloom.mask_logits import masks_to_image  # detectors of boxes need none of its imports

    return masks_to_image(logits, input_rule, size)


def postprocess(boxes: NDArray[np.float32], scores: NDArray[np.float32], rule: PostRule) -> Detections:
    """One image. boxes: [N, 4] xyxy; scores: [N, C] in 0..1. Returns detections in the same pixels as `boxes`."""
    return choose(boxes, scores, rule)[1]


def choose(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], rule: PostRule
) -> tuple[NDArray[np.int64], Detections]:
    """As `postprocess`; also the row of `boxes` that each detection comes from, int64 [K].

    Scores that are not numbers are no detections. Boxes that are not numbers stay: they suppress nothing, and whoever
    takes the detections sees that the model is broken.
    """
    if rule.kind == "topk":
        return _best_pairs(boxes, scores, rule)
    best = scores.max(axis=1, initial=0.0)
    keep = np.flatnonzero(best > rule.score_threshold)
    # A stable order: equal scores keep the order of the network's outputs in every runtime.
    keep = keep[np.argsort(-best[keep], kind="stable")][: rule.candidates]
    labels = scores[keep].argmax(axis=1).astype(np.int64) if len(keep) else np.zeros(0, np.int64)
    chosen = nms(boxes[keep], labels, rule.nms_threshold, rule.max_detections)
    rows = keep[chosen]
    return rows, Detections(boxes[rows], best[rows], labels[chosen])


def nms(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], threshold: float, max_detections: int
) -> NDArray[np.int64]:
    """Greedy suppression within each class. boxes: [N, 4] xyxy, best first. Returns the rows that stay, best first.

    Stops at max_detections: of thousands of candidates only that many are ever compared with the rest. Classes are
    compared by label and not, as is common, by shifting their boxes apart, which fails for boxes outside the image.
    """
    kept: list[int] = []
    with np.errstate(invalid="ignore", over="ignore"):  # boxes that are not finite suppress nothing
        left, top, right, bottom = np.ascontiguousarray(boxes.T, dtype=np.float64)
        areas = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
        rows = np.arange(len(boxes), dtype=np.int64)
        while len(rows) and len(kept) < max_detections:
            first, rest = rows[0], rows[1:]
            kept.append(int(first))
            same = rest[labels[rest] == labels[first]]
            width = np.minimum(right[first], right[same]) - np.maximum(left[first], left[same])
            height = np.minimum(bottom[first], bottom[same]) - np.maximum(top[first], top[same])
            shared = np.maximum(width, 0) * np.maximum(height, 0)
            weaker = same[shared > threshold * (areas[first] + areas[same] - shared)]
            rows = np.setdiff1d(rest, weaker, assume_unique=True) if len(weaker) else rest
    return np.array(kept, dtype=np.int64)


def _best_pairs(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], rule: PostRule
) -> tuple[NDArray[np.int64], Detections]:
    flat = scores.reshape(-1)
    pairs = np.flatnonzero(flat > rule.score_threshold)
    pairs = pairs[np.argsort(-flat[pairs], kind="stable")][: rule.max_detections]
    rows = (pairs // scores.shape[1]).astype(np.int64)
    return rows, Detections(boxes[rows], flat[pairs], (pairs % scores.shape[1]).astype(np.int64))
