"""Shapes of LabelMe as objects. A corner is a point of the picture's plane: (0, 0) is the outer edge of its first
pixel."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator
from typing import Any

from detloom.data.findings import found
from detloom.data.layout import brief
from detloom.data.pixel_limit import max_pixels
from detloom.data.records import Finding, ObjectRecord
from detloom.data.shapes import Point, box_of, ellipse, flat

_Size = tuple[int | None, int | None]


def read_shapes(shapes: list[Any], name: str, size: _Size) -> Iterator[ObjectRecord | Finding]:
    """size: of the picture (width, height) as written; only masks need it."""
    groups: dict[tuple[str, Any], list[tuple[list[Any], str]]] = {}
    for position, shape in enumerate(shapes):
        where = f"{name}: shapes[{position}]"
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip():
            yield found("bad-record", f"{where} (label {brief(label)})")
            continue
        read = _read(shape, where, size)
        if isinstance(read, Finding):
            yield read
            continue
        bbox, segmentation = read
        group = shape.get("group_id")
        if isinstance(segmentation, list) and isinstance(group, int) and not isinstance(group, bool):
            groups.setdefault((label.strip(), group), []).append((segmentation, where))
            continue
        if isinstance(segmentation, list) and _is_outside(segmentation[0], size):
            yield found("polygon-outside", where)
        yield ObjectRecord(bbox, class_name=label.strip(), segmentation=segmentation, where=where)
    for (label, _), parts in groups.items():
        polygons = [polygon for segmentation, _ in parts for polygon in segmentation]
        yield ObjectRecord(None, class_name=label, segmentation=polygons, where=parts[0][1])


def _read(shape: dict[str, Any], where: str, size: _Size) -> tuple[list[float] | None, Any] | Finding:
    """Box and segmentation, one of them None."""
    kind = shape.get("shape_type") or "polygon"  # files of LabelMe 3 know nothing else
    if kind not in ("polygon", "rectangle", "circle", "mask"):
        return found("shape-not-read", f"{where} ({brief(kind)})")
    points = _points(shape.get("points"))
    needed = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2}[kind]
    if points is None or len(points) < needed or (kind in ("circle", "mask") and len(points) != 2):
        count = "" if points is None else f"{len(points)} "
        return found("bad-segmentation", f"{where} (a {kind} with {count or 'no usable '}points)")
    if kind == "rectangle":
        return box_of(points), None  # any two corners, or all four
    if kind == "circle":
        radius = math.dist(points[0], points[1])
        return None, [flat(ellipse(points[0], radius, radius))]
    if kind == "polygon":
        return None, [flat(points)]
    return _mask(shape.get("mask"), points[0], where, size)


def _points(value: Any) -> list[Point] | None:
    if not isinstance(value, list):
        return None
    points = []
    for point in value:
        good = isinstance(point, list) and len(point) == 2
        if not good or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in point):
            return None
        try:
            points.append((float(point[0]), float(point[1])))
        except OverflowError:
            return None
    return points


def _is_outside(polygon: list[float], size: _Size) -> bool:
    width, height = size
    if width is None or height is None:
        return False
    return not all(
        -1 <= x <= width + 1 and -1 <= y <= height + 1 for x, y in zip(polygon[::2], polygon[1::2], strict=True)
    )


def _mask(text: Any, corner: Point, where: str, size: _Size) -> tuple[None, Any] | Finding:
    """A PNG as text, whose first pixel is the pixel `corner` of the picture."""
    import numpy as np

    from detloom.data.headers import parse_header
    from detloom.data.images import ImageError, decode_image
    from detloom.data.masks import encode_mask

    width, height = size
    if width is None or height is None or width * height > max_pixels():
        return found("bad-segmentation", f"{where} (no usable size of the image is written)")
    try:
        data = base64.b64decode(text if isinstance(text, str) else "", validate=True)
        header = parse_header(data)
        if header is None or header.width > width or header.height > height:
            return found("bad-segmentation", f"{where} (the mask is no picture, or larger than the image)")
        part = decode_image(data, where)[:, :, 0] != 0
    except (ValueError, binascii.Error, ImageError) as fault:
        return found("bad-segmentation", f"{where} (the mask: {brief(str(fault))})")
    left, top = (int(value) if math.isfinite(value) else -1 for value in corner)
    if left < 0 or top < 0 or left + part.shape[1] > width or top + part.shape[0] > height:
        return found("bad-segmentation", f"{where} (the mask does not fit into {width}x{height})")
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return None, encode_mask(mask)
