"""What sources and formats hand to the core. Standard library only, so that plugin fronts stay light."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One coded result of the data check.

    code: stable, such as `missing-image`; where: file:line, file and id, or image name; count: how many places it
    stands for; remedy: what the user, or Detloom, does about it; images, objects: how many of them are left out of the
    data for it (objects: also those of these images, where they are known).
    """

    code: str
    severity: Severity
    message: str
    where: str = ""
    remedy: str = ""
    count: int = 1
    images: int = 0
    objects: int = 0


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """What a source would bring. identity: what it is; revision: changes when its content changes; bytes: total or
    None when the source cannot tell."""

    identity: str
    revision: str
    files: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class DataTree:
    """Fetched data on this machine.

    root: nothing outside it is read. images: folders that images are looked up in, in order (the folder of the
    annotation file comes first). annotations: split name to annotation file, when the user named the files; empty
    means that the format looks for them itself. name: what people call the data; empty: the name of the folder.
    """

    root: Path
    images: tuple[Path, ...] = ()
    annotations: Mapping[str, Path] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, slots=True)
class Sniff:
    """score: 0 (cannot read this) to 1 (certain); reason: why, for people."""

    score: float
    reason: str


@dataclass(frozen=True, slots=True)
class ClassRecord:
    """id: the data's own class id; None for formats that know classes by name alone."""

    id: int | None
    name: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """bbox: xyxy in pixels as written, or None when only a mask is given. segmentation: COCO polygons or RLE (either
    spelling). class_id or class_name says what it is. relative: box and polygons are fractions of the image's width
    and height; the core, which knows the size of the picture, turns them into pixels."""

    bbox: Sequence[Any] | None
    class_id: int | None = None
    class_name: str | None = None
    segmentation: Any = None
    area: float | None = None
    crowd: bool = False
    keypoints: bool = False
    id: int | str | None = None
    where: str = ""
    relative: bool = False


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """split: `train`, `val`, `test`, or `all` when the data are not split. file_name: as written; path: where it was
    found inside the tree, or None. width, height: as written, or None. fault: why the image cannot be used; None when
    nothing is known against it. source: which of several sources it is from; formats leave it empty. fields: what else
    is written of the image (`video_id`), for groups that stay in one split."""

    split: str
    file_name: str
    path: Path | None
    objects: tuple[ObjectRecord, ...]
    id: int | str | None = None
    width: int | None = None
    height: int | None = None
    where: str = ""
    fault: Finding | None = None
    source: str = ""
    fields: Mapping[str, Any] | None = None
