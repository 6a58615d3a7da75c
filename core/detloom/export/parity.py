# ruff: noqa: TID253
"""The same images through a checkpoint and through an exported file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detloom.data.masks import rle_iou
from detloom.geometry import Detections
from detloom.prediction import Predictor, Raw

SUREST = 100
"""Boxes of an image that are compared one by one: far below, boxes mean nothing and their sides may be huge."""
SAME_IOU, SAME_SCORE = 0.9, 0.01

Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Difference:
    """See detloom_schemas.manifest.ParityCase; None: cannot be compared, or has no masks."""

    max_box_px: float | None
    max_score: float | None
    max_mask: float | None
    agreement: float
    detections: int


def compare(checkpoint: Predictor, exported: Predictor, images: Images) -> Difference:
    """One batch, whole where the file takes it."""
    ours, theirs = decode_all(checkpoint, images), decode_all(exported, images)
    found, exported_found = checkpoint.predict(images), exported.predict(images)
    box, score = _largest(ours, theirs, checkpoint.input_rule.size)
    mask = _largest_of_masks(ours, theirs)
    shares = [_agreement(a, b) for a, b in zip(found, exported_found, strict=True)]
    return Difference(box, score, mask, float(np.mean(shares)), sum(len(one) for one in found))


def decode_all(predictor: Predictor, images: Images) -> Raw:
    """Predictor.decode for any number of images."""
    step = predictor.runtime.batch_limit or len(images)
    parts = [predictor.decode(images[start : start + step]) for start in range(0, len(images), step)]
    masks = [part.masks for part in parts if part.masks is not None]
    return Raw(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate(masks) if masks else None,
    )


def _largest(ours: Raw, theirs: Raw, size: tuple[int, int]) -> tuple[float | None, float | None]:
    """None when the shapes differ or a difference is not finite.

    Boxes are compared inside the network input (height, width), as detections leave: the side of a box that an
    untrained model decodes may have thousands of pixels, of which the last bits are several.
    """
    if ours.boxes.shape != theirs.boxes.shape or ours.scores.shape != theirs.scores.shape:
        return None, None
    order = _surest(ours)[..., None]
    mine, other = np.take_along_axis(ours.boxes, order, 1), np.take_along_axis(theirs.boxes, order, 1)
    if not (np.isfinite(mine).all() and np.isfinite(other).all()):
        return None, None  # clipping would hide it
    corner = np.array([size[1], size[0]] * 2, dtype=np.float32)
    box = np.abs(np.clip(mine, 0, corner) - np.clip(other, 0, corner)).max()
    score = np.abs(ours.scores - theirs.scores).max()
    return (float(box) if np.isfinite(box) else None), (float(score) if np.isfinite(score) else None)


def _surest(raw: Raw) -> NDArray[np.int64]:
    """[B, up to SUREST] rows of the boxes with the highest scores."""
    return np.argsort(-raw.scores.max(axis=2), axis=1, kind="stable")[:, :SUREST]


def _largest_of_masks(ours: Raw, theirs: Raw) -> float | None:
    """Of probabilities, not of logits: far from 0 a logit says nothing. None when they cannot be compared."""
    if ours.masks is None or theirs.masks is None or ours.masks.shape != theirs.masks.shape:
        return None
    worst = 0.0
    for rows, mine, other in zip(
        _surest(ours), ours.masks, theirs.masks, strict=True
    ):  # image by image: they are large
        worst = max(worst, float(np.abs(_sigmoid(mine[rows]) - _sigmoid(other[rows])).max(initial=0.0)))
        if not np.isfinite(mine[rows]).all() or not np.isfinite(other[rows]).all():
            return None
    return worst


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), dtype=np.float32)


def _agreement(ours: Detections, theirs: Detections) -> float:
    """Share of the detections of either that have a partner in the other, of the same class, with nearly the same box,
    score and mask; 1 without detections."""
    total = len(ours) + len(theirs)
    if total == 0:
        return 1.0
    same = (ours.labels[:, None] == theirs.labels[None, :]) & (_iou(ours.boxes, theirs.boxes) >= SAME_IOU)
    same &= np.abs(ours.scores[:, None] - theirs.scores[None, :]) <= SAME_SCORE
    if ours.masks is not None and theirs.masks is not None:
        for mine, other in np.argwhere(same).tolist():
            same[mine, other] = _same_mask(ours.masks[mine], theirs.masks[other])
    return float(same.any(axis=1).sum() + same.any(axis=0).sum()) / total


def _same_mask(mine: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Equal ones may both be empty, and have no overlap."""
    return mine == other or rle_iou(mine, other) >= SAME_IOU


def _iou(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    """[N, 4] and [M, 4] xyxy. Returns [N, M]."""
    a, b = ours.astype(np.float64)[:, None], theirs.astype(np.float64)[None, :]
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    shared = sides.prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared
    result: NDArray[np.float64] = shared / np.maximum(union, 1e-9)
    return result
