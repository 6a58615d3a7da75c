"""COCO json to records. Whatever cannot be read becomes a finding with its place; nothing raises."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detloom.data.findings import found
from detloom.data.paths import Finder, PathEscapeError
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
        yield from _repeated(loaded, name)
        yield from _sort_out(loaded, document)
        documents.append(document)
    yield from _classes(documents)
    _without_lost_classes(documents)
    for document in documents:
        yield from _strange_crowds(document)
        yield from _images(document, tree)


class _Repeated(dict[str, Any]):
    """An object of which `key` was written several times; json itself keeps the last in silence."""

    key = ""


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    doubled = _Repeated(made)
    doubled.key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return doubled


def _repeated(loaded: Any, name: str) -> Iterator[Finding]:
    """The document itself and the entries of its lists; deeper ones mean nothing here."""
    if not isinstance(loaded, dict):
        return
    if isinstance(loaded, _Repeated):
        yield found("duplicate-key", f"{name} (`{loaded.key}`)")
    for key, entries in loaded.items():
        for position, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, _Repeated):
                yield found("duplicate-key", f"{name}: {key}[{position}] (`{entry.key}`)")


def _load(path: Path, name: str) -> Any:
    try:
        # utf-8-sig: Windows tools put a byte order mark in front.
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=_object_of)
    except json.JSONDecodeError as fault:
        reason = "the file is empty" if not text.strip() else f"column {fault.colno}: {fault.msg}"
        return found("json-syntax", f"{name}:{fault.lineno} ({reason})")
    except UnicodeDecodeError as fault:
        line = fault.object.count(b"\n", 0, fault.start) + 1
        return found("text-encoding", f"{name}:{line} (byte {fault.start} is not UTF-8)")
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
                yield _bad_entry(key, f"{document.name}: {key}[{position}] is a {_kind(entry)}")
    if not document.images and not lacking:
        yield found("empty-split", document.name)


def _bad_entry(key: str, where: str) -> Finding:
    if key == "categories":
        return found("bad-class", where)
    return found("bad-record", where, images=int(key == "images"), objects=int(key == "annotations"))


def _classes(documents: list[_Document]) -> Iterator[Record]:
    used = Counter(_key(entry.get("category_id")) for document in documents for entry in document.annotations)
    everything = [(document, entry) for document in documents for entry in document.categories]
    several = len({_key(entry.get("id")) for _, entry in everything}) > 1
    known = {_whole(entry.get("id")) for _, entry in everything if _is_class(entry)}
    # Which class was meant by ids that no class has is told by the class that lacks its own.
    lost = sum(count for class_id, count in used.items() if class_id not in known)
    placeholders: set[str] = set()
    for document, entry in everything:
        class_id, name = _whole(entry.get("id")), entry.get("name")
        where = f"{document.name}: category id {_brief(entry.get('id'))}"
        if not _is_class(entry):
            yield found("bad-class", f"{where}, name {_brief(name)}", objects=lost)
            lost = 0
        elif several and class_id == 0 and entry.get("supercategory") == "none" and not used[_key(0)]:
            if name not in placeholders:
                placeholders.add(str(name))
                yield found("placeholder-class", f"{where}, name {name}")
        else:
            yield ClassRecord(class_id, str(name), where)


def _is_class(entry: Mapping[str, Any]) -> bool:
    name = entry.get("name")
    return _whole(entry.get("id")) is not None and isinstance(name, str) and bool(name.strip())


def _without_lost_classes(documents: list[_Document]) -> None:
    """Leave out annotations of classes that are told as broken."""
    everything = [entry for document in documents for entry in document.categories]
    if all(_is_class(entry) for entry in everything):
        return
    known = {_whole(entry.get("id")) for entry in everything if _is_class(entry)}
    for document in documents:
        document.annotations[:] = [e for e in document.annotations if _key(e.get("category_id")) in known]


def _images(document: _Document, tree: DataTree) -> Iterator[Record]:
    objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    yield from _group(document, objects)
    listed: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    nameless: list[dict[str, Any]] = []
    for entry in document.images:
        key = _key(entry.get("id"))
        (nameless if key is None else listed[key]).append(entry)
    orphans = [entry for key, entries in objects.items() if key not in listed for entry in entries]
    for entry in nameless:
        # Annotations of no image are probably theirs.
        yield found("bad-record", _image_place(document, entry), images=1, objects=len(orphans))
        orphans = []
    # The user may have named an annotation file outside the root; what lies beside it belongs to it.
    finder = Finder(image_folders(tree, document.path), [tree.root, *tree.images, document.path.parent])
    for key, entries in listed.items():
        yield from _listed(document, entries, objects.get(key, []), finder)
    for entry in orphans:
        place = f"annotation id {_brief(entry.get('id'))} (image_id {_brief(entry.get('image_id'))})"
        yield found("annotation-without-image", f"{document.name}: {place}")


def _listed(
    document: _Document, entries: list[dict[str, Any]], annotations: list[dict[str, Any]], finder: Finder
) -> Iterator[Record]:
    """The entries of one image id."""
    first = entries[0]
    if all(_identity(entry) == _identity(first) for entry in entries):
        if len(entries) > 1:
            yield found("duplicate-image", f"{document.name}: image id {first['id']}", count=len(entries) - 1)
        yield from _image(document, first, annotations, finder)
        return
    for entry in entries:
        # Whose the annotations are nobody knows; they are counted once.
        where = f"{document.name}: image id {first['id']} ({_brief(entry.get('file_name'))})"
        fault = found("duplicate-image-id", where, objects=len(annotations))
        yield _record(document, entry, annotations, None, fault)
        annotations = []


def _group(document: _Document, objects: dict[Any, list[dict[str, Any]]]) -> Iterator[Finding]:
    """Annotations by image; of those that share an id the first stays."""
    seen: dict[Any, dict[str, Any]] = {}
    for entry in document.annotations:
        key = _key(entry.get("id"))
        if key is not None and key in seen:
            where = f"{document.name}: annotation id {_brief(entry.get('id'))}"
            same = json.dumps(seen[key], sort_keys=True) == json.dumps(entry, sort_keys=True)
            yield found("duplicate-annotation" if same else "duplicate-annotation-id", where)
            continue
        if key is not None:
            seen[key] = entry
        objects[_key(entry.get("image_id"))].append(entry)


def _image(
    document: _Document, entry: dict[str, Any], annotations: list[dict[str, Any]], finder: Finder
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
                yield found("name-case", f"{where} (written {_brief(name)}, on disk {_brief(path.name)})")
    except PathEscapeError as fault:
        reason = f"{where} ({_brief(name)}: {fault})"
        yield _record(document, entry, annotations, None, found("path-escape", reason, objects=len(annotations)))
        return
    sizes = [entry.get("width"), entry.get("height")]
    if any(value is not None and (_whole(value) or 0) <= 0 for value in sizes):
        yield found("bad-size", f"{where} (width {_brief(sizes[0])}, height {_brief(sizes[1])})")
    yield _record(document, entry, annotations, path)


def _record(
    document: _Document,
    entry: dict[str, Any],
    annotations: list[dict[str, Any]],
    path: Path | None,
    fault: Finding | None = None,
) -> ImageRecord:
    width, height = (_whole(entry.get(key)) or 0 for key in ("width", "height"))
    usable = width > 0 and height > 0
    return ImageRecord(
        split=document.split,
        file_name=str(entry.get("file_name") or ""),
        path=path,
        objects=tuple(_object(document, annotation) for annotation in annotations),
        id=_key(entry["id"]),
        width=width if usable else None,
        height=height if usable else None,
        where=f"{document.name}: image id {entry['id']}",
        fault=fault,
    )


def _image_place(document: _Document, entry: dict[str, Any]) -> str:
    return f"{document.name}: image id {_brief(entry.get('id'))}, file_name {_brief(entry.get('file_name'))}"


def _object(document: _Document, entry: dict[str, Any]) -> ObjectRecord:
    own, class_id = entry.get("id"), entry.get("category_id")
    return ObjectRecord(
        bbox=_corners(entry.get("bbox")),
        class_id=_key(class_id) if isinstance(class_id, float) else class_id,
        segmentation=entry.get("segmentation"),
        area=entry.get("area"),
        crowd=_is_crowd(entry.get("iscrowd")),
        keypoints=bool(entry.get("keypoints")),
        id=_key(own),
        where=f"{document.name}: annotation id {_brief(own)}",
    )


def _strange_crowds(document: _Document) -> Iterator[Finding]:
    for entry in document.annotations:
        crowd = entry.get("iscrowd")
        if crowd is not None and crowd not in (0, 1):
            yield found(
                "bad-crowd", f"{document.name}: annotation id {_brief(entry.get('id'))} (iscrowd {_brief(crowd)})"
            )


def _is_crowd(value: Any) -> bool:
    return value == 1 or (isinstance(value, str) and value.strip().casefold() in ("1", "true"))


def _corners(bbox: Any) -> Any:
    """xywh to xyxy; anything that is not four numbers passes as it is, for the validator to name."""
    if isinstance(bbox, list) and len(bbox) == 4 and all(type(value) in (int, float) for value in bbox):
        x, y, width, height = bbox
        return [x, y, x + width, y + height]
    return bbox


def _identity(entry: dict[str, Any]) -> tuple[str, ...]:
    return tuple(repr(entry.get(key)) for key in ("file_name", "width", "height"))


def _whole(value: Any) -> int | None:
    """A whole number, also where a program wrote it as 3.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _key(value: Any) -> int | str | None:
    """Ids are whole numbers or texts; whatever else is written identifies nothing."""
    return value if isinstance(value, str) else _whole(value)


def _kind(value: Any) -> str:
    names = {list: "list", dict: "object", str: "text", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
