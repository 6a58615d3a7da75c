"""A split and detections written by hand or drawn at random, for the tests of the evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from detloom.data.dataset import ClassMap, ImageInfo, Split
from detloom.geometry import Detections

TWO = ClassMap((3, 7), ("cat", "dog"))
SIDE = 200


def make_split(
    objects: Sequence[Sequence[tuple[Sequence[float], int]]],
    *,
    crowd: Sequence[bool] | None = None,
    ids: Sequence[int | str] | None = None,
    masks: bool = False,
) -> Split:
    """objects: one list an image of (xyxy box, class index)."""
    flat = [(image, box, label) for image, rows in enumerate(objects) for box, label in rows]
    boxes = np.array([box for _, box, _ in flat], dtype=np.float64).reshape(-1, 4)
    counts = [len(rows) for rows in objects]
    names = ids or [10 * (i + 1) for i in range(len(objects))]
    return Split(
        name="val",
        images=tuple(ImageInfo(i, f"{i}.jpg", Path(f"{i}.jpg"), SIDE, SIDE) for i in names),
        boxes=boxes,
        labels=np.array([label for _, _, label in flat], dtype=np.int64),
        crowd=np.array(crowd if crowd is not None else [False] * len(flat), dtype=np.bool_),
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        image_index=np.repeat(np.arange(len(objects)), counts),
        object_ids=tuple(range(len(flat))),
        rles=tuple(box_mask(box) if masks else None for _, box, _ in flat),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def box_mask(box: Sequence[float]) -> dict[str, Any]:
    x1, y1, x2, y2 = (round(v) for v in box)
    canvas = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    canvas[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = 1
    return dict(coco_mask.encode(canvas))


def detections(rows: Sequence[tuple[Sequence[float], float, int]], *, masks: bool = False) -> Detections:
    ordered = sorted(rows, key=lambda row: -row[1])
    return Detections(
        np.array([r[0] for r in ordered], dtype=np.float32).reshape(-1, 4),
        np.array([r[1] for r in ordered], dtype=np.float32),
        np.array([r[2] for r in ordered], dtype=np.int64),
        tuple(box_mask(r[0]) for r in ordered) if masks else None,
    )


NOTHING = detections([])
A, B, FAR = (10, 10, 60, 60), (100, 100, 150, 150), (150, 10, 190, 50)


def random_case(
    rng: np.random.Generator, *, images: int, per_image: int, masks: bool = False
) -> tuple[Split, list[Detections]]:
    """Boxes on a coarse grid and scores from a short list: overlaps, crowds and ties abound."""

    def box() -> tuple[float, ...]:
        x, y = rng.integers(0, 16, 2) * 10
        w, h = rng.integers(1, 9, 2) * 10 if not masks else rng.integers(1, 4, 2) * 10
        return (float(x), float(y), float(min(x + w, SIDE)), float(min(y + h, SIDE)))

    objects = [[(box(), int(rng.integers(2))) for _ in range(rng.integers(per_image))] for _ in range(images)]
    total = sum(map(len, objects))
    ids = (rng.permutation(1000)[:images] + 1).tolist()
    split = make_split(objects, crowd=(rng.random(total) < 0.2).tolist(), ids=ids, masks=masks)
    found = []
    for rows in objects:
        near = [(np.clip(np.array(b) + rng.integers(-1, 2, 4) * 4, 0, SIDE).tolist(), c) for b, c in rows]
        near = [(b, c) for b, c in near if b[2] > b[0] and b[3] > b[1]]
        stray = [(box(), int(rng.integers(2))) for _ in range(rng.integers(4))]
        found.append(detections([(b, float(rng.integers(1, 5)) / 5, c) for b, c in near + stray], masks=masks))
    return split, found
