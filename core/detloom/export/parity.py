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
SAME_WHOLE = 0.02
"""Of the farthest side of a box that is not cut to the image."""

TIE = 1e-4
"""Of scores: which of two boxes that are nearer than this a family chooses is left to the last bits."""

ENOUGH_AGREEMENT = 0.99
"""Families that choose their boxes by score may give them in another order; then the detections decide."""

Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Difference:
    """See detloom_schemas.manifest.ParityCase; None: cannot be compared, or has no masks. paired: share of the surest
    boxes of the checkpoint that the file has too."""

    max_box_px: float | None
    max_score: float | None
    max_mask: float | None
    agreement: float
    detections: int
    paired: float = 1.0


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
        paired = 1.0  # who finds nothing is judged by the gate
    else:
        pairs = _pairs(ours, theirs, checkpoint.input_rule.size)
        box, score = (None, None) if pairs is None else _largest(ours, theirs, pairs)
        mask = None if pairs is None else _largest_of_masks(ours, theirs, pairs)
        paired = 0.0 if pairs is None else float(np.mean([np.mean(one.partner >= 0) for one in pairs]))
    return Difference(box, score, mask, float(np.mean(shares)), sum(len(one) for one in found), paired)


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


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Of one image. rows: [R] of the checkpoint's surest boxes; partner: [R] rows of the same boxes in the file, -1 for
    none; apart: [R] pixels to the partner, or to the nearest box."""

    rows: NDArray[np.int64]
    partner: NDArray[np.int64]
    apart: NDArray[np.float32]


def _pairs(ours: Raw, theirs: Raw, size: tuple[int, int]) -> list[_Pairs] | None:
    """The surest boxes of each image in both. None when the shapes differ or something is not finite.

    Rows need not be the same: families that choose their boxes by score give tied ones in any order. Boxes are
    compared inside the network input (height, width), as detections leave: the side of a box that an untrained model
    decodes may have thousands of pixels, of which the last bits are several.
    """
    if ours.boxes.shape != theirs.boxes.shape or ours.scores.shape != theirs.scores.shape:
        return None
    surest = _surest(ours)
    sure = np.take_along_axis(ours.boxes, surest[..., None], 1)
    if not all(np.isfinite(values).all() for values in (sure, ours.scores, theirs.scores)):
        return None  # clipping would hide it
    corner = np.array([size[1], size[0]] * 2, dtype=np.float32)
    return [
        _pairs_of_one(rows, mine, other, scores[rows], other_scores, corner)
        for rows, mine, other, scores, other_scores in zip(
            surest, sure, theirs.boxes, ours.scores, theirs.scores, strict=True
        )
    ]


def _pairs_of_one(
    rows: NDArray[np.int64],
    mine: NDArray[np.float32],
    other: NDArray[np.float32],
    scores: NDArray[np.float32],
    other_scores: NDArray[np.float32],
    corner: NDArray[np.float32],
) -> _Pairs:
    """mine: [R, 4] and scores: [R, C] of the rows; other: [N, 4] and other_scores: [N, C] of all; corner: [4]."""
    apart = _apart(np.clip(mine, 0, corner), np.clip(other, 0, corner))
    far = np.abs(scores.max(axis=1)[:, None] - other_scores.max(axis=1))
    far += scores.argmax(axis=1)[:, None] != other_scores.argmax(axis=1)
    # Cut to the image, several boxes may be one: whole, they are told apart.
    whole = _apart(mine, other) / (1 + np.abs(mine).max(axis=1, keepdims=True))
    same = (apart <= SAME_PX) & (whole <= SAME_WHOLE)
    best = np.where(same, far + whole, np.inf).argmin(axis=1)
    index = np.arange(len(rows))
    has = same[index, best]
    return _Pairs(rows, np.where(has, best, -1), np.where(has, apart[index, best], apart.min(axis=1)))


def _apart(mine: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """[R, 4] and [N, 4]. Returns [R, N]: the largest difference of a side, infinite for what is no number."""
    apart: NDArray[np.float32] = np.abs(mine[:, None] - other).max(axis=2)
    return np.where(np.isnan(apart), np.float32(np.inf), apart)


def _largest(ours: Raw, theirs: Raw, pairs: Sequence[_Pairs]) -> tuple[float | None, float]:
    """Of boxes (None when one is no number) and of scores. A box without a partner counts, unless it is tied with what
    the file left out."""
    box = score = 0.0
    for one, scores, other in zip(pairs, ours.scores, theirs.scores, strict=True):
        alone = one.partner < 0
        excused = alone & (scores[one.rows].max(axis=1) <= other.max(axis=1).min() + TIE)
        box = max(box, float(one.apart[~excused].max(initial=0.0)))
        step = np.abs(scores[one.rows][~alone] - other[one.partner[~alone]])
        order = np.abs(np.sort(scores.max(axis=1)) - np.sort(other.max(axis=1)))  # whatever stands in which row
        score = max(score, float(step.max(initial=0.0)), float(order.max(initial=0.0)))
    return (box if np.isfinite(box) else None), score


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


def _largest_of_masks(ours: Raw, theirs: Raw, pairs: Sequence[_Pairs]) -> float | None:
    """Of probabilities, not of logits: far from 0 a logit says nothing. None when they cannot be compared."""
    if ours.masks is None or theirs.masks is None or ours.masks.shape != theirs.masks.shape:
        return None
    worst = 0.0
    for one, ours_here, theirs_here in zip(pairs, ours.masks, theirs.masks, strict=True):  # they are large
        both = one.partner >= 0
        mine, other = ours_here[one.rows[both]], theirs_here[one.partner[both]]
        worst = max(worst, float(np.abs(_sigmoid(mine) - _sigmoid(other)).max(initial=0.0)))
        if not np.isfinite(mine).all() or not np.isfinite(other).all():
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
