# ruff: noqa: TID253
"""The canonical dataset: validated, in memory, with one immutable class map and a content digest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from detloom.data.manifest import SourceUse
from detloom.data.records import Finding


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Dataset id <-> contiguous index <-> name. The index is the position; ids ascend."""

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def index_of(self, class_id: int) -> int:
        """Raises KeyError for an id that is not there."""
        return self._index[class_id]

    @property
    def _index(self) -> dict[int, int]:
        return {class_id: index for index, class_id in enumerate(self.ids)}

    def to_list(self) -> list[dict[str, Any]]:
        return [{"index": i, "id": c, "name": n} for i, (c, n) in enumerate(zip(self.ids, self.names, strict=True))]

    @classmethod
    def from_list(cls, rows: list[dict[str, Any]]) -> Self:
        ordered = sorted(rows, key=lambda row: int(row["index"]))
        return cls(tuple(int(row["id"]) for row in ordered), tuple(str(row["name"]) for row in ordered))


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """id: the data's own; width, height: pixels of the upright picture (EXIF orientation applied); sha256: of the
    file. source: which of several sources it is from; empty when there is one."""

    id: int | str
    file_name: str
    path: Path
    width: int
    height: int
    sha256: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Images of one split and their objects, ordered by image.

    boxes: float64 [N, 4] xyxy pixels; labels: int64 [N] class indices; crowd: bool [N]; area: float64 [N] px;
    image_index: int64 [N], ascending; object_ids: the data's own or made; rles: COCO RLE per object or None.
    """

    name: str
    images: tuple[ImageInfo, ...]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    image_index: NDArray[np.int64]
    object_ids: tuple[int | str, ...]
    rles: tuple[Mapping[str, Any] | None, ...]
    starts: NDArray[np.int64]
    """int64 [images + 1]: objects of image i are rows starts[i] to starts[i + 1]."""

    def __len__(self) -> int:
        return len(self.images)

    def objects_of(self, image: int) -> slice:
        return slice(int(self.starts[image]), int(self.starts[image + 1]))

    @property
    def without_masks(self) -> int:
        """Objects that are no crowds and have no mask."""
        return sum(rle is None and not crowd for rle, crowd in zip(self.rles, self.crowd.tolist(), strict=True))


def select_images(split: Split, positions: Sequence[int]) -> Split:
    """The split with some of its images, in the given order, each with its objects."""
    spans = [split.objects_of(position) for position in positions]
    counts = np.array([span.stop - span.start for span in spans], dtype=np.int64)
    ranges = [np.arange(span.start, span.stop) for span in spans]
    rows = np.concatenate(ranges) if ranges else np.zeros(0, dtype=np.int64)
    return replace(
        split,
        images=tuple(split.images[position] for position in positions),
        boxes=split.boxes[rows],
        labels=split.labels[rows],
        crowd=split.crowd[rows],
        area=split.area[rows],
        image_index=np.repeat(np.arange(len(positions), dtype=np.int64), counts),
        object_ids=tuple(split.object_ids[row] for row in rows.tolist()),
        rles=tuple(split.rles[row] for row in rows.tolist()),
        starts=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """splits: `train`, `val` and, where the data have one, `test`. source, revision: where they came from, and what
    they were there (see detloom.data.records.SourcePlan); sources: the same of each, and what it gave."""

    name: str
    class_map: ClassMap
    splits: Mapping[str, Split]
    digest: str
    findings: tuple[Finding, ...] = ()
    has_boxes: bool = True
    has_masks: bool = False
    has_keypoints: bool = False
    source: str = ""
    revision: str = ""
    sources: tuple[SourceUse, ...] = ()
