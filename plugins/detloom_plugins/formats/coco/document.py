"""One COCO json: parsed, its three lists sorted out. Whatever is wrong becomes a finding; nothing raises."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detloom.data.findings import found
from detloom.data.records import Finding


@dataclass(frozen=True, slots=True)
class Document:
    """One annotation file, its three lists sorted out. name: as shown to people. strange: places of images that are no
    objects."""

    split: str
    path: Path
    name: str
    categories: list[dict[str, Any]]
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    strange: list[str] = field(default_factory=list)


def open_document(split: str, path: Path, name: str) -> Iterator[Document | Finding]:
    """The document last, when there is one."""
    loaded = _load(path, name)
    if isinstance(loaded, Finding):
        yield loaded
        return
    document = Document(split, path, name, [], [], [])
    yield from _repeated(loaded, name)
    yield from _sort_out(loaded, document)
    yield document


def _load(path: Path, name: str) -> Any:
    text = ""
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


def _sort_out(loaded: Any, document: Document) -> Iterator[Finding]:
    """Fill the document's lists with the entries that are objects."""
    if not isinstance(loaded, dict):
        yield found("not-coco", f"{document.name} (a {kind_of(loaded)} instead of an object with `images`)")
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
            yield found("not-coco", f"{document.name} (`{key}` is a {kind_of(entries)} instead of a list)")
            lacking.append(key)
            continue
        for position, entry in enumerate(entries):
            if isinstance(entry, dict):
                into.append(entry)
                continue
            where = f"{document.name}: {key}[{position}] is a {kind_of(entry)}"
            if key == "categories":  # told with the classes that lack something
                into.append({"name": entry})
            elif key == "images":  # told with the images that lack something
                document.strange.append(where)
            else:
                yield found("bad-record", where)
    if not document.images and not document.strange:
        if "images" not in lacking:
            yield found("empty-split", document.name, objects=len(document.annotations))
        document.annotations.clear()  # what they belong to is told already


def whole_number(value: Any) -> int | None:
    """A whole number, also where a program wrote it as 3.0."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def key_of(value: Any) -> int | str | None:
    """Ids are whole numbers or texts; whatever else is written identifies nothing."""
    if type(value) is int:
        return value
    return value if isinstance(value, str) else whole_number(value)


def kind_of(value: Any) -> str:
    names = {list: "list", dict: "object", str: "text", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
