"""COCO json to records. Whatever cannot be read becomes a finding with its place; nothing raises."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detloom.data.findings import found
from detloom.data.layout import brief
from detloom.data.paths import Finder, PathEscapeError
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, ObjectRecord
from detloom_plugins.formats.coco.document import Document, key_of, open_document, whole_number
from detloom_plugins.formats.coco.format import image_folders

Record = ClassRecord | ImageRecord | Finding

_NUMBERS = frozenset({int, float})
_OWN = frozenset({"id", "file_name", "width", "height", "license", "date_captured", "coco_url", "flickr_url"})
"""Keys of an image that COCO itself defines."""


def read_files(tree: DataTree, files: Mapping[str, Path]) -> Iterator[Record]:
    """Classes of all files first, then images."""
    documents: list[Document] = []
    for split, path in files.items():
        name = str(path.relative_to(tree.root)) if path.is_relative_to(tree.root) else path.name
        for item in open_document(split, path, name):
            if isinstance(item, Finding):
                yield item
            else:
                documents.append(item)
    yield from _classes(documents)
    _without_lost_classes(documents)
    for document in documents:
        yield from _strange_crowds(document)
        yield from _images(document, tree)


def _classes(documents: list[Document]) -> Iterator[Record]:
    used = Counter(key_of(entry.get("category_id")) for document in documents for entry in document.annotations)
    everything = [(document, entry) for document in documents for entry in document.categories]
    several = len({key_of(entry.get("id")) for _, entry in everything}) > 1
    known = {whole_number(entry.get("id")) for _, entry in everything if _is_class(entry)}
    # Which class was meant by ids that no class has is told by the class that lacks its own.
    lost = sum(count for class_id, count in used.items() if class_id not in known)
    placeholders: set[str] = set()
    for document, entry in everything:
        class_id, name = whole_number(entry.get("id")), entry.get("name")
        where = f"{document.name}: category id {brief(entry.get('id'))}"
        if not _is_class(entry):
            yield found("bad-class", f"{where}, name {brief(name)}", objects=lost)
            lost = 0
        elif several and class_id == 0 and entry.get("supercategory") == "none" and not used[key_of(0)]:
            if name not in placeholders:
                placeholders.add(str(name))
                yield found("placeholder-class", f"{where}, name {name}")
        else:
            yield ClassRecord(class_id, str(name), where)


def _is_class(entry: Mapping[str, Any]) -> bool:
    name = entry.get("name")
    return whole_number(entry.get("id")) is not None and isinstance(name, str) and bool(name.strip())


def _without_lost_classes(documents: list[Document]) -> None:
    """Leave out annotations of classes that are told as broken."""
    everything = [entry for document in documents for entry in document.categories]
    if all(_is_class(entry) for entry in everything):
        return
    known = {whole_number(entry.get("id")) for entry in everything if _is_class(entry)}
    for document in documents:
        document.annotations[:] = [e for e in document.annotations if key_of(e.get("category_id")) in known]


def _images(document: Document, tree: DataTree) -> Iterator[Record]:
    objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    yield from _group(document, objects)
    document.annotations.clear()  # each is given on once: half the memory of large files
    listed: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    nameless: list[dict[str, Any]] = []
    for entry in document.images:
        key = key_of(entry.get("id"))
        (nameless if key is None else listed[key]).append(entry)
    orphans = [entry for key, entries in objects.items() if key not in listed for entry in entries]
    for where in (*document.strange, *(_image_place(document, entry) for entry in nameless)):
        # Annotations of no image are probably theirs.
        yield found("bad-record", where, images=1, objects=len(orphans))
        orphans = []
    clashing = [entries for entries in listed.values() if not _alike(entries)]
    for entries in clashing:
        # Of images that got each other's id, one has lost its own, and its annotations belong to nobody.
        own = objects.get(key_of(entries[0]["id"]), [])
        yield from _clash(document, entries, own, len(orphans))
        orphans = []
    # The user may have named an annotation file outside the root; what lies beside it belongs to it.
    finder = Finder(image_folders(tree, document.path), [tree.root, *tree.images, document.path.parent])
    for key, entries in listed.items():
        if _alike(entries):
            if len(entries) > 1:
                where = f"{document.name}: image id {entries[0]['id']}"
                yield found("duplicate-image", where, count=len(entries) - 1)
            yield from _image(document, entries[0], objects.pop(key, []), finder)
    for entry in orphans:
        place = f"annotation id {brief(entry.get('id'))} (image_id {brief(entry.get('image_id'))})"
        yield found("annotation-without-image", f"{document.name}: {place}")


def _alike(entries: list[dict[str, Any]]) -> bool:
    """Whether entries of one id say the same."""
    return all(_identity(entry) == _identity(entries[0]) for entry in entries)


def _clash(
    document: Document, entries: list[dict[str, Any]], annotations: list[dict[str, Any]], orphans: int
) -> Iterator[Record]:
    """Different images with one id. Whose the annotations are nobody knows; they are counted once."""
    for entry in entries:
        where = f"{document.name}: image id {entry['id']} ({brief(entry.get('file_name'))})"
        fault = found("duplicate-image-id", where, objects=len(annotations) + orphans)
        yield _record(document, entry, annotations, None, fault)
        annotations, orphans = [], 0


def _group(document: Document, objects: dict[Any, list[dict[str, Any]]]) -> Iterator[Finding]:
    """Annotations by image; of those that share an id the first stays."""
    seen: dict[Any, dict[str, Any]] = {}
    for entry in document.annotations:
        key = key_of(entry.get("id"))
        if key is not None and key in seen:
            where = f"{document.name}: annotation id {brief(entry.get('id'))}"
            same = json.dumps(seen[key], sort_keys=True) == json.dumps(entry, sort_keys=True)
            yield found("duplicate-annotation" if same else "duplicate-annotation-id", where)
            continue
        if key is not None:
            seen[key] = entry
        objects[key_of(entry.get("image_id"))].append(entry)


def _image(
    document: Document, entry: dict[str, Any], annotations: list[dict[str, Any]], finder: Finder
) -> Iterator[Record]:
    where, name = f"{document.name}: image id {entry['id']}", entry.get("file_name")
    if not isinstance(name, str) or not name:
        fault = found("bad-record", _image_place(document, entry), images=1, objects=len(annotations))
        yield _record(document, entry, annotations, None, fault)
        return
    try:
        path = finder.find(name)
        if path is None:
            path = finder.find_other_capitals(name)
            if path is not None:
                yield found("name-case", f"{where} (written {brief(name)}, on disk {brief(path.name)})")
    except PathEscapeError as fault:
        reason = f"{where} ({brief(name)}: {fault})"
        yield _record(document, entry, annotations, None, found("path-escape", reason, objects=len(annotations)))
        return
    sizes = [entry.get("width"), entry.get("height")]
    if any(value is not None and (whole_number(value) or 0) <= 0 for value in sizes):
        yield found("bad-size", f"{where} (width {brief(sizes[0])}, height {brief(sizes[1])})")
    yield _record(document, entry, annotations, path)


def _record(
    document: Document,
    entry: dict[str, Any],
    annotations: list[dict[str, Any]],
    path: Path | None,
    fault: Finding | None = None,
) -> ImageRecord:
    width, height = (whole_number(entry.get(key)) or 0 for key in ("width", "height"))
    usable = width > 0 and height > 0
    return ImageRecord(
        split=document.split,
        file_name=str(entry.get("file_name") or ""),
        path=path,
        objects=tuple(_object(document, annotation) for annotation in annotations),
        id=key_of(entry["id"]),
        width=width if usable else None,
        height=height if usable else None,
        where=f"{document.name}: image id {entry['id']}",
        fault=fault,
        fields=_fields(entry),
    )


def _fields(entry: dict[str, Any]) -> dict[str, Any] | None:
    """What COCO itself does not know: `video_id`, `patient`. Almost always nothing."""
    more = {key: entry[key] for key in entry.keys() - _OWN if isinstance(entry[key], int | str)}
    return more or None


def _image_place(document: Document, entry: dict[str, Any]) -> str:
    return f"{document.name}: image id {brief(entry.get('id'))}, file_name {brief(entry.get('file_name'))}"


def _object(document: Document, entry: dict[str, Any]) -> ObjectRecord:
    own, class_id = entry.get("id"), entry.get("category_id")
    whole = whole_number(class_id)
    return ObjectRecord(
        bbox=_corners(entry.get("bbox")),
        class_id=class_id if whole is None else whole,
        segmentation=entry.get("segmentation"),
        area=entry.get("area"),
        crowd=_is_crowd(entry.get("iscrowd")),
        keypoints=bool(entry.get("keypoints")),
        id=key_of(own),
        where=f"{document.name}: annotation id {brief(own)}",
    )


def _strange_crowds(document: Document) -> Iterator[Finding]:
    for entry in document.annotations:
        crowd = entry.get("iscrowd")
        if crowd is not None and crowd not in (0, 1):
            yield found(
                "bad-crowd", f"{document.name}: annotation id {brief(entry.get('id'))} (iscrowd {brief(crowd)})"
            )


def _is_crowd(value: Any) -> bool:
    return value == 1 or (isinstance(value, str) and value.strip().casefold() in ("1", "true"))


def _corners(bbox: Any) -> Any:
    """xywh to xyxy; anything that is not four numbers passes as it is, for the validator to name."""
    if isinstance(bbox, list) and len(bbox) == 4 and _NUMBERS.issuperset(map(type, bbox)):
        x, y, width, height = bbox
        return [x, y, x + width, y + height]
    return bbox


def _identity(entry: dict[str, Any]) -> tuple[str, ...]:
    return tuple(repr(entry.get(key)) for key in ("file_name", "width", "height"))
