"""Truth and detections of a split as columns of numbers: what every evaluator here takes."""
# ruff: noqa: TID253

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detloom.data.dataset import ClassMap, Split
from detloom.data.masks import box_rle
from detloom.errors import DataError, DetloomError
from detloom.geometry import Detections

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rle = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """image, label: int64 [N], 0-based; boxes: float64 [N, 4] xywh pixels; area: float64 [N]; crowd: bool [N]; rles:
    one COCO RLE an object when masks are evaluated. sizes: (width, height) of each image."""

    image: Ints
    label: Ints
    boxes: Floats
    area: Floats
    crowd: NDArray[np.bool_]
    rles: tuple[Rle, ...] | None
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Detections of all images, in the order of images. image, label: int64 [N]; boxes: float64 [N, 4] xywh pixels;
    scores: float64 [N]; rles: one COCO RLE a detection when masks are evaluated."""

    image: Ints
    label: Ints
    boxes: Floats
    scores: Floats
    rles: tuple[Rle, ...] | None

    def __len__(self) -> int:
        return len(self.scores)


def image_ranks(split: Split) -> Ints:
    """Position of each image among the ids in ascending order.

    COCO's evaluator breaks ties of scores by image id; keeping that order makes the numbers equal to those of
    pycocotools on the saved predictions. Ids that are text keep the order of the split.
    """
    ids = [image.id for image in split.images]
    if not all(isinstance(i, int) for i in ids):
        return np.arange(len(ids), dtype=np.int64)
    order = sorted(range(len(ids)), key=lambda row: int(ids[row]))
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[order] = np.arange(len(ids))
    return ranks


def truth_columns(split: Split, *, masks: bool = False) -> Truth:
    """Raises DataError when masks are asked for and an object that is no crowd has none."""
    ranks = image_ranks(split)
    sizes: list[tuple[int, int]] = [(0, 0)] * len(split)
    for rank, image in zip(ranks.tolist(), split.images, strict=True):
        sizes[rank] = (image.width, image.height)
    return Truth(
        image=ranks[split.image_index],
        label=split.labels,
        boxes=_xywh(split.boxes),
        area=split.area,
        crowd=split.crowd,
        rles=_truth_masks(split) if masks else None,
        sizes=tuple(sizes),
    )


def _truth_masks(split: Split) -> tuple[Rle, ...]:
    rles: list[Rle] = []
    for row, rle in enumerate(split.rles):
        if rle is not None:
            rles.append(rle)
            continue
        image = split.images[int(split.image_index[row])]
        if not split.crowd[row]:
            raise DataError(
                f"split {split.name}: object {split.object_ids[row]} of {image.file_name} has no mask",
                hint="evaluate boxes instead, or give every object a segmentation",
            )
        rles.append(box_rle(split.boxes[row], image.height, image.width))  # nothing is judged inside
    return tuple(rles)


def found_columns(split: Split, class_map: ClassMap, detections: Sequence[Detections], *, masks: bool = False) -> Found:
    """detections: one entry an image, in the order of split.images. Raises DetloomError for values that cannot be
    evaluated (not finite, unknown class, wrong count, masks missing)."""
    if len(detections) != len(split):
        raise DetloomError(
            f"detections of {len(detections)} images were given for the {len(split)} images of split {split.name}",
            hint="give one entry an image, in the order of the split; an empty one where nothing was found",
        )
    counts = np.array([len(one) for one in detections], dtype=np.int64)
    found = Found(
        image=np.repeat(image_ranks(split), counts),
        label=_joined([one.labels for one in detections], np.int64, ()),
        boxes=_xywh(_joined([one.boxes for one in detections], np.float64, (4,))),
        scores=_joined([one.scores for one in detections], np.float64, ()),
        rles=_found_masks(split, detections) if masks else None,
    )
    _refuse_bad_values(found, split, counts, len(class_map))
    return found


def _joined(parts: list[NDArray[Any]], dtype: type, tail: tuple[int, ...]) -> NDArray[Any]:
    filled = [np.asarray(part).reshape(-1, *tail) for part in parts if len(part)]
    return np.concatenate(filled).astype(dtype) if filled else np.zeros((0, *tail), dtype)


def _found_masks(split: Split, detections: Sequence[Detections]) -> tuple[Rle, ...]:
    rles: list[Rle] = []
    for image, one in zip(split.images, detections, strict=True):
        if one.masks is None and len(one):
            raise DetloomError(
                f"masks are to be evaluated, but the detections of {image.file_name} have none",
                hint="evaluate boxes instead, or use a model that predicts masks",
            )
        rles.extend(one.masks or ())
    return tuple(rles)


def _refuse_bad_values(found: Found, split: Split, counts: Ints, classes: int) -> None:
    bad = ~np.isfinite(found.scores) | ~np.isfinite(found.boxes).all(axis=1)
    unknown = (found.label < 0) | (found.label >= classes)
    if not (bad | unknown).any():
        return
    row = int(np.flatnonzero(bad | unknown)[0])
    image = split.images[int(np.searchsorted(np.cumsum(counts), row, side="right"))]
    if bad[row]:
        raise DetloomError(
            f"detection on {image.file_name}: score {found.scores[row]} and box {found.boxes[row].tolist()} (xywh) "
            f"are not all finite ({int(bad.sum())} such detections)",
            hint="the weights have probably diverged: lower training.lr, or set training.gradient_clip",
        )
    raise DetloomError(
        f"detection on {image.file_name}: class index {int(found.label[row])} is outside 0..{classes - 1}",
        hint="the model and the data have different classes",
    )


def _xywh(xyxy: NDArray[np.floating[Any]]) -> Floats:
    boxes = np.asarray(xyxy, dtype=np.float64).reshape(-1, 4).copy()
    boxes[:, 2:] -= boxes[:, :2]
    return boxes
