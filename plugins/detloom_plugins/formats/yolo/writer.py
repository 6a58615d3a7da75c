# ruff: noqa: TID253
"""A dataset as YOLO files, in the layout that Ultralytics reads.

    data.yaml                  names by index; train, val, test
    images/train/a.jpg         hard links where possible
    labels/train/a.txt         a line for each object; an empty file for background

An object with a mask becomes a polygon that fills to the same pixels; others become boxes. Crowds are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detloom.data.dataset import Dataset, ImageInfo, Split
from detloom.data.findings import found
from detloom.data.masks import decode_rle, rle_box
from detloom.data.placing import Names, place_images, renamed
from detloom.data.records import Finding
from detloom.files import write_text
from detloom_plugins.formats.yolo.outline import outline

_FOLDERS = {"all": "train"}
"""The format knows no data that are not split."""


def write_dataset(dataset: Dataset, dest: Path, copy_images: bool) -> list[Path]:
    """Returns data.yaml. Raises DetloomError when the place cannot be written."""
    entries = {}
    for split in dataset.splits.values():
        folder = _FOLDERS.get(split.name, split.name)
        names = _names()
        given = place_images(split, dest / "images" / folder, names, copy_images)
        for index, name in enumerate(given):
            path = (dest / "labels" / folder / name).with_suffix(".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(_lines(split, index)), encoding="utf-8")
        entries[folder] = f"images/{folder}"
    document: dict[str, Any] = {**entries, "names": dict(enumerate(dataset.class_map.names))}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)
    write_text(dest / "data.yaml", text)
    return [dest / "data.yaml"]


def losses_of(dataset: Dataset) -> list[Finding]:
    """What cannot be written, with counts."""
    splits = list(dataset.splits.values())
    counts = {
        "crowds-lost": sum(int(split.crowd.sum()) for split in splits),
        "boxes-from-masks": sum(_boxes_from_masks(split) for split in splits),
        "areas-lost": sum(_own_areas(split) for split in splits),
        "ids-lost": sum(_own_ids(split) for split in splits),
        "class-ids-lost": sum(index != own for index, own in enumerate(dataset.class_map.ids)),
        "split-renamed": sum(split.name in _FOLDERS for split in splits),
        "files-renamed": sum(renamed(split.images, _names()) for split in splits),
    }
    return [found(code, count=count) for code, count in counts.items() if count]


def _lines(split: Split, index: int) -> list[str]:
    rows = split.objects_of(index)
    return [_line(split, row, split.images[index]) for row in range(rows.start, rows.stop) if not split.crowd[row]]


def _line(split: Split, row: int, image: ImageInfo) -> str:
    rle = split.rles[row]
    if rle is None:
        x1, y1, x2, y2 = split.boxes[row].tolist()
        numbers = [
            (x1 + x2) / 2 / image.width, (y1 + y2) / 2 / image.height, (x2 - x1) / image.width, (y2 - y1) / image.height
        ]  # fmt: skip
    else:
        left, top, right, bottom = (int(side) for side in rle_box(rle))
        corners = outline(decode_rle(rle)[top:bottom, left:right]) + np.array((left, top))
        numbers = (corners / np.array((image.width, image.height))).ravel().tolist()
    # Twelve digits: the box comes back to a millionth of a pixel.
    return " ".join([str(int(split.labels[row])), *(f"{value:.12g}" for value in numbers)]) + "\n"


def _boxes_from_masks(split: Split) -> int:
    """Objects whose box is not the one around their mask."""
    count = 0
    for row, rle in enumerate(split.rles):
        if rle is not None and not split.crowd[row]:
            count += bool(np.abs(np.array(rle_box(rle)) - split.boxes[row]).max() > 0.01)
    return count


def _own_areas(split: Split) -> int:
    """Objects without a mask whose area is not their box's."""
    sizes = split.boxes[:, 2:] - split.boxes[:, :2]
    bare = np.array([rle is None for rle in split.rles], dtype=bool)
    return int((bare & ~split.crowd & (np.abs(sizes.prod(axis=1) - split.area) > 0.01)).sum())


def _own_ids(split: Split) -> int:
    images: Sequence[object] = [image.id for image in split.images]
    lost = 0 if images == list(range(1, len(images) + 1)) else len(images)
    return lost + (0 if list(split.object_ids) == list(range(1, len(split.labels) + 1)) else len(split.labels))


def _names() -> Names:
    """Readers of this format look for pictures in folders, where hidden files count for nothing."""
    return Names(by_stem=True, visible=True, without=("images", "labels"))
