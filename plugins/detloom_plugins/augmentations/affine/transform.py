# ruff: noqa: TID253
"""Scale, translation, rotation and shear in one step.

The result fills the whole network input: a wide picture that is scaled up uses the room that padding would take.
Coordinates are continuous, pixel centres lie at halves: a point (x, y) moves to matrix @ (x, y, 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from detloom.sample import learnable

if TYPE_CHECKING:
    from detloom.sample import Sample
    from detloom_plugins.augmentations.affine.settings import RandomAffineSettings

Matrix = NDArray[np.float64]


class RandomAffine:
    def __init__(self, settings: RandomAffineSettings) -> None:
        self._settings = settings

    def __call__(self, sample: Sample, rng: np.random.Generator, extras: Sequence[Sample]) -> Sample:
        apply = rng.random()
        matrix = self._matrix(sample, rng)
        return sample if apply >= self._settings.prob else warp(sample, matrix, self._settings.min_visible)

    def _matrix(self, sample: Sample, rng: np.random.Generator) -> Matrix:
        """[2, 3]: about the middle of the picture, which lands near the middle of the network input."""
        settings = self._settings
        # Even in the logarithm: half and double size are equally likely.
        low, high = math.log(settings.scale_min), math.log(settings.scale_max)
        scale = math.exp(rng.uniform(low, high))
        angle, shear_x, shear_y = np.radians(
            rng.uniform(-1, 1, 3) * (settings.degrees, settings.shear, settings.shear)
        ).tolist()
        shift = rng.uniform(-1, 1, 2) * settings.translate
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = scale * turn @ np.array([[1.0, math.tan(shear_x)], [math.tan(shear_y), 1.0]])
        size = np.array(sample.image.shape[1::-1], dtype=np.float64)
        canvas = np.array(sample.canvas[::-1], dtype=np.float64)
        offset = canvas / 2 + shift * size - linear @ (size / 2)
        return np.hstack([linear, offset[:, None]])


def warp(sample: Sample, matrix: Matrix, min_visible: float) -> Sample:
    """The sample seen through `matrix` [2, 3], as large as the network input."""
    boxes, visible = warp_boxes(sample.boxes, matrix, sample.canvas)
    keep = (visible >= min_visible) & learnable(boxes)
    image = warp_image(sample.image, matrix, sample.canvas, sample.pad_value, cv2.INTER_LINEAR)
    moved = replace(sample, image=image, boxes=boxes, masks=None).with_objects(keep)
    if sample.masks is None:
        return moved
    return _with_masks(moved, sample.masks[keep], matrix)


def _with_masks(moved: Sample, before: NDArray[np.uint8], matrix: Matrix) -> Sample:
    """before: uint8 [N, h, w], the masks of the objects that are left. Those that lose every pixel are dropped. A box
    that was turned or sheared has grown; with a mask it can fit again."""
    masks = np.zeros((len(before), *moved.canvas), dtype=np.uint8)
    for mask, source in zip(masks, before, strict=True):
        mask[:] = warp_image(source, matrix, moved.canvas, 0, cv2.INTER_NEAREST)
    there, before_there = _filled(masks), _filled(before)
    boxes = moved.boxes
    if matrix[0, 1] or matrix[1, 0]:
        boxes = boxes.copy()
        for number in np.flatnonzero(there):
            boxes[number] = box_around(masks[number])
    return replace(moved, boxes=boxes, masks=masks).with_objects(there | ~before_there)


def _filled(masks: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """bool [N]: those with a pixel."""
    return np.asarray(masks.any(axis=(1, 2)), dtype=np.bool_)


def box_around(mask: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """mask: [h, w] with at least one pixel. Returns xyxy in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def warp_boxes(
    boxes: NDArray[np.float32], matrix: Matrix, canvas: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Boxes around the moved corners, clipped to the canvas, and the share of each that is inside."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).astype(np.float64)
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    whole = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    limit = np.array([canvas[1], canvas[0], canvas[1], canvas[0]], dtype=np.float64)
    inside = np.clip(whole, 0, limit)
    visible = _area(inside) / np.maximum(_area(whole), 1e-9)
    return inside.astype(np.float32), visible


def warp_image(
    image: NDArray[np.uint8], matrix: Matrix, canvas: tuple[int, int], fill: int, interpolation: int
) -> NDArray[np.uint8]:
    image = np.ascontiguousarray(image)
    if matrix[0, 1] == matrix[1, 0] == 0:
        return _scale_and_move(image, matrix, canvas, fill, interpolation)
    # OpenCV puts pixel centres at whole numbers: shift by half a pixel on both sides.
    centred = matrix.copy()
    centred[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1]) - 0.5
    border = (fill, fill, fill)
    return np.asarray(
        cv2.warpAffine(image, centred, canvas[::-1], flags=interpolation, borderValue=border), dtype=np.uint8
    )


def _scale_and_move(
    image: NDArray[np.uint8], matrix: Matrix, canvas: tuple[int, int], fill: int, interpolation: int
) -> NDArray[np.uint8]:
    """Without rotation and shear the visible part is resized, four times faster than a warp.

    Edges are rounded to pixels, so the picture is off by at most half a pixel from the boxes.
    """
    target = np.full((*canvas, *image.shape[2:]), fill, dtype=np.uint8)
    columns = _span(image.shape[1], canvas[1], matrix[0, 0], matrix[0, 2])
    rows = _span(image.shape[0], canvas[0], matrix[1, 1], matrix[1, 2])
    if columns is None or rows is None:
        return target
    (x0, x1, to_x0, to_x1), (y0, y1, to_y0, to_y1) = columns, rows
    if interpolation == cv2.INTER_NEAREST:
        interpolation = cv2.INTER_NEAREST_EXACT  # the plain one is off by half a pixel
    part = cv2.resize(image[y0:y1, x0:x1], (to_x1 - to_x0, to_y1 - to_y0), interpolation=interpolation)
    target[to_y0:to_y1, to_x0:to_x1] = part
    return target


def _span(size: int, room: int, scale: float, offset: float) -> tuple[int, int, int, int] | None:
    """Pixels of one side that stay visible (from, to) and where they land (from, to); None when nothing does."""
    start = max(0, math.floor(-offset / scale))
    end = min(size, math.ceil((room - offset) / scale))
    to_start, to_end = round(start * scale + offset), round(end * scale + offset)
    # A source pixel that straddles the edge lands partly outside: leave it out rather than squeeze it in.
    while to_start < 0 and start < end:
        start += 1
        to_start = round(start * scale + offset)
    while to_end > room and start < end:
        end -= 1
        to_end = round(end * scale + offset)
    return None if end <= start or to_end <= to_start else (start, end, to_start, to_end)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
