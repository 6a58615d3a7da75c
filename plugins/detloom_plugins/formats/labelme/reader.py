"""LabelMe files to records. Whatever cannot be read becomes a finding with its place; nothing raises.

Shapes of one `group_id` and label are one object: its parts. `imageData`, the picture as text, is not used: the picture
is the file that `imagePath` names, relative to the json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from detloom.data.findings import found
from detloom.data.layout import MAX_TEXT, brief, read_text, shown
from detloom.data.paths import PathEscapeError, find_inside
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, ObjectRecord
from detloom_plugins.formats.labelme.shapes import read_shapes

Record = ClassRecord | ImageRecord | Finding


def read_files(files: Sequence[tuple[str, Path]], tree: DataTree) -> Iterator[Record]:
    classes: set[str] = set()
    for split, path in files:
        name = shown(path, tree.root)
        document = _load(path, name)
        if isinstance(document, Finding):
            yield document
            continue
        width, height = (_side(document.get(key)) for key in ("imageWidth", "imageHeight"))
        objects: list[ObjectRecord] = []
        for item in read_shapes(document["shapes"], name, (width, height)):
            if isinstance(item, Finding):
                yield item
                continue
            label = item.class_name or ""
            if label not in classes:
                classes.add(label)
                yield ClassRecord(None, label, item.where)
            objects.append(item)
        written = document["imagePath"]
        try:
            image, mended = _find(written, path, tree)
        except PathEscapeError as fault:
            yield found("path-escape", f"{name} ({brief(written)}: {fault})", objects=len(objects))
            continue
        if mended:
            yield found("path-mended", f"{name} ({written!r} is {image.name if image else ''})")
        known = None not in (width, height)
        yield ImageRecord(
            split=split,
            file_name=image.name if image is not None else written,
            path=image,
            objects=tuple(objects),
            width=width if known else None,
            height=height if known else None,
            where=name,
        )


def read_hidden(files: Sequence[Path], tree: DataTree) -> Iterator[Finding]:
    for path in files:
        name = shown(path, tree.root)
        document = _load(path, name)
        yield found("hidden-file", name, objects=0 if isinstance(document, Finding) else len(document["shapes"]))


def _load(path: Path, name: str) -> dict[str, Any] | Finding:
    text = read_text(path, name, MAX_TEXT)
    if isinstance(text, Finding):
        return text
    try:
        document = json.loads(text)
    except json.JSONDecodeError as fault:
        return found("json-syntax", f"{name}:{fault.lineno} (column {fault.colno}: {fault.msg})", images=1)
    except (RecursionError, ValueError) as fault:
        return found("json-syntax", f"{name} ({fault})", images=1)
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        return found("bad-record", f"{name} (no list `shapes`)", images=1, objects=0)
    if not isinstance(document.get("imagePath"), str) or not document["imagePath"]:
        where = f"{name} (imagePath is {brief(document.get('imagePath'))})"
        return found("bad-record", where, images=1, objects=len(document["shapes"]))
    return document


def _find(written: str, path: Path, tree: DataTree) -> tuple[Path | None, bool]:
    """The picture, and whether it was found elsewhere: files were moved since the path was written."""
    folders = [path.parent, *tree.images, tree.root / "images", tree.root]
    roots = [tree.root, *tree.images]
    try:
        image = find_inside(written, folders, roots)
    except PathEscapeError:
        image = find_inside(PureWindowsPath(written).name, folders, roots)
        if image is None:
            raise
        return image, True
    if image is None:
        image = find_inside(PureWindowsPath(written).name, folders, roots)
        return image, image is not None
    return image, False


def _side(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**9 else None
