"""Lines of label files: `class x y width height`, or `class x1 y1 x2 y2 x3 y3 ...`, in fractions of the image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from detloom.data.findings import found
from detloom.data.layout import brief
from detloom.data.records import Finding, ObjectRecord

MAX_LABELS = 1 << 24
"""Bytes of a label file: 16 MiB, some hundred thousand boxes."""

FAR = (-1.0, 2.0)
"""Beyond these a fraction is no slip of the pen: such numbers are pixels, or nonsense."""

ROUNDING = 0.01


def parse_labels(text: str, name: str, keypoints: int = 0) -> Iterator[ObjectRecord | Finding]:
    """name: of the file, for findings. keypoints: numbers of a pose after each box (0: none)."""
    for number, line in enumerate(text.split("\n"), start=1):
        parts = line.split()
        if not parts:
            continue
        try:
            values = [float(part) for part in parts]
        except ValueError:
            yield found("bad-line", f"{name}:{number} ({brief(line.strip())} holds what is no number)")
            continue
        yield from _object(values, f"{name}:{number}", keypoints)


def _object(values: list[float], where: str, keypoints: int) -> Iterator[ObjectRecord | Finding]:
    count = len(values)
    pose = keypoints > 0 and count == 5 + keypoints
    fault = _fault(values, pose)
    if fault:
        yield found("bad-line", f"{where} ({fault})")
        return
    label, numbers = int(values[0]), values[1:5] if pose else values[1:]
    if any(math.isfinite(value) and not FAR[0] <= value <= FAR[1] for value in numbers):
        worst = max((value for value in numbers if math.isfinite(value)), key=abs)
        yield found("not-normalised", f"{where} (found {worst:g}: are these pixels?)")
    elif count == 5 or pose:
        x, y, width, height = numbers
        box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        yield ObjectRecord(box, label, keypoints=pose, where=where, relative=True)
    else:
        if not all(-ROUNDING <= value <= 1 + ROUNDING for value in numbers if math.isfinite(value)):
            yield found("polygon-outside", where)
        yield ObjectRecord(None, label, segmentation=[numbers], where=where, relative=True)


def _fault(values: Sequence[float], pose: bool) -> str:
    """Why a line of numbers is no object; empty for a good one."""
    count = len(values)
    if not values[0].is_integer() or abs(values[0]) > 1e9:
        return f"the class index is {values[0]:g}"
    if count < 5:
        return f"{count} numbers; a box has 5, a polygon 7 or more"
    if count == 6:
        return "6 numbers; a box has 5. Is the last one a confidence? Then these are predictions"
    if count % 2 == 0 and not pose:
        return f"{count} numbers; a polygon has one and pairs"
    return ""


def looks_like_labels(text: str) -> bool:
    """Whether the first line that says something begins with a class index and goes on in numbers."""
    line = next((line for line in text.split("\n") if line.strip()), "")
    try:
        values = [float(part) for part in line.split()]
    except ValueError:
        return False
    return len(values) >= 5 and values[0].is_integer()


def looks_oriented(texts: Iterable[str]) -> bool:
    """Whether every line is a class and four corners of a parallelogram, and not all of them are upright.

    Fractions of width and height bend right angles, but parallels stay parallel.
    """
    turned = False
    for text in texts:
        for line in text.split("\n"):
            parts = line.split()
            if not parts:
                continue
            if len(parts) != 9:
                return False
            try:
                _, x1, y1, x2, y2, x3, y3, x4, y4 = map(float, parts)
            except ValueError:
                return False
            if abs(x1 + x3 - x2 - x4) > 1e-3 or abs(y1 + y3 - y2 - y4) > 1e-3:
                return False
            upright = (abs(x1 - x2) < 1e-4 or abs(y1 - y2) < 1e-4) and (abs(x2 - x3) < 1e-4 or abs(y2 - y3) < 1e-4)
            turned = turned or not upright
    return turned
