"""Boxes of a whole split that were written in another way than the format says: told once, not box by box."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from detloom.data.findings import Box, FindingBook
from detloom.data.objects import Frame, plain_box
from detloom.data.records import ImageRecord

MIN_FRACTIONS = 2
MIN_CORNERS = 8
"""Boxes that are needed to be sure."""


@dataclass(slots=True)
class _Sum:
    """What is still possible after some boxes. outside: those that reach out of their image as they are read."""

    first: str
    boxes: int = 0
    fractions: bool = True
    corners: bool = True
    outside: int = 0

    def add(self, box: Box, frame: Frame) -> None:
        self.boxes += 1
        if self.fractions:
            self.fractions = min(box) >= 0 and max(box) <= 1.001 and box[2] > box[0] and box[3] > box[1]
        if self.corners:
            x1, y1, x2, y2 = box
            height, width = frame.annotated_size
            right, bottom = x2 - x1, y2 - y1  # what stands where width and height are due
            self.corners = x1 >= 0 and y1 >= 0 and x1 < right <= width + 1 and y1 < bottom <= height + 1
            self.outside += x2 > width + 1 or y2 > height + 1

    @property
    def code(self) -> str:
        """Empty when the boxes are what they should be."""
        if self.fractions and self.boxes >= MIN_FRACTIONS:
            return "fractions-for-pixels"
        if self.corners and self.boxes >= MIN_CORNERS and 2 * self.outside >= self.boxes:
            return "corners-for-sizes"
        return ""


def mistaken_splits(images: Iterable[tuple[ImageRecord, Frame]], book: FindingBook) -> set[tuple[str, str]]:
    """The splits, each with its source, that the book now says it of."""
    sums: dict[tuple[str, str], _Sum] = {}
    for record, frame in images:
        for item in record.objects:
            box = None if item.relative else plain_box(item.bbox)
            if box is not None:
                key = (record.source, record.split)
                if key not in sums:
                    sums[key] = _Sum(item.where)
                sums[key].add(box, frame)
    book.sight = ("", "", None)
    mistaken = {key: one for key, one in sums.items() if one.code}
    for (_, split), one in mistaken.items():
        book.add(one.code, f"{split}: all {one.boxes} boxes, such as {one.first}")
    return set(mistaken)
