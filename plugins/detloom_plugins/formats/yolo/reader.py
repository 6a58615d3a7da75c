"""YOLO label files to records. Whatever cannot be read becomes a finding with its line; nothing raises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from detloom.data.findings import found
from detloom.data.layout import IMAGE_SUFFIXES, hidden_files, read_text, shown, walk
from detloom.data.records import DataTree, Finding, ImageRecord, ObjectRecord
from detloom_plugins.formats.yolo.description import NAME_FILES, Description
from detloom_plugins.formats.yolo.labels import MAX_LABELS, looks_like_labels, parse_labels
from detloom_plugins.formats.yolo.places import Place, label_of, places_of

Record = ImageRecord | Finding


def read_places(description: Description, tree: DataTree) -> Iterator[Record]:
    used: set[Path] = set()
    folders: list[Path] = []
    hidden: dict[Path, None] = {}
    lists = False
    for place in places_of(description, tree):
        if isinstance(place, Finding):
            yield place
            continue
        lists = lists or place.is_list
        if place.is_list:
            text = read_text(place.path, shown(place.path, tree.root))
            if isinstance(text, Finding):
                yield text
        else:
            folders.append(place.path)
            hidden.update(dict.fromkeys(hidden_files(place.path, IMAGE_SUFFIXES)))
        yield from _images(place, description, tree, used)
    yield from _passed_over([path for path in hidden if label_of(path, tree.root) not in used], tree.root)
    if not lists:  # what a list does not name may belong to nobody
        yield from _orphans(folders, tree.root, used)


def _images(place: Place, description: Description, tree: DataTree, used: set[Path]) -> Iterator[Record]:
    empty = True
    for image in place.images(description, tree):
        empty = False
        where = f"{shown(place.path, tree.root)}: {image.name}"
        if image.path is None and not place.is_list:
            yield found("path-escape", f"{where} (a link that leads out of the data's folder)")
        elif image.path is None:
            yield ImageRecord(place.split, image.name, None, (), where=where)
        else:
            label = label_of(image.path, tree.root)
            used.add(label)
            yield from _image(place.split, image.name, image.path, label, description, tree.root)
    if empty:
        yield found("empty-split", f"{place.split} ({shown(place.path, tree.root)})")


def _image(split: str, name: str, path: Path, label: Path, description: Description, root: Path) -> Iterator[Record]:
    where = shown(label, root)
    if not label.is_file():
        yield found("missing-label-file", f"{where} (for {shown(path, root)})")
        yield ImageRecord(split, name, path, (), where=shown(path, root))
        return
    if label.is_symlink() and not label.resolve().is_relative_to(root.resolve()):
        yield found("path-escape", f"{where} (a link that leads out of the data's folder)")
        return
    text = read_text(label, where, MAX_LABELS)
    if isinstance(text, Finding):
        yield text  # the image is not background: what is on it cannot be read
        return
    objects: list[ObjectRecord] = []
    for item in parse_labels(text, where, description.keypoints):
        if isinstance(item, Finding):
            yield item
        else:
            objects.append(item)
    yield ImageRecord(split, name, path, tuple(objects), where=where)


def _passed_over(hidden: list[Path], root: Path) -> Iterator[Finding]:
    """Pictures that are not used for their names; objects: the lines of their label files."""
    for path in hidden:
        label = label_of(path, root)
        text = read_text(label, label.name, MAX_LABELS) if label.is_file() else ""
        objects = sum(bool(line.strip()) for line in text.splitlines()) if isinstance(text, str) else 0
        yield found("hidden-file", shown(path, root), objects=objects)


def _orphans(folders: list[Path], root: Path, used: set[Path]) -> Iterator[Finding]:
    """Label files that belong to no image."""
    seen: set[Path] = set()
    for folder in dict.fromkeys(label_of(folder / "any", root).parent for folder in folders):
        for label in walk(folder, frozenset({".txt"}), root):
            path = label.path
            if path is None or path in used or path in seen or path.name in NAME_FILES:
                continue
            seen.add(path)
            text = read_text(path, path.name, MAX_LABELS)
            if isinstance(text, str) and text.strip() and not looks_like_labels(text):
                continue  # a README
            yield found("label-without-image", shown(path, root))
