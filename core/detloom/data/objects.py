"""One annotated object: from what was written to a box inside the image, a label and a mask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from detloom.data.findings import Box, FindingBook
from detloom.data.masks import RLE, BadSegmentationError, rle_area, rle_box, scale_rle, to_rle, turn_rle
from detloom.data.records import ObjectRecord

ROUNDING_PX = 0.01
"""Boxes may overshoot the image by this much: written with two decimals, they often do."""
NEAR_IOU = 0.95
"""Boxes of one class that overlap by more are probably one object."""
SAME_PLACE_IOU = 0.2
"""A box and the box around its mask overlap by at least this much, however loosely it was drawn."""


_NUMBERS = frozenset({int, float})
_FAR = 1e9


@dataclass(frozen=True, slots=True)
class CheckedObject:
    """box: xyxy in pixels of the upright image, inside it. label: class index. area: pixels."""

    box: Box
    label: int
    crowd: bool
    area: float
    rle: RLE | None
    id: int | str | None
    had_box: bool
    keypoints: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """The image that objects lie in. width, height: upright. turn: EXIF orientation that the annotations still need
    (1: none). drawn: (width, height) of the picture that was annotated, when it was scaled since."""

    width: int
    height: int
    turn: int = 1
    drawn: tuple[int, int] | None = None

    @property
    def annotated_size(self) -> tuple[int, int]:
        """(height, width) of the picture that was annotated."""
        if self.drawn is not None:
            return self.drawn[1], self.drawn[0]
        return (self.width, self.height) if self.turn >= 5 else (self.height, self.width)


class _LeftOutError(Exception):
    """The object cannot be used; the book already says why."""


def check_object(
    record: ObjectRecord, frame: Frame, labels: Mapping[int | str, int], book: FindingBook
) -> CheckedObject | None:
    """None when the object is left out; the book then says why."""
    try:
        return _check_object(record, frame, labels, book)
    except _LeftOutError:
        return None


def _check_object(
    record: ObjectRecord, frame: Frame, labels: Mapping[int | str, int], book: FindingBook
) -> CheckedObject:
    label = _label(record, labels, book)
    if record.relative:
        record = in_pixels(record, *frame.annotated_size)
    if frame.drawn is not None:
        record = _scaled_with(record, frame.width / frame.drawn[0], frame.height / frame.drawn[1])
    rle = _mask(record, frame, book)
    written = _written_box(record, frame, book)
    if written is not None:
        box = _fit(written, frame, record.where, book)
    elif rle is not None:
        box = _fit(rle_box(rle), frame, record.where, book)
    else:
        if not record.segmentation:  # a mask without a pixel is named already
            book.add("bad-box-type", f"{record.where} (no box and no mask)")
        raise _LeftOutError
    if rle is not None and written is not None and not record.crowd and iou(box, rle_box(rle)) < SAME_PLACE_IOU:
        place = f"{record.where} (box {_short(box)}, mask {_short(rle_box(rle))})"
        book.add("mask-off-box", place, box=box, after=rle_box(rle))
    area = _area(record, box, rle, written == box, book)
    return CheckedObject(box, label, record.crowd, area, rle, record.id, written is not None, record.keypoints)


def in_pixels(record: ObjectRecord, height: int, width: int) -> ObjectRecord:
    """Fractions of the image's sides to pixels. What is not a number passes as it is, for the checks to name."""
    sides = (width, height)
    segmentation = record.segmentation
    if isinstance(segmentation, list):
        segmentation = [_scaled(polygon, sides) for polygon in segmentation]
    # Written out: `replace` would take a tenth of the time of reading YOLO.
    return ObjectRecord(
        _scaled(record.bbox, sides), record.class_id, record.class_name, segmentation, record.area, record.crowd,
        record.keypoints, record.id, record.where,
    )  # fmt: skip


def _scaled_with(record: ObjectRecord, across: float, down: float) -> ObjectRecord:
    """Where the object lies now that its picture has another size. RLE is scaled when it is decoded."""
    segmentation, area = record.segmentation, record.area
    if isinstance(segmentation, list):
        segmentation = [_scaled(polygon, (across, down)) for polygon in segmentation]
    if isinstance(area, int | float) and not isinstance(area, bool):
        area = area * across * down
    return replace(record, bbox=_scaled(record.bbox, (across, down)), segmentation=segmentation, area=area)


