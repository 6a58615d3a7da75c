# ruff: noqa: TID253
"""The same images through a checkpoint and through an exported file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detloom.data.masks import rle_iou
from detloom.geometry import Detections, PostRule
from detloom.prediction import Predictor, Raw

SUREST = 100
"""Boxes of an image that are compared one by one: far below, boxes mean nothing and their sides may be huge."""
SAME_IOU, SAME_PX, SAME_SCORE = 0.9, 0.5, 0.01

ENOUGH_AGREEMENT = 0.99
"""Families that choose their boxes by score may give them in another order; then the detections decide."""

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
    shares = [_agreement(a, b) for a, b in zip(found, exported_found, strict=True)]
    box: float | None
    score: float | None
    if exported.manifest is not None and exported.manifest.finished:
        # The file gives detections alone: those are compared, one by one. Their masks are part of the agreement.
        box, score = _largest_of_detections(found, exported_found, checkpoint.post_rule)
        mask = 0.0 if ours.masks is not None and min(shares) >= ENOUGH_AGREEMENT else None
    else:
        box, score = _largest(ours, theirs, checkpoint.input_rule.size)
        mask = _largest_of_masks(ours, theirs)
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


def _largest_of_detections(
    ours: Sequence[Detections], theirs: Sequence[Detections], rule: PostRule
) -> tuple[float, float]:
    """Between each detection of either and its nearest in the other, of the same class and nearly the same box.

    One without such a partner counts by how far its score lies above what would have been left out: the threshold, or
    the last of a full list.
    """
    box, score = 0.0, 0.0
    for mine, other in zip(ours, theirs, strict=True):
        for first, second in ((mine, other), (other, mine)):
            full = len(second) == rule.max_detections
            floor = float(second.scores.min()) if full else rule.score_threshold
            same = (first.labels[:, None] == second.labels) & _same_box(first.boxes, second.boxes)
            alone = ~same.any(axis=1)
            score = max(score, float((first.scores[alone] - floor).max(initial=0.0)))
            apart = np.abs(first.boxes[:, None] - second.boxes).max(axis=2, initial=0.0)
            step = np.abs(first.scores[:, None] - second.scores)
            if not alone.all():
                box = max(box, float(np.where(same, apart, np.inf)[~alone].min(axis=1).max()))
                score = max(score, float(np.where(same, step, np.inf)[~alone].min(axis=1).max()))
    return box, score


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
    same = (ours.labels[:, None] == theirs.labels[None, :]) & _same_box(ours.boxes, theirs.boxes)
    same &= np.abs(ours.scores[:, None] - theirs.scores[None, :]) <= SAME_SCORE
    if ours.masks is not None and theirs.masks is not None:
        for mine, other in np.argwhere(same).tolist():
            same[mine, other] = _same_mask(ours.masks[mine], theirs.masks[other])
    return float(same.any(axis=1).sum() + same.any(axis=0).sum()) / total


def _same_mask(mine: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Equal ones may both be empty, and have no overlap."""
    return mine == other or rle_iou(mine, other) >= SAME_IOU


def _same_box(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[N, 4] and [M, 4] xyxy. Returns [N, M]: by their overlap, or by their sides: cut to the image, a box may have no
    area left."""
    near = np.abs(ours[:, None] - theirs[None]).max(axis=2, initial=0.0) <= SAME_PX
    return np.asarray((_iou(ours, theirs) >= SAME_IOU) | near, dtype=np.bool_)


def _iou(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    """[N, 4] and [M, 4] xyxy. Returns [N, M]."""
    a, b = ours.astype(np.float64)[:, None], theirs.astype(np.float64)[None, :]
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    shared = sides.prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared
    result: NDArray[np.float64] = shared / np.maximum(union, 1e-9)
    return result
