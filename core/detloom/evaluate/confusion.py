"""What was taken for what: the confusion matrix of detections.

Every object and every detection of an image may meet, whatever their classes. Pairs that overlap enough are taken by
falling IoU, each object and each detection once: the order of kaanakan/object_detection_confusion_matrix, from which
YOLOv5 and its successors have theirs. COCO's order, best scores first, suits a class alone; across classes it would
give an object to a confident neighbour instead of to the box that lies on it, and report a confusion that is none. Two
things differ from that source: a detection whose object is gone may still take another one, and equal IoUs (one box
with two classes) are settled by the score instead of by chance.
"""
# ruff: noqa: TID253

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detloom.data.dataset import ClassMap, Split
from detloom.evaluate.columns import Found, Ints, Truth, found_columns, truth_columns
from detloom.evaluate.matching import pair_overlaps
from detloom.geometry import Detections


def confusion_matrix(
    split: Split,
    class_map: ClassMap,
    detections: Sequence[Detections],
    threshold: float,
    *,
    iou: float = 0.5,
    masks: bool = False,
) -> Ints:
    """int64 [classes + 1, classes + 1] of the detections with at least this score, in the order of split.images.

    Rows: the true class, then background (detections without an object, among them the second one on an object).
    Columns: the predicted class, then missed. A detection that lies in a crowd of any class, by at least `iou` of its
    own area, and has no object counts nowhere, and no crowd is ever missed. Raises like `evaluate_detections`.
    """
    truth = truth_columns(split, masks=masks)
    found = found_columns(split, class_map, detections, masks=masks)
    nothing = len(class_map)
    # What each object was taken for, and what each detection stands on.
    predicted = np.full(len(truth.label), nothing)
    actual = np.full(len(found), nothing)
    in_crowd = np.zeros(len(found), dtype=np.bool_)
    shown = np.flatnonzero(found.scores >= threshold)
    images = len(truth.sizes)
    objects_of = _by_image(truth.image, np.arange(len(truth.label)), images)
    for objects, rows in zip(objects_of, _by_image(found.image, shown, images), strict=True):
        pair_objects, pair_rows, is_crowd = _near_pairs(truth, found, objects, rows, iou)
        in_crowd[pair_rows[is_crowd]] = True
        for target, row in zip(pair_objects[~is_crowd].tolist(), pair_rows[~is_crowd].tolist(), strict=True):
            if predicted[target] == nothing and actual[row] == nothing:
                predicted[target], actual[row] = found.label[row], truth.label[target]
    counts = np.zeros((nothing + 1, nothing + 1), dtype=np.int64)
    np.add.at(counts, (truth.label[~truth.crowd], predicted[~truth.crowd]), 1)
    alarms = shown[(actual[shown] == nothing) & ~in_crowd[shown]]
    np.add.at(counts[nothing], found.label[alarms], 1)
    return counts


def _by_image(image: Ints, rows: Ints, images: int) -> list[Ints]:
    """The rows of each image, in their order."""
    ordered = rows[np.argsort(image[rows], kind="stable")]
    return np.split(ordered, np.searchsorted(image[ordered], np.arange(1, images)))


def _near_pairs(
    truth: Truth, found: Found, objects: Ints, rows: Ints, iou: float
) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Objects and detections of one image that overlap enough, by falling overlap, then score; and whether the object
    is a crowd."""
    pair_objects, pair_rows = np.tile(objects, len(rows)), np.repeat(rows, len(objects))
    overlaps = pair_overlaps(truth, found, pair_objects, pair_rows)
    order = np.lexsort((-found.scores[pair_rows], -overlaps))
    order = order[overlaps[order] >= iou]
    return pair_objects[order], pair_rows[order], truth.crowd[pair_objects[order]]


def cells_of(counts: Ints) -> tuple[tuple[int, int, int], ...]:
    """(row, column, count) of the counts above zero, as `evaluation.json` keeps them: of many classes most pairs never
    occur."""
    rows, columns = np.nonzero(counts)
    return tuple(zip(rows.tolist(), columns.tolist(), counts[rows, columns].tolist(), strict=True))
