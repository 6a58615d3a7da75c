"""COCO's greedy matching at one IoU: the exact counts behind thresholds, F1 and the ranking of images."""
# ruff: noqa: TID253

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from detloom.evaluate.columns import Found, Ints, Truth

IGNORED, FALSE, TRUE = -1, 0, 1
Outcome = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The score threshold with the best F1, and what is measured there."""

    threshold: float = 0.0
    precision: float = 0.0
    recall: float = 0.0
    f1: float = 0.0


def match(truth: Truth, found: Found, *, iou: float = 0.5, max_detections: int = 100) -> Outcome:
    """int8 [detections]: TRUE, FALSE, or IGNORED (lies in a crowd, or past the cap of its image and class).

    Best scores choose first; a detection takes the free object of its class that it overlaps most, else it may fall
    into a crowd, any number of detections into one (as in COCOeval.evaluateImg).
    """
    classes = int(max(truth.label.max(initial=0), found.label.max(initial=0))) + 1
    truth_key, found_key = truth.image * classes + truth.label, found.image * classes + found.label
    kept = _within_cap(found, found_key, max_detections)
    outcome = np.where(kept, FALSE, IGNORED).astype(np.int8)

    # Every pair of the same image and class; crowds last: COCO prefers any real object to a crowd.
    truth_order = np.lexsort((truth.crowd, truth_key))
    keys, first, count = np.unique(truth_key[truth_order], return_index=True, return_counts=True)
    place = np.minimum(np.searchsorted(keys, found_key), len(keys) - 1)
    paired = np.flatnonzero(kept & (keys[place] == found_key)) if len(keys) else np.zeros(0, dtype=np.int64)
    first, count = first[place[paired]], count[place[paired]]
    rows = np.repeat(paired, count)
    offsets = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    objects = truth_order[np.repeat(first, count) + offsets]

    overlaps = pair_overlaps(truth, found, objects, rows)
    near = np.flatnonzero(overlaps >= iou)
    near = near[np.argsort(-found.scores[rows[near]], kind="stable")]
    for row, target in _choose(rows[near], objects[near], overlaps[near], truth.crowd).items():
        outcome[row] = IGNORED if truth.crowd[target] else TRUE
    return outcome


def _within_cap(found: Found, key: Ints, cap: int) -> NDArray[np.bool_]:
    """False for detections past the first `cap` of their image and class, best scores first."""
    kept = np.ones(len(found), dtype=np.bool_)
    rows = np.flatnonzero(np.bincount(found.image)[found.image] > cap) if len(found) else np.zeros(0, dtype=np.int64)
    if len(rows):
        rows = rows[np.lexsort((-found.scores[rows], key[rows]))]
        place = np.arange(len(rows)) - np.searchsorted(key[rows], key[rows])
        kept[rows[place >= cap]] = False
    return kept


def _choose(rows: Ints, objects: Ints, overlaps: NDArray[np.float64], crowd: NDArray[np.bool_]) -> dict[int, int]:
    """Object by detection. The pairs of a detection come together, best score first, crowds last among them.

    Few pairs overlap enough to get here, so that a plain loop is fast and can follow COCO to the letter.
    """
    taken: set[int] = set()
    chosen: dict[int, int] = {}
    is_crowd = crowd.tolist()
    previous, best = -1, 0.0
    for row, target, overlap in zip(rows.tolist(), objects.tolist(), overlaps.tolist(), strict=True):
        if row != previous:
            # The row before has made its choice; a crowd can be chosen again.
            if previous in chosen and not is_crowd[chosen[previous]]:
                taken.add(chosen[previous])
            previous, best = row, 0.0
        if target in taken or (row in chosen and is_crowd[target] and not is_crowd[chosen[row]]):
            continue
        # Equal overlaps: the later object wins, as in COCO.
        if overlap >= best:
            best, chosen[row] = overlap, target
    return chosen


def pair_overlaps(truth: Truth, found: Found, objects: Ints, rows: Ints) -> NDArray[np.float64]:
    """IoU of the pairs; for a crowd the share of the detection inside it."""
    if found.rles is not None and truth.rles is not None:
        return _mask_overlaps(truth, found, objects, rows)
    a, b = found.boxes[rows], truth.boxes[objects]
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    own = a[:, 2] * a[:, 3]
    union = np.where(truth.crowd[objects], own, own + b[:, 2] * b[:, 3] - shared)
    overlaps: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlaps


def _mask_overlaps(truth: Truth, found: Found, objects: Ints, rows: Ints) -> NDArray[np.float64]:
    from hotcoco.mask import iou

    assert found.rles is not None and truth.rles is not None
    values = np.zeros(len(rows))
    edges = np.flatnonzero(np.diff(rows, prepend=-1, append=-1)) if len(rows) else np.zeros(0, dtype=np.int64)
    for start, stop in pairwise(edges.tolist()):
        masks = [dict(truth.rles[target]) for target in objects[start:stop].tolist()]
        crowd = truth.crowd[objects[start:stop]]
        values[start:stop] = iou([dict(found.rles[int(rows[start])])], masks, crowd)[0]
    return values


def operating_points(found: Found, outcome: Outcome, truths: Ints) -> tuple[OperatingPoint, list[OperatingPoint]]:
    """The best threshold for all classes together, and for each. truths: int64 [classes], objects but not crowds."""
    by_score = np.argsort(-found.scores, kind="stable")
    # Small integers are sorted by radix: much faster for many detections.
    labels = found.label[by_score].astype(np.min_scalar_type(len(truths)))
    by_class = by_score[np.argsort(labels, kind="stable")]
    ends = np.cumsum(np.bincount(labels, minlength=len(truths))).tolist()
    scores, outcomes = found.scores[by_class], outcome[by_class]
    single = [
        _best(scores[start:end], outcomes[start:end], count)
        for start, end, count in zip([0, *ends[:-1]], ends, truths.tolist(), strict=True)
    ]
    return _best(found.scores[by_score], outcome[by_score], int(truths.sum())), single


def _best(scores: NDArray[np.float64], outcome: Outcome, truths: int) -> OperatingPoint:
    """scores: descending, with the outcome of each."""
    counted = outcome != IGNORED
    scores = scores[counted]
    if truths == 0 or len(scores) == 0:
        return OperatingPoint()
    hits = np.cumsum(outcome[counted] == TRUE)
    # A threshold lets in every detection of that score: only the last of equal scores is a choice.
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True))
    chosen = hits[last]
    f1 = 2 * chosen / (last + 1 + truths)
    best = int(np.argmax(f1))
    if chosen[best] == 0:
        return OperatingPoint()
    return OperatingPoint(
        threshold=float(scores[last[best]]),
        precision=float(chosen[best] / (last[best] + 1)),
        recall=float(chosen[best] / truths),
        f1=float(f1[best]),
    )


@dataclass(frozen=True, slots=True)
class ImageScore:
    """One image at a score threshold and IoU 0.5. position: in split.images; hits, false_alarms, misses: objects
    found, detections without object, objects not found."""

    position: int
    hits: int
    false_alarms: int
    misses: int

    @property
    def f1(self) -> float:
        """1.0 for an empty image in which nothing was found."""
        total = 2 * self.hits + self.false_alarms + self.misses
        return 2 * self.hits / total if total else 1.0


def score_images(truth: Truth, found: Found, threshold: float) -> list[ImageScore]:
    """In the order of the columns' image numbers. The greedy choice goes by score, so that cutting at a threshold
    never changes the matches above it."""
    outcome = match(truth, found)
    shown = found.scores >= threshold
    images = len(truth.sizes)
    hits = np.bincount(found.image[shown & (outcome == TRUE)], minlength=images)
    alarms = np.bincount(found.image[shown & (outcome == FALSE)], minlength=images)
    misses = np.bincount(truth.image[~truth.crowd], minlength=images) - hits
    rows = zip(hits.tolist(), alarms.tolist(), misses.tolist(), strict=True)
    return [ImageScore(position, *row) for position, row in enumerate(rows)]


def best_and_worst(scores: Sequence[ImageScore], count: int) -> tuple[list[ImageScore], list[ImageScore]]:
    """Up to `count` good images (most found, nothing wrong) and as many bad ones; no image is in both."""
    by_badness = sorted(scores, key=lambda s: (s.f1, -(s.misses + s.false_alarms), s.position))
    bad = [s for s in by_badness if s.f1 < 1][:count]
    taken = {s.position for s in bad}
    by_goodness = sorted(scores, key=lambda s: (-s.f1, -s.hits, s.position))
    good = [s for s in by_goodness if s.position not in taken and s.hits][:count]
    return good, bad