def _scaled(values: Any, sides: tuple[float, float]) -> Any:
    """x and y in turns, times width and height."""
    if not isinstance(values, list | tuple) or not all(isinstance(value, int | float) for value in values):
        return values
    return [value * sides[place % 2] for place, value in enumerate(values)]


def drop_duplicates(objects: Sequence[CheckedObject], where: str, book: FindingBook) -> list[CheckedObject]:
    """Objects of one image; exact copies (class, box, mask) are kept once."""
    kept: dict[tuple[Any, ...], CheckedObject] = {}
    for item in objects:
        key = (item.label, item.box, item.crowd, item.rle["counts"] if item.rle else None)
        if key in kept:
            book.add("duplicate-box", f"{where} (box {_short(item.box)})", box=item.box)
        else:
            kept[key] = item
    return list(kept.values())


def compare_objects(objects: Sequence[CheckedObject], where: str, book: FindingBook) -> None:
    """Objects of one image that may be one object."""
    for place, (one, other) in _close_pairs(objects):
        text = f"{where} (boxes {_short(one.box)} and {_short(other.box)})"
        book.add(place, text, box=one.box, after=other.box)


def _close_pairs(objects: Sequence[CheckedObject]) -> Iterator[tuple[str, tuple[CheckedObject, CheckedObject]]]:
    # By their left edges: what begins far from another cannot lie on it.
    ordered = sorted((item for item in objects if not item.crowd), key=lambda item: item.box[0])
    for number, one in enumerate(ordered):
        reach = one.box[0] + (one.box[2] - one.box[0]) * (1 - NEAR_IOU)
        for other in ordered[number + 1 :]:
            if other.box[0] > reach:
                break
            if one.label == other.label and one.box != other.box and iou(one.box, other.box) >= NEAR_IOU:
                yield "near-duplicate-box", (one, other)
            elif one.label != other.label and one.box == other.box:
                yield "two-classes-one-box", (one, other)


