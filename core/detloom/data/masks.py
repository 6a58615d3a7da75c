# ruff: noqa: TID253
"""Masks as COCO RLE: from polygons and from both spellings of RLE, with their boxes, areas and turns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hotcoco.mask import decode as fast_decode
from numpy.typing import NDArray
from pycocotools import mask as _pycocotools_mask

from detloom.data.images import turn_upright

# Its published stubs know only some of the forms that it takes.
coco_mask: Any = _pycocotools_mask

RLE = Mapping[str, Any]
"""{"size": [height, width], "counts": text of COCO's compressed coding}"""


class BadSegmentationError(ValueError):
    """Neither polygons nor RLE of the right size."""


def to_rle(segmentation: Any, height: int, width: int) -> RLE:
    """COCO polygons, uncompressed or compressed RLE to compressed RLE with text counts. Raises BadSegmentationError."""
    if isinstance(segmentation, Mapping):
        return _from_rle(segmentation, height, width)
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, str) and len(segmentation) > 0:
        return _from_polygons(segmentation, height, width)
    raise BadSegmentationError(f"expected polygons or RLE, found {type(segmentation).__name__}")


def box_rle(box: NDArray[Any], height: int, width: int) -> RLE:
    """A filled box, xyxy in pixels, inside a picture of that size."""
    left, top, right, bottom = (float(side) for side in box)
    return _from_polygons([[left, top, right, top, right, bottom, left, bottom]], height, width)


def rle_area(rle: RLE) -> float:
    """Pixels."""
    return float(coco_mask.area(_as_bytes(rle)))


def rle_box(rle: RLE) -> tuple[float, float, float, float]:
    """Tight box, xyxy in pixels; zeros for an empty mask."""
    x, y, w, h = (float(value) for value in coco_mask.toBbox(_as_bytes(rle)))
    return (x, y, x + w, y + h)


def rle_iou(one: RLE, other: RLE) -> float:
    """Pixels that both have over pixels that either has, of masks of one size."""
    return float(coco_mask.iou([_as_bytes(one)], [_as_bytes(other)], [0])[0][0])


def decode_rle(rle: RLE) -> NDArray[np.uint8]:
    """uint8 [H, W] of 0 and 1."""
    # pycocotools' own decoder warns of NumPy 2 and takes four times as long.
    return np.ascontiguousarray(fast_decode(dict(rle)), dtype=np.uint8)


def encode_mask(mask: NDArray[Any]) -> RLE:
    """mask: [H, W], true or non-zero inside."""
    return _as_text(coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8)))


def encode_part(inside: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> RLE:
    """A mask that is empty but for one rectangle: what `encode_mask` gives for the whole, in the rectangle's time.

    inside: [h, w], at `corner` (y, x) of a picture of `size` (height, width).
    """
    height, width = size
    # Runs go down the columns; an empty pixel above and below each column bounds them.
    bounded = np.zeros((inside.shape[1], inside.shape[0] + 2), dtype=np.bool_)
    bounded[:, 1:-1] = inside.T
    column, row = np.divmod(np.flatnonzero(bounded[:, 1:] != bounded[:, :-1]), inside.shape[0] + 1)
    places = (column + corner[1]) * height + row + corner[0]
    # A run to the bottom and one from the top of the next column are one run.
    joined = np.flatnonzero(places[1:-1:2] == places[2::2]) * 2 + 1
    places = np.delete(places, np.concatenate([joined, joined + 1]))
    runs = np.diff(places, prepend=0, append=height * width)
    if len(runs) > 1 and runs[-1] == 0:
        runs = runs[:-1]
    return _as_text(coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width))


def scale_rle(rle: RLE, size: tuple[int, int]) -> RLE:
    """The mask of the same picture scaled to `size` (height, width)."""
    return rle if tuple(rle["size"]) == size else encode_mask(resize_masks([rle], *size)[0])


def turn_rle(rle: RLE, orientation: int) -> RLE:
    """The mask of a picture as stored, turned upright by its EXIF orientation."""
    return encode_mask(turn_upright(decode_rle(rle), orientation))


def resize_masks(rles: Sequence[RLE], height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [N, height, width] of 0 and 1: each pixel is what lies under its centre. Only the objects' own boxes are
    looked at: masks of many small objects would cost more than reading their picture."""
    masks = np.zeros((len(rles), height, width), dtype=np.uint8)
    for row, rle in zip(masks, rles, strict=True):
        left, top, right, bottom = rle_box(rle)
        down, rows = _under(height, rle["size"][0], top, bottom)
        across, columns = _under(width, rle["size"][1], left, right)
        row[down, across] = fast_decode(dict(rle))[rows[:, None], columns]
    return masks


def _under(pixels: int, source: int, start: float, stop: float) -> tuple[slice, NDArray[np.int64]]:
    """Which of `pixels` have their centre in start..stop of `source` pixels, and over which of these they lie."""
    under = (2 * np.arange(pixels) + 1) * source // (2 * pixels)
    inside = slice(int(np.searchsorted(under, start)), int(np.searchsorted(under, stop)))
    return inside, under[inside]


def _from_polygons(polygons: Sequence[Any], height: int, width: int) -> RLE:
    for polygon in polygons:
        if not isinstance(polygon, Sequence) or isinstance(polygon, str):
            raise BadSegmentationError("a polygon must be a list of numbers")
        if len(polygon) < 6 or len(polygon) % 2:
            raise BadSegmentationError(f"a polygon needs an even count of at least 6 numbers, found {len(polygon)}")
        if not all(_is_number(value) for value in polygon):
            raise BadSegmentationError("a polygon holds something that is not a finite number")
        # pycocotools works in 32-bit integers after scaling; far-off corners would overflow there.
        if any(abs(value) > 1e6 for value in polygon):
            raise BadSegmentationError("a polygon has a corner more than a million pixels away")
    parts = coco_mask.frPyObjects([[float(v) for v in polygon] for polygon in polygons], height, width)
    return _as_text(coco_mask.merge(parts))


def _from_rle(rle: Mapping[str, Any], height: int, width: int) -> RLE:
    size, counts = rle.get("size"), rle.get("counts")
    if not (isinstance(size, Sequence) and list(size) == [height, width]):
        raise BadSegmentationError(f"RLE size {size} is not the image's [{height}, {width}]")
    if isinstance(counts, str):
        _check_runs(_compressed_runs(counts), height * width)
        return {"size": [height, width], "counts": counts}
    if isinstance(counts, Sequence) and all(isinstance(c, int) and not isinstance(c, bool) for c in counts):
        _check_runs(list(counts), height * width)
        return _as_text(coco_mask.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width))
    raise BadSegmentationError("RLE counts must be a text or a list of integers")


def _check_runs(runs: Sequence[int], pixels: int) -> None:
    """pycocotools trusts runs and writes out of bounds where they do not fit."""
    if any(run < 0 for run in runs) or sum(runs) != pixels:
        raise BadSegmentationError(f"RLE runs sum to {sum(runs)}, the image has {pixels} pixels")


def _compressed_runs(text: str) -> list[int]:
    """Runs of COCO's compressed coding: 5 bits a character, from the third run on relative to the one before last."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in text.encode("latin-1", errors="replace"):
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise BadSegmentationError("RLE counts hold a character that the coding does not have")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value, shift = 0, 0
    if shift:
        raise BadSegmentationError("RLE counts end in the middle of a number")
    return runs


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_bytes(rle: RLE) -> dict[str, Any]:
    return {"size": list(rle["size"]), "counts": rle["counts"].encode("ascii")}


def _as_text(rle: Mapping[str, Any]) -> RLE:
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
