"""Boxes of a whole split that were written in another way than the format says: told once, not box by box."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from detloom.data.findings import Box, FindingBook
from detloom.data.objects import Frame, plain_box
from detloom.data.records import ImageRecord

MIN_FRACTIONS = 2
MIN_CORNERS = 8
"""Boxes that are needed to be sure."""


def mistaken_splits(images: Sequence[tuple[ImageRecord, Frame]], book: FindingBook) -> set[tuple[str, str]]:
    """The splits, each with its source, that the book now says it of."""
    boxes: dict[tuple[str, str], list[tuple[Box, Frame, str]]] = defaultdict(list)
    for record, frame in images:
        if not any(item.relative for item in record.objects):
            for item in record.objects:
                box = plain_box(item.bbox)
                if box is not None:
                    boxes[record.source, record.split].append((box, frame, item.where))
    book.sight = ("", "", None)
    found = set()
    for (source, split), rows in boxes.items():
        first = f"{split}: all {len(rows)} boxes, such as {rows[0][2]}"
        if len(rows) >= MIN_FRACTIONS and all(_is_fraction(box) for box, _, _ in rows):
            book.add("fractions-for-pixels", first, objects=0)
        elif len(rows) >= MIN_CORNERS and _are_corners([(box, frame) for box, frame, _ in rows]):
            book.add("corners-for-sizes", first, objects=0)
        else:
            continue
        found.add((source, split))
    return found


def _is_fraction(box: Box) -> bool:
    return min(box) >= 0 and max(box) <= 1.001 and box[2] > box[0] and box[3] > box[1]


def _are_corners(rows: Sequence[tuple[Box, Frame]]) -> bool:
    """Read as [x, y, width, height] at least half reach out of their images; read as corners all lie inside."""
    outside = 0
    for (x1, y1, x2, y2), frame in rows:
        height, width = frame.annotated_size
        right, bottom = x2 - x1, y2 - y1  # what stands where width and height are due
        if not (x1 >= 0 and y1 >= 0 and x1 < right <= width + 1 and y1 < bottom <= height + 1):
            return False
        outside += x2 > width + 1 or y2 > height + 1
    return 2 * outside >= len(rows)
