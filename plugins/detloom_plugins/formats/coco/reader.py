"""COCO json to records. Whatever cannot be read becomes a finding with its place; nothing raises."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detloom.data.findings import found
from detloom.data.paths import PathEscapeError, find_inside
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, ObjectRecord
from detloom_plugins.formats.coco.format import image_folders

Record = ClassRecord | ImageRecord | Finding


@dataclass(frozen=True, slots=True)
class _Document:
    """One annotation file, its three lists sorted out. name: as shown to people."""

    split: str
    path: Path
    name: str
    categories: list[dict[str, Any]]
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]


def read_files(tree: DataTree, files: Mapping[str, Path]) -> Iterator[Record]:
    """Classes of all files first, then images."""
    documents: list[_Document] = []
    for split, path in files.items():
        name = str(path.relative_to(tree.root)) if path.is_relative_to(tree.root) else path.name
        loaded = _load(path, name)
        if isinstance(loaded, Finding):
            yield loaded
            continue
        document = _Document(split, path, name, *(list[dict[str, Any]]() for _ in range(3)))
        yield from _sort_out(loaded, document)
        documents.append(document)
    yield from _classes(documents)
    for document in documents:
        yield from _images(document, tree)


def _load(path: Path, name: str) -> Any:
    try:
        # utf-8-sig: Windows tools put a byte order mark in front.
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as fault:
        return found("json-syntax", f"{name}:{fault.lineno} (column {fault.colno}: {fault.msg})")
    except UnicodeDecodeError as fault:
        return found("json-syntax", f"{name} (byte {fault.start} is not UTF-8)")
    except RecursionError:
        return found("json-syntax", f"{name} (nested too deeply)")
    except ValueError as fault:  # integers of thousands of digits
        return found("json-syntax", f"{name} ({fault})")
    except OSError as fault:
        return found("not-coco", f"{name} (cannot be read: {fault.strerror or fault})")


def _sort_out(loaded: Any, document: _Document) -> Iterator[Finding]:
    """Fill the document's lists with the entries that are objects."""
    if not isinstance(loaded, dict):
        yield found("not-coco", f"{document.name} (a {_kind(loaded)} instead of an object with `images`)")
        return
    lacking = [key for key in ("images", "categories") if key not in loaded]
    if lacking:
        there = ", ".join(sorted(map(str, loaded))[:6]) or "nothing"
        yield found("not-coco", f"{document.name} (no `{'` and no `'.join(lacking)}`; it has {there})")
    for key, into in (
        ("categories", document.categories),
        ("images", document.images),
        ("annotations", document.annotations),
    ):
        entries = loaded.get(key, [])
        if not isinstance(entries, list):
            yield found("not-coco", f"{document.name} (`{key}` is a {_kind(entries)} instead of a list)")
            continue
        for position, entry in enumerate(entries):
            if isinstance(entry, dict):
                into.append(entry)
            else:
                yield found("bad-record", f"{document.name}: {key}[{position}] is a {_kind(entry)}")
    if not document.images and not lacking:
        yield found("empty-split", document.name)


def _classes(documents: list[_Document]) -> Iterator[Record]:
    used = Counter(_key(entry.get("category_id")) for document in documents for entry in document.annotations)
    everything = [(document, entry) for document in documents for entry in document.categories]
    several = len({_key(entry.get("id")) for _, entry in everything}) > 1
    placeholders: set[str] = set()
    for document, entry in everything:
        class_id, name = entry.get("id"), entry.get("name")
        where = f"{document.name}: category id {_brief(class_id)}"
        if not _is_id(class_id) or not isinstance(name, str) or not name.strip():
            yield found("bad-record", f"{where}, name {_brief(name)}")
        elif several and class_id == 0 and entry.get("supercategory") == "none" and not used[_key(0)]:
            if name not in placeholders:
                placeholders.add(name)
                yield found("placeholder-class", f"{where}, name {name}")
        else:
            yield ClassRecord(class_id, name, where)


