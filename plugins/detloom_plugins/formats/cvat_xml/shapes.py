"""One shape of CVAT as an object: coordinates count from 0 at the outer edge of the first pixel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detloom.data.findings import found
from detloom.data.layout import brief
from detloom.data.markup import Element
from detloom.data.pixel_limit import max_pixels
from detloom.data.records import Finding, ObjectRecord
from detloom.data.shapes import Point, box_of, ellipse, flat, number, rotated_corners

_IGNORED = {"attribute"}
_Size = tuple[int | None, int | None]


def read_shape(shape: Element, label: str, where: str, size: _Size) -> Iterator[ObjectRecord | Finding]:
    """size: of the image (width, height), for masks."""
    if shape.tag in _IGNORED:
        return
    reader = {"box": _box, "polygon": _polygon, "mask": _mask, "ellipse": _ellipse}.get(shape.tag)
    if reader is None:
        yield found("shape-not-read", f"{where} (<{shape.tag}> of {brief(label)})")
    elif not label.strip():
        yield found("bad-record", f"{where} (a <{shape.tag}> without a label)")
    else:
        yield from reader(shape, label.strip(), where, size)


def _box(shape: Element, label: str, where: str, size: _Size) -> Iterator[ObjectRecord | Finding]:
    sides = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    if isinstance(sides, str):
        yield found("bad-box-type", f"{where} ({sides})")
        return
    turn = number(shape.attributes.get("rotation", "0"))
    if turn:
        yield found("rotated-box", f"{where} ({turn:g} degrees)")
        sides = box_of(rotated_corners(sides, turn))
    yield ObjectRecord(sides, class_name=label, where=where)


def _polygon(shape: Element, label: str, where: str, size: _Size) -> Iterator[ObjectRecord | Finding]:
    points: list[Point] = []
    for pair in shape.attributes.get("points", "").split(";"):
        x, comma, y = pair.partition(",")
        left, top = number(x), number(y)
        if not comma or left is None or top is None:
            yield found("bad-segmentation", f"{where} (a point is {brief(pair)})")
            return
        points.append((left, top))
    if None not in size and any(
        not (-1 <= x <= (size[0] or 0) + 1 and -1 <= y <= (size[1] or 0) + 1) for x, y in points
    ):
        yield found("polygon-outside", where)
    yield ObjectRecord(None, class_name=label, segmentation=[flat(points)], where=where)


def _ellipse(shape: Element, label: str, where: str, size: _Size) -> Iterator[ObjectRecord | Finding]:
    values = _numbers(shape, "cx", "cy", "rx", "ry")
    if isinstance(values, str):
        yield found("bad-segmentation", f"{where} ({values})")
        return
    x, y, radius_x, radius_y = values
    turn = number(shape.attributes.get("rotation", "0")) or 0.0
    outline = flat(ellipse((x, y), radius_x, radius_y, turn))
    yield ObjectRecord(None, class_name=label, segmentation=[outline], where=where)


def _mask(shape: Element, label: str, where: str, size: _Size) -> Iterator[ObjectRecord | Finding]:
    """Runs along rows inside a box, beginning with those outside the object."""
    place = _numbers(shape, "left", "top", "width", "height")
    texts = shape.attributes.get("rle", "").split(",")
    if isinstance(place, str) or not all(map(_is_run, texts)):
        yield found("bad-segmentation", f"{where} ({place if isinstance(place, str) else 'rle is not whole numbers'})")
        return
    left, top, width, height = (int(value) if value.is_integer() else -1 for value in place)
    full_width, full_height = size
    if full_width is None or full_height is None or full_width * full_height > max_pixels():
        yield found("bad-segmentation", f"{where} (no usable size of the image is written)")
        return
    if min(left, top) < 0 or min(width, height) < 1 or left + width > full_width or top + height > full_height:
        fault = f"{width}x{height} at {left}, {top} does not fit into {full_width}x{full_height}"
        yield found("bad-segmentation", f"{where} ({fault})")
        return
    runs = [int(text) for text in texts]
    if sum(runs) != width * height:
        yield found("bad-segmentation", f"{where} (the runs sum to {sum(runs)}, the mask has {width * height} pixels)")
        return
    rle = _full_rle(runs, (left, top, width, height), (full_width, full_height))
    yield ObjectRecord(None, class_name=label, segmentation=rle, where=where)


def _is_run(text: str) -> bool:
    return len(text) < 13 and text.strip().isascii() and text.strip().isdigit()


def _full_rle(runs: list[int], place: tuple[int, int, int, int], size: tuple[int, int]) -> Any:
    """COCO's coding of the mask in the whole image."""
    import numpy as np

    from detloom.data.masks import encode_mask

    left, top, width, height = place
    inside = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    mask[top : top + height, left : left + width] = inside
    return encode_mask(mask)


def _numbers(shape: Element, *names: str) -> list[float] | str:
    """Attributes as numbers, or which of them is none."""
    values = []
    for name in names:
        text = shape.attributes.get(name)
        value = number(text) if text is not None else None
        if value is None:
            return f"{name} is {brief(text)}" if text is not None else f"no {name}"
        values.append(value)
    return values
