# ruff: noqa: TID253
"""From checked images to the arrays of a dataset, and its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detloom.data.dataset import ImageInfo, Split
from detloom.data.objects import CheckedObject


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """width, height: upright, in pixels. source, fields: see ImageRecord."""

    split: str
    id: int | str | None
    file_name: str
    path: Path
    width: int
    height: int
    sha256: str
    objects: tuple[CheckedObject, ...]
    where: str
    source: str = ""
    fields: Mapping[str, Any] | None = None


def build_split(name: str, images: Sequence[CheckedImage]) -> Split:
    """Images get ids (their position, from 1) where the data have none; so do objects."""
    objects = [item for image in images for item in image.objects]
    counts = [len(image.objects) for image in images]
    infos = tuple(
        ImageInfo(
            position if image.id is None else image.id,
            image.file_name,
            image.path,
            image.width,
            image.height,
            image.sha256,
            image.source,
        )
        for position, image in enumerate(images, start=1)
    )
    return Split(
        name=name,
        images=infos,
        boxes=np.array([item.box for item in objects], dtype=np.float64).reshape(-1, 4),
        labels=np.array([item.label for item in objects], dtype=np.int64),
        crowd=np.array([item.crowd for item in objects], dtype=np.bool_),
        area=np.array([item.area for item in objects], dtype=np.float64),
        image_index=np.repeat(np.arange(len(images), dtype=np.int64), counts),
        object_ids=_object_ids(objects),
        rles=tuple(item.rle for item in objects),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def _object_ids(objects: Sequence[CheckedObject]) -> tuple[int | str, ...]:
    """The data's own ids where all are there and unique; otherwise positions from 1."""
    own = [item.id for item in objects]
    if None not in own and len(set(own)) == len(own):
        return tuple(value for value in own if value is not None)
    return tuple(range(1, len(objects) + 1))


def digest_of(splits: Mapping[str, Split], names: Sequence[str]) -> str:
    """sha256 over pictures, class names and geometry by split: not over ids, file names or any order."""
    lines = [f"class\x1f{name}" for name in names]
    for split in splits.values():
        for index, image in enumerate(split.images):
            rows = split.objects_of(index)
            lines.append("\x1e".join(["image", split.name, image.sha256, *sorted(_object_lines(split, rows, names))]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _object_lines(split: Split, rows: slice, names: Sequence[str]) -> list[str]:
    """One text an object; thousandths of a pixel, so that a round trip through decimals does not count."""
    lines = []
    for row in range(rows.start, rows.stop):
        box = ",".join(f"{value:.3f}" for value in split.boxes[row] + 0.0)
        rle = split.rles[row]
        parts = [names[int(split.labels[row])], box, "crowd" if split.crowd[row] else "", rle["counts"] if rle else ""]
        lines.append("\x1f".join(parts))
    return lines
