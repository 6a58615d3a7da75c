"""Columns of a CSV file by the names in its first line."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

DELIMITERS = (",", ";", "\t", "|")
Layout = Literal["corners", "corner-size", "centre-size"]

_FILE = ("filename", "file", "image", "imagepath", "imagename", "imagefile", "path", "img", "imgpath", "imageid")
_LABEL = ("class", "label", "classname", "labelname", "category", "categoryname", "name", "classlabel")
_SPLIT = ("split", "set", "subset", "usage")
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
    ("xtl", "ytl", "xbr", "ybr"),
    ("bboxxmin", "bboxymin", "bboxxmax", "bboxymax"),
)
_CORNER_SIZES = (
    ("x", "y", "width", "height"),
    ("x", "y", "w", "h"),
    ("left", "top", "width", "height"),
    ("xmin", "ymin", "width", "height"),
    ("bboxx", "bboxy", "bboxwidth", "bboxheight"),
    ("bboxx", "bboxy", "bboxw", "bboxh"),
)
_CENTRE_SIZES = (
    ("xcenter", "ycenter", "width", "height"),
    ("xcenter", "ycenter", "w", "h"),
    ("centerx", "centery", "width", "height"),
    ("cx", "cy", "w", "h"),
    ("cx", "cy", "width", "height"),
)
_IMAGE_SIZES = (("imagewidth", "imageheight"), ("imgwidth", "imgheight"), ("imgw", "imgh"), ("width", "height"))
_BOXES: tuple[tuple[Layout, tuple[tuple[str, ...], ...]], ...] = (
    ("corners", _CORNERS),
    ("corner-size", _CORNER_SIZES),
    ("centre-size", _CENTRE_SIZES),
)


@dataclass(frozen=True, slots=True)
class Header:
    """Positions of columns; None for one that is not there. columns: how many there are. box: four of them.
    open_images: the header of that data set, whose coordinates are fractions and whose file names lack the suffix."""

    delimiter: str
    columns: int
    file: int
    label: int
    box: tuple[int, ...]
    layout: Layout
    size: tuple[int, int] | None
    split: int | None
    group: int | None
    names: tuple[str, ...]
    open_images: bool


def parse_header(line: str) -> Header | str:
    """Or what is missing."""
    best: Header | str = "the first line holds no names of columns"
    for delimiter in DELIMITERS:
        if delimiter in line:
            try:
                names = next(csv.reader([line], delimiter=delimiter), [])
            except csv.Error as fault:
                return f"the first line cannot be read: {fault}"
            read = _header(names, delimiter)
            if isinstance(read, Header):
                return read
            best = read
    return best


def _header(names: Sequence[str], delimiter: str) -> Header | str:
    # `x_min`, `xMin` and `X min` are one name.
    places: dict[str, int] = {}
    for position, name in enumerate(names):
        places.setdefault(re.sub(r"[^a-z0-9]", "", name.lower()), position)
    file, label = _first(places, _FILE), _first(places, _LABEL)
    if file is None or label is None:
        lacking = "file (filename, image, path, ...)" if file is None else "class (class, label, category, ...)"
        return f"no column for the {lacking} among {', '.join(names)[:80]}"
    for layout, families in _BOXES:
        for family in families:
            if all(name in places for name in family):
                return Header(
                    delimiter=delimiter,
                    columns=len(names),
                    file=file,
                    label=label,
                    box=tuple(places[name] for name in family),
                    layout=layout,
                    size=_size(places, family),
                    split=_first(places, _SPLIT),
                    group=places.get("isgroupof", places.get("iscrowd")),
                    names=tuple(names[places[name]] for name in family),
                    open_images={"imageid", "labelname", "xmin", "isgroupof"} <= set(places),
                )
    return "no columns for a box (xmin ymin xmax ymax, x1 y1 x2 y2, x y width height, cx cy w h, ...)"


def _size(places: dict[str, int], box: Sequence[str]) -> tuple[int, int] | None:
    """`width` is the image's where the box is given by corners, and the box's where it is not."""
    for width, height in _IMAGE_SIZES:
        if width in places and height in places and width not in box:
            return places[width], places[height]
    return None


def _first(places: dict[str, int], names: Sequence[str]) -> int | None:
    return next((places[name] for name in names if name in places), None)
