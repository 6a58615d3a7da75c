# ruff: noqa: TID253
"""Items of datumaro as records.

The library changes what it reads: class ids become positions, images come in another order, and a box and its mask are
two annotations of one group. Records carry class names and no ids; what is of one group and one class is one object.
"""

from __future__ import annotations

import importlib
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detloom.data.findings import found
from detloom.data.layout import brief, shown, split_of
from detloom.data.masks import RLE, encode_mask
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, ObjectRecord
from detloom.errors import PluginError

# Without types, and not in every environment that this file is checked in.
datumaro: Any = importlib.import_module("datumaro")

Record = ClassRecord | ImageRecord | Finding

_OBJECTS = ("bbox", "polygon", "mask", "rotated_bbox", "ellipse")
_NOT_SPLIT = ("default", "")


def read_tree(tree: DataTree, reader: str) -> Iterator[Record]:
    """reader: datumaro's name of the format, or `auto`. Raises PluginError for a name that it does not know."""
    named = next(iter(tree.annotations.values()), None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the library says to its own developers
            dataset = datumaro.Dataset.import_from(str(named or tree.root), None if reader == "auto" else reader)
            items = list(dataset)
    except Exception as fault:  # the library has no exception of its own for half of what goes wrong
        _refuse_unknown(reader)
        yield found("unreadable-file", f"{shown(named or tree.root, tree.root)} (datumaro: {_reason(fault)})")
        return
    names = [category.name for category in _labels(dataset)]
    used = {annotation.label for item in items for annotation in item.annotations if _is_object(annotation)}
    for index, name in enumerate(names):
        # Lists of many formats begin with the background, used or not.
        if index in used or name != "background":
            yield ClassRecord(None, name, f"class {index} of datumaro")
    yield from _Reader(tree, names).images(items)


def _refuse_unknown(reader: str) -> None:
    known = sorted(datumaro.components.environment.Environment().importers)
    if reader != "auto" and reader not in known:
        raise PluginError(
            f"datumaro has no format {reader!r} (data.datumaro.reader)", hint=f"it reads: {', '.join(known)}"
        )


def _reason(fault: BaseException) -> str:
    """The innermost sentence: the outer ones only say that the import failed."""
    while fault.__cause__ is not None:
        fault = fault.__cause__
    return " ".join(str(fault).split())[:200] or type(fault).__name__


def _labels(dataset: Any) -> Sequence[Any]:
    categories = dataset.categories().get(datumaro.AnnotationType.label)
    return () if categories is None else list(categories.items)


def _is_object(annotation: Any) -> bool:
    return annotation.type.name in _OBJECTS


@dataclass(frozen=True, slots=True)
class _Reader:
    tree: DataTree
    names: list[str]

    def images(self, items: Sequence[Any]) -> Iterator[Record]:
        strange: set[str] = set()
        for item in items:
            subset = str(item.subset or "")
            split = "all" if subset in _NOT_SPLIT else split_of(subset)
            if split is None and subset not in strange:
                strange.add(subset)
                yield found("unknown-split", f"subset {brief(subset)}")
            where = f"{subset}: {item.id}" if subset else str(item.id)
            path, finding = self._path(item, where)
            if finding is not None:
                yield finding
                continue
            objects = list(self._objects(item, where))
            yield from (one for one in objects if isinstance(one, Finding))
            yield ImageRecord(
                split=split or "all",
                file_name=str(item.id) if path is None else path.name,
                path=path,
                objects=tuple(one for one in objects if isinstance(one, ObjectRecord)),
                where=where,
            )

    def _path(self, item: Any, where: str) -> tuple[Path | None, Finding | None]:
        """The picture's file, or None where there is none."""
        text = getattr(item.media, "path", None)
        if not text:
            return None, None
        path, roots = Path(text), [root.resolve() for root in (self.tree.root, *self.tree.images)]
        if not any(path.resolve().is_relative_to(root) for root in roots):
            objects = sum(map(_is_object, item.annotations))
            return None, found("path-escape", f"{where} ({brief(text)})", objects=objects)
        return (path if path.is_file() else None), None

    def _objects(self, item: Any, where: str) -> Iterator[ObjectRecord | Finding]:
        groups: dict[object, list[Any]] = defaultdict(list)
        for number, annotation in enumerate(item.annotations):
            if _is_object(annotation):
                groups[annotation.group, annotation.label, "" if annotation.group else number].append(annotation)
            elif annotation.type.name not in ("label", "caption"):
                yield found("shape-not-read", f"{where} ({annotation.type.name})")
        for parts in groups.values():
            boxes = sum(part.type.name == "bbox" for part in parts)
            # A group with several boxes is several objects: people group what belongs together.
            for one in [[part] for part in parts] if boxes > 1 else [parts]:
                yield from self._object(one, where)

    def _object(self, parts: Sequence[Any], where: str) -> Iterator[ObjectRecord | Finding]:
        first = parts[0]
        place = f"{where}, {first.type.name} {first.id}"
        if any(part.type.name == "rotated_bbox" for part in parts):
            yield found("rotated-box", place)
        label = -1 if first.label is None else int(first.label)
        boxes = [part for part in parts if part.type.name == "bbox"]
        plain = [part for part in parts if part.type.name in ("rotated_bbox", "ellipse")]
        box = _corners(boxes[0]) if boxes else _corners(plain[0]) if plain else None
        yield ObjectRecord(
            bbox=box,
            class_name=self.names[label] if 0 <= label < len(self.names) else f"class {first.label}",
            segmentation=_segmentation(parts),
            crowd=any(bool(part.attributes.get("is_crowd")) for part in parts),
            where=place,
        )


def _corners(part: Any) -> list[float]:
    """The upright box around a shape: xyxy."""
    x, y, w, h = part.get_bbox()
    return [x, y, x + w, y + h]


def _segmentation(parts: Sequence[Any]) -> list[list[float]] | RLE | None:
    masks = [np.asarray(part.image) != 0 for part in parts if part.type.name == "mask"]
    if masks:
        return encode_mask(np.logical_or.reduce(masks))
    return [list(map(float, part.points)) for part in parts if part.type.name == "polygon"] or None
