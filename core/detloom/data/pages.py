# ruff: noqa: TID253
"""One self-contained page of what the check found, with the suspicious boxes drawn."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from detloom.counting import counted
from detloom.data.findings import Box, Mark
from detloom.data.images import read_image
from detloom.data.records import Finding
from detloom.drawing import Colour, Image, encode_jpeg, fit, line_thickness
from detloom.errors import DataError
from detloom.files import write_text

if TYPE_CHECKING:
    from detloom.data.dataset import Dataset

SHOWN = 8
"""Pictures of one code."""
TEXTS_SHOWN = 12
"""Places of one code that have no picture."""
BUDGET_BYTES = 8_000_000
"""Of all pictures, as text."""

_SIDE = 440
_MARGIN = 0.4  # of the picture's side: how far a box outside it is followed
_SMALL = 14  # a box that is shown smaller than this gets a ring around it
_WRITTEN: Colour = (230, 57, 70)
_AFTER: Colour = (42, 157, 63)
_OUTSIDE: Colour = (236, 238, 241)


@dataclass(frozen=True, slots=True)
class Shown:
    """A place with its picture; uri is empty when there is nothing to look at."""

    where: str
    uri: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class Chapter:
    """A finding, its pictures, the places without one, and how many places are not on the page."""

    finding: Finding
    pictures: tuple[Shown, ...]
    texts: tuple[str, ...]
    more: int
    legend: bool


def write_page(
    path: Path,
    name: str,
    findings: Sequence[Finding],
    refused: Sequence[Finding],
    marks: Sequence[Mark],
    dataset: Dataset | None,
) -> None:
    """One file without any external reference, whole or not at all. Raises DetloomError when it cannot be written."""
    write_text(path, render(name, findings, refused, marks, dataset))


def render(
    name: str,
    findings: Sequence[Finding],
    refused: Sequence[Finding],
    marks: Sequence[Mark],
    dataset: Dataset | None,
) -> str:
    """The page. Everything that comes from the data is escaped by the template."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    import detloom.report

    folders = [Path(__file__).parent, Path(str(detloom.report.__file__)).parent]  # the report's style is ours
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counted"] = counted
    used = sum(len(split) for split in dataset.splits.values()) if dataset else 0
    objects = sum(len(split.labels) for split in dataset.splits.values()) if dataset else 0
    return environment.get_template("check_page.html.j2").render(
        name=name,
        chapters=chapters(findings, marks),
        refused=[finding.code for finding in refused],
        images=(used, used + sum(finding.images for finding in findings)),
        objects=(objects, objects + sum(finding.objects for finding in findings)),
        classes=len(dataset.class_map) if dataset else 0,
    )


def chapters(findings: Sequence[Finding], marks: Sequence[Mark]) -> list[Chapter]:
    """In the order of the findings. Pictures are drawn until the budget is spent."""
    by_code: dict[str, list[Mark]] = defaultdict(list)
    for mark in marks:
        by_code[mark.code].append(mark)
    left = BUDGET_BYTES
    made = []
    for finding in findings:
        places = by_code.pop(finding.code, [])  # findings that differ in their message only share their places
        pictures: list[Shown] = []
        texts: list[str] = []
        for mark in places:
            shown = picture_of(mark) if len(pictures) < SHOWN and left > 0 else None
            if shown is not None:
                pictures.append(shown)
                left -= len(shown.uri)
            elif len(texts) < TEXTS_SHOWN and (mark.path is None or not pictures):
                texts.append(mark.where)
        more = sum(mark.count for mark in places) - len(pictures) - len(texts)
        boxes = any(mark.after is not None for mark in places)
        made.append(Chapter(finding, tuple(pictures), tuple(texts), max(more, 0), boxes))
    return made


def picture_of(mark: Mark) -> Shown | None:
    """The picture of a place with its boxes; None when there is no picture that can be read."""
    if mark.path is None:
        return None
    try:
        image = _drawn(read_image(mark.path), mark.box, mark.after)
        if mark.other is not None:
            image = _beside(_drawn(read_image(mark.other), None, None), image)
    except DataError:
        return None
    data = base64.b64encode(encode_jpeg(image, quality=80)).decode("ascii")
    return Shown(mark.where, f"data:image/jpeg;base64,{data}", image.shape[1], image.shape[0])


def _drawn(image: Image, box: Box | None, after: Box | None) -> Image:
    """The picture, scaled, with what was written in red and what became of it in green."""
    small, factor = fit(image, _SIDE)
    boxes = [(b, colour) for b, colour in ((box, _WRITTEN), (after, _AFTER)) if b is not None]
    scaled = [([value * factor for value in b], colour) for b, colour in boxes]
    canvas, left, top = _with_room([b for b, _ in scaled], small)
    thickness = line_thickness(canvas) + 1
    height, width = canvas.shape[:2]
    for corners, colour in scaled:
        # OpenCV takes whole numbers of 32 bits; what lies farther out is not seen anyway.
        x1, x2 = (int(np.clip(round(value + left), -1, width)) for value in (corners[0], corners[2]))
        y1, y2 = (int(np.clip(round(value + top), -1, height)) for value in (corners[1], corners[3]))
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thickness, cv2.LINE_AA)
        if max(abs(x2 - x1), abs(y2 - y1)) < _SMALL:
            cv2.circle(canvas, ((x1 + x2) // 2, (y1 + y2) // 2), _SMALL, colour, thickness, cv2.LINE_AA)
    return canvas


def _with_room(boxes: Sequence[Sequence[float]], image: Image) -> tuple[Image, int, int]:
    """The picture on a larger sheet when boxes reach out of it, and its place there: left, top."""
    height, width = image.shape[:2]
    most_x, most_y = int(width * _MARGIN), int(height * _MARGIN)
    xs = [value for box in boxes for value in (box[0], box[2])]
    ys = [value for box in boxes for value in (box[1], box[3])]
    sides = [_room(-min(xs, default=0), most_x), _room(max(xs, default=0) - width, most_x)]
    ends = [_room(-min(ys, default=0), most_y), _room(max(ys, default=0) - height, most_y)]
    sheet = np.full((height + sum(ends), width + sum(sides), 3), _OUTSIDE, dtype=np.uint8)
    sheet[ends[0] : ends[0] + height, sides[0] : sides[0] + width] = image
    return sheet, sides[0], ends[0]


def _room(reach: float, most: int) -> int:
    return int(min(reach, most)) + 6 if reach > 0 else 0


def _beside(one: Image, other: Image) -> Image:
    """Two pictures of the same height with a gap between them."""
    height = min(one.shape[0], other.shape[0])
    parts = [
        cv2.resize(part, (max(1, round(part.shape[1] * height / part.shape[0])), height), interpolation=cv2.INTER_AREA)
        for part in (one, other)
    ]
    gap = np.full((height, 8, 3), _OUTSIDE, dtype=np.uint8)
    return np.asarray(np.hstack([parts[0], gap, parts[1]]), dtype=np.uint8)