def iou(one: Box, other: Box) -> float:
    """Of two boxes with an area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - both)


def label_of(item: ObjectRecord, labels: Mapping[int | str, int]) -> int | None:
    """The class index that an object means; None for none."""
    key = item.class_id if item.class_name is None else " ".join(item.class_name.split())
    # True == 1 in Python: a class id of `true` must not pass as class 1.
    if isinstance(key, int | str) and not isinstance(key, bool):
        return labels.get(key)
    return None


def _label(record: ObjectRecord, labels: Mapping[int | str, int], book: FindingBook) -> int:
    label = label_of(record, labels)
    if label is None:
        key = record.class_id if record.class_name is None else record.class_name
        book.add("unknown-class", f"{record.where} (class {_short(key)})", box=plain_box(record.bbox))
        raise _LeftOutError
    return label


def _mask(record: ObjectRecord, frame: Frame, book: FindingBook) -> RLE | None:
    """The mask of the upright image; None when there is none."""
    if record.segmentation is None or record.segmentation in ([], {}):
        return None
    try:
        is_rle = isinstance(record.segmentation, Mapping)
        size = frame.annotated_size if is_rle or frame.drawn is None else (frame.height, frame.width)
        rle = to_rle(record.segmentation, *size)
    except BadSegmentationError as fault:
        book.add("bad-segmentation", f"{record.where} ({fault})", box=plain_box(record.bbox))
        raise _LeftOutError from None
    if rle_area(rle) == 0:
        book.add("empty-mask", record.where, objects=0 if record.bbox else 1, box=plain_box(record.bbox))
        return None
    rle = rle if frame.drawn is None else scale_rle(rle, (frame.height, frame.width))
    return rle if frame.turn == 1 else turn_rle(rle, frame.turn)


def _written_box(record: ObjectRecord, frame: Frame, book: FindingBook) -> Box | None:
    """The box in the upright image; None when none was written."""
    values = record.bbox
    if values is None or (isinstance(values, Sequence) and not len(values)):
        return None
    if not _are_four_numbers(values):
        book.add("bad-box-type", f"{record.where} (bbox {_short(values)})")
        raise _LeftOutError
    try:
        x1, y1, x2, y2 = map(float, values)
    except OverflowError:  # an integer beyond the range of float
        x1 = y1 = x2 = y2 = math.inf
    if not (math.isfinite(x1) and math.isfinite(y1) and math.isfinite(x2) and math.isfinite(y2)):
        book.add("nan-box", f"{record.where} (bbox {_short(values)})")
        raise _LeftOutError
    return turn_box((x1, y1, x2, y2), frame)


def _are_four_numbers(values: Any) -> bool:
    if type(values) in (list, tuple) and len(values) == 4 and _NUMBERS.issuperset(map(type, values)):
        return True  # without looking at each of hundreds of thousands in the long way
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 4:
        return False
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def turn_box(box: Box, frame: Frame) -> Box:
    """From the picture as stored to the upright one, by its EXIF orientation."""
    if frame.turn == 1:
        return box
    x1, y1, x2, y2 = box
    if frame.turn in (5, 6, 7, 8):
        x1, y1, x2, y2 = y1, x1, y2, x2
    if frame.turn in (2, 3, 6, 7):
        x1, x2 = frame.width - x2, frame.width - x1
    if frame.turn in (3, 4, 7, 8):
        y1, y2 = frame.height - y2, frame.height - y1
    return x1, y1, x2, y2


def _fit(box: Box, frame: Frame, where: str, book: FindingBook) -> Box:
    """The part of the box inside the image."""
    x1, y1, x2, y2 = box
    if x1 >= 0 and y1 >= 0 and x2 <= frame.width and y2 <= frame.height and x2 - x1 >= 1 and y2 - y1 >= 1:
        return box  # nearly all are: texts for findings would take half the time of the check
    place = f"{where} (box {_short(box)} xyxy in an image of {frame.width}x{frame.height})"
    if x2 <= x1 or y2 <= y1:
        book.add("degenerate-box", place, box=box)
        raise _LeftOutError
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(frame.width)), min(y2, float(frame.height)))
    width, height = clipped[2] - clipped[0], clipped[3] - clipped[1]
    if width <= 0 or height <= 0:
        book.add("box-off-image", place, box=box)
        raise _LeftOutError
    if width < 1 - ROUNDING_PX or height < 1 - ROUNDING_PX:
        book.add("box-below-pixel", place, box=box)
        raise _LeftOutError
    if max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > ROUNDING_PX:
        book.add("box-outside", place, box=box, after=clipped)
    return clipped


def _area(record: ObjectRecord, box: Box, rle: RLE | None, untouched: bool, book: FindingBook) -> float:
    """The written area where it can be true (COCO's evaluation sorts objects by it), else measured in pixels."""
    box_area = (box[2] - box[0]) * (box[3] - box[1])
    measured = rle_area(rle) if rle is not None else box_area
    written = record.area
    if written is None:
        return measured
    usable = isinstance(written, int | float) and not isinstance(written, bool) and math.isfinite(written)
    if usable and written > 0:
        # A polygon's exact area differs from its count of pixels by up to about half its outline.
        slack = 1 + 0.1 * measured + 4 * math.sqrt(measured)
        if rle is not None and abs(written - measured) <= slack:
            return float(written)
        # Without a mask it may be the area of a mask that was not exported: smaller than the box.
        if rle is None and untouched and written <= box_area + slack:
            return float(written)
    if untouched:
        book.add("area-mismatch", f"{record.where} (written {_short(written)}, measured {measured:g})")
    return measured


def plain_box(values: Any) -> Box | None:
    """Four numbers of a sane size, from whatever was written; None for anything else."""
    if type(values) in (list, tuple) and len(values) == 4 and _NUMBERS.issuperset(map(type, values)):
        x1, y1, x2, y2 = values
        if -_FAR < x1 < _FAR and -_FAR < y1 < _FAR and -_FAR < x2 < _FAR and -_FAR < y2 < _FAR:
            return (x1, y1, x2, y2)
    return None


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f"{number:g}" for number in value) + "]"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
