"""Shapes of annotation tools as what the core knows: upright boxes and polygons. Standard library."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]

CORNERS_OF_ELLIPSE = 72
"""An ellipse of 500 px is then nowhere more than half a pixel off."""


def number(text: str) -> float | None:
    """What a person would read as a number; `nan` and `inf` are numbers here, for the validator to name."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def box_of(points: Sequence[Point]) -> list[float]:
    """The upright box around points: xyxy."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return [min(xs), min(ys), max(xs), max(ys)]


def rotated_corners(box: Sequence[float], degrees: float) -> list[Point]:
    """Corners of a box (xyxy) that is turned clockwise around its centre, as seen on the screen."""
    x1, y1, x2, y2 = box
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [
        (
            middle_x + (x - middle_x) * cosine - (y - middle_y) * sine,
            middle_y + (x - middle_x) * sine + (y - middle_y) * cosine,
        )
        for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    ]


def ellipse(centre: Point, radius_x: float, radius_y: float, degrees: float = 0.0) -> list[Point]:
    """A polygon on the outline of an ellipse that is turned clockwise by `degrees`."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    points = []
    for step in range(CORNERS_OF_ELLIPSE):
        angle = 2 * math.pi * step / CORNERS_OF_ELLIPSE
        x, y = radius_x * math.cos(angle), radius_y * math.sin(angle)
        points.append((centre[0] + x * cosine - y * sine, centre[1] + x * sine + y * cosine))
    return points


def flat(points: Sequence[Point]) -> list[float]:
    """x1, y1, x2, y2, ...: a polygon as COCO writes it."""
    return [value for point in points for value in point]