def _images(document: _Document, tree: DataTree) -> Iterator[Record]:
    objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    yield from _group(document, objects)
    listed: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for entry in document.images:
        key = _key(entry.get("id"))
        if key is None or not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
            yield found(
                "bad-record",
                f"{document.name}: image id {_brief(entry.get('id'))}, file_name {_brief(entry.get('file_name'))}",
            )
        else:
            listed[key].append(entry)
    folders = image_folders(tree, document.path)
    # The user may have named an annotation file outside the root; what lies beside it belongs to it.
    roots = [tree.root, *tree.images, document.path.parent]
    for key, entries in listed.items():
        first = entries[0]
        where = f"{document.name}: image id {first['id']}"
        if any(_identity(entry) != _identity(first) for entry in entries):
            names = ", ".join(entry["file_name"] for entry in entries[:3])
            yield found("duplicate-image-id", f"{where} ({names})", count=len(entries))
            continue
        if len(entries) > 1:
            yield found("duplicate-image", where, count=len(entries) - 1)
        yield from _image(document, first, objects.get(key, []), folders, roots)
    for key, entries in objects.items():
        if key not in listed:
            places = f"{document.name}: annotation id {_brief(entries[0].get('id'))} (image_id {_brief(key)})"
            yield found("annotation-without-image", places, count=len(entries))


def _group(document: _Document, objects: dict[Any, list[dict[str, Any]]]) -> Iterator[Finding]:
    """Annotations by image; of those that share an id the first stays."""
    seen: dict[Any, dict[str, Any]] = {}
    for entry in document.annotations:
        key = _key(entry.get("id"))
        where = f"{document.name}: annotation id {_brief(entry.get('id'))}"
        if key is not None and key in seen:
            same = json.dumps(seen[key], sort_keys=True) == json.dumps(entry, sort_keys=True)
            yield found("duplicate-annotation" if same else "duplicate-annotation-id", where)
            continue
        if key is not None:
            seen[key] = entry
        objects[_key(entry.get("image_id"))].append(entry)


def _image(
    document: _Document,
    entry: dict[str, Any],
    annotations: list[dict[str, Any]],
    folders: list[Path],
    roots: list[Path],
) -> Iterator[Record]:
    where = f"{document.name}: image id {entry['id']}"
    try:
        path = find_inside(entry["file_name"], folders, roots)
    except PathEscapeError as fault:
        yield found("path-escape", f"{where} ({_brief(entry['file_name'])}: {fault})")
        return
    width, height = entry.get("width"), entry.get("height")
    if not all(value is None or _is_id(value) for value in (width, height)):
        yield found("bad-record", f"{where}: width {_brief(width)}, height {_brief(height)}")
        width = height = None
    yield ImageRecord(
        split=document.split,
        file_name=entry["file_name"],
        path=path,
        objects=tuple(_object(document, annotation) for annotation in annotations),
        id=entry["id"],
        width=None if None in (width, height) else width,
        height=None if None in (width, height) else height,
        where=where,
    )


def _object(document: _Document, entry: dict[str, Any]) -> ObjectRecord:
    own = entry.get("id")
    return ObjectRecord(
        bbox=_corners(entry.get("bbox")),
        class_id=entry.get("category_id"),
        segmentation=entry.get("segmentation"),
        area=entry.get("area"),
        crowd=entry.get("iscrowd") in (1, True),
        keypoints=bool(entry.get("keypoints")),
        id=own if _key(own) is not None else None,
        where=f"{document.name}: annotation id {_brief(own)}",
    )


def _corners(bbox: Any) -> Any:
    """xywh to xyxy; anything that is not four numbers passes as it is, for the validator to name."""
    if isinstance(bbox, list) and len(bbox) == 4 and all(type(value) in (int, float) for value in bbox):
        x, y, width, height = bbox
        return [x, y, x + width, y + height]
    return bbox


def _identity(entry: dict[str, Any]) -> tuple[str, ...]:
    return tuple(repr(entry.get(key)) for key in ("file_name", "width", "height"))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _key(value: Any) -> int | str | None:
    """Ids are integers or texts; whatever else is written identifies nothing."""
    return value if isinstance(value, str) or _is_id(value) else None


def _kind(value: Any) -> str:
    names = {list: "list", dict: "object", str: "text", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
