"""Pascal VOC files to records. Whatever cannot be read becomes a finding with its line; nothing raises.

Two ways of counting pixels are in use. The VOC challenges count from 1 and include the last pixel: xmin=1, xmax=W is a
box over the whole width (Detectron2 reads them so). LabelImg, CVAT, Datumaro, Roboflow and most converters write
corners from 0: a box is xmax-xmin wide. Files do not say which one is meant, but those of the challenges name
themselves in <source>.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.data.findings import found
from detloom.data.layout import IMAGE_SUFFIXES, brief, files_in, hidden_files, named_folder, read_text, shown, split_of
from detloom.data.markup import Element, root_of, stream
from detloom.data.paths import Finder, PathEscapeError
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, ObjectRecord
from detloom.data.shapes import number
from detloom_plugins.formats.voc.places import Place
from detloom_plugins.formats.voc.settings import VOCSettings

if TYPE_CHECKING:
    from detloom_plugins.formats.voc.masks import ObjectMasks

Record = ClassRecord | ImageRecord | Finding
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_CHALLENGE = re.compile(r"PASCAL VOC ?20\d\d|The VOC20\d\d Database", re.IGNORECASE)


def read_places(places: Sequence[Place], tree: DataTree, settings: VOCSettings) -> Iterator[Record]:
    for place in places:
        yield from _Reader(place, tree, settings).read()


class _Reader:
    def __init__(self, place: Place, tree: DataTree, settings: VOCSettings) -> None:
        self._place = place
        self._tree = tree
        self._settings = settings
        self._classes: set[str] = set()
        self._closed = False  # a list of classes was given: others are unknown
        self._by_stem: dict[str, Path] = {}
        self._hidden = {path.stem: path for path in _hidden_in(place)}
        self._finder = Finder(place.images, [tree.root, *tree.images])
        self._masks = _masks_of(place, tree)

    def read(self) -> Iterator[Record]:
        yield from self._listed_classes()
        if self._masks is None and (classes := named_folder(self._place.home, "segmentationclass")) is not None:
            yield found("masks-not-read", f"{shown(classes, self._tree.root)}/")
        for folder in self._place.images:
            for path in files_in(folder, *IMAGE_SUFFIXES):
                self._by_stem.setdefault(path.stem, path)
        for split, files in self._splits():
            if isinstance(files, Finding):
                yield files
            else:
                for path in files:
                    yield from self._file(path, split)

    def _listed_classes(self) -> Iterator[Record]:
        """labelmap.txt as CVAT and Datumaro write it: `name:colour:parts:actions`."""
        path = self._place.home / "labelmap.txt"
        text = read_text(path, "labelmap.txt") if path.is_file() else ""
        if isinstance(text, Finding):
            yield text
            return
        for line, entry in enumerate(text.split("\n"), start=1):
            name = entry.strip().rsplit(":", 3)[0]
            if name and not entry.startswith("# label:") and name != "background":
                self._closed = True
                yield from self._class(name, f"labelmap.txt:{line}")

    def _class(self, name: str, where: str) -> Iterator[ClassRecord]:
        if name not in self._classes:
            self._classes.add(name)
            yield ClassRecord(None, name, where)

    def _splits(self) -> Iterator[tuple[str, list[Path] | Finding]]:
        """Split and its xml files, by the lists of ImageSets/Main where there are some."""
        files = {path.stem: path for path in self._place.files}
        lists = _lists(self._place.lists)
        if not lists:
            yield self._place.split, list(self._place.files)
            for path in self._hidden.values():
                yield self._place.split, self._passed_over(path)
            return
        used: set[str] = set()
        for split, path in lists.items():
            name = shown(path, self._tree.root)
            text = read_text(path, name)
            if isinstance(text, Finding):
                yield split, text
                continue
            present: list[Path] = []
            for line, entry in enumerate(text.split("\n"), start=1):
                stem = _image_id(entry, files)
                if not stem:
                    continue
                used.add(stem)
                if stem in files:
                    present.append(files[stem])
                elif stem in self._hidden:
                    yield split, self._passed_over(self._hidden[stem])
                else:
                    yield split, found("missing-annotation-file", f"{name}:{line} ({stem}.xml)")
            if not present:
                yield split, found("empty-split", f"{split} ({name})")
            yield split, present
        for stem, path in files.items():
            if stem not in used:
                yield "", found("not-in-a-split", shown(path, self._tree.root))

    def _passed_over(self, path: Path) -> Finding:
        name = shown(path, self._tree.root)
        text = read_text(path, name)
        return found("hidden-file", name, objects=text.count("<object>") if isinstance(text, str) else 0)

    def _file(self, path: Path, split: str) -> Iterator[Record]:
        name = shown(path, self._tree.root)
        whole = broken = False
        for item in stream(path, name, {"annotation"}):
            if isinstance(item, Finding):
                broken = True
                yield replace(item, images=1)
            elif not whole:
                whole = True
                yield from self._image(item, path, name, split)
            else:
                yield found("bad-record", f"{name}:{item.line} (a second <annotation>)", images=1, objects=0)
        if not whole and not broken:
            yield found("bad-record", f"{name}:1 (no <annotation>)", images=1, objects=0)

    def _image(self, annotation: Element, path: Path, name: str, split: str) -> Iterator[Record]:
        written = annotation.value("filename")
        image, finding = self._find(written, path, name)
        if finding is not None and finding.code == "path-escape":
            yield replace(finding, objects=len(list(annotation.all("object"))))
            return
        if finding is not None:
            yield finding
        width, height = (_side(annotation.value("size", side)) for side in ("width", "height"))
        if annotation.child("size") is not None and not (width and height):
            yield found("bad-size", f"{name}:{annotation.child('size').line} (no usable width and height)")  # type: ignore[union-attr]
        from_one = self._counts_from_one(annotation)
        if from_one:
            yield found("pixels-from-one", name)
        objects: list[ObjectRecord] = []
        elements = list(annotation.all("object"))
        masks = self._masks.of(path.stem, len(elements)) if self._masks is not None else {}
        if isinstance(masks, Finding):
            yield masks
            masks = {}
        for place, element in enumerate(elements, start=1):
            for item in self._object(element, name, from_one):
                if isinstance(item, ObjectRecord):
                    objects.append(replace(item, segmentation=masks[place]) if place in masks else item)
                else:
                    yield item
        known = bool(width and height)
        yield ImageRecord(
            split=split,
            file_name=image.name if image is not None else written or path.stem,
            path=image,
            objects=tuple(objects),
            width=width if known else None,
            height=height if known else None,
            where=name,
        )

    def _find(self, written: str, path: Path, name: str) -> tuple[Path | None, Finding | None]:
        """The image that <filename> names; without it, as in the devkit, the one called like the xml."""
        own = self._by_stem.get(path.stem)
        try:
            image = self._finder.find(written) if written else None
            if image is None and own is not None:
                # Through the same door: a link may lead out of the data.
                image = self._finder.find(own.name)
                return image, found("path-mended", f"{name} ({written!r} is {own.name})") if written else None
        except PathEscapeError as fault:
            return None, found("path-escape", f"{name} ({brief(written)}: {fault})")
        if own is not None and image is not None and own.name != image.name:
            return image, found("name-conflict", f"{name} ({image.name} and {own.name})")
        return image, None

    def _counts_from_one(self, annotation: Element) -> bool:
        if self._settings.pixels != "auto":
            return self._settings.pixels == "from-one"
        source = annotation.child("source")
        return source is not None and any(_CHALLENGE.fullmatch(source.value(tag)) for tag in ("annotation", "database"))

    def _object(self, element: Element, name: str, from_one: bool) -> Iterator[ClassRecord | ObjectRecord | Finding]:
        where = f"{name}:{element.line}"
        written = element.value("name").strip()
        label = " ".join(written.split())
        if not label:
            yield found("bad-record", f"{where} (an object without a name)")
            return
        if not self._closed or label == "background":  # every such list begins with it, used or not
            yield from self._class(written, where)
        box = element.child("bndbox")
        if box is None:
            turned = element.child("robndbox") is not None
            yield found("shape-not-read", where + (" (an oriented box)" if turned else " (no bndbox)"))
            return
        texts = [box.value(side) for side in _SIDES]
        values = [number(text) for text in texts]
        if None in values:
            bad = next(i for i, value in enumerate(values) if value is None)
            fault = f"{_SIDES[bad]} is {brief(texts[bad])}" if texts[bad] else f"no {_SIDES[bad]}"
            yield found("bad-box-type", f"{where} ({fault})")
            return
        corners = [value for value in values if value is not None]
        if from_one:
            corners = [corners[0] - 1, corners[1] - 1, corners[2], corners[3]]
        difficult = element.value("difficult") == "1"
        if difficult and self._settings.difficult == "ignore":
            yield found("difficult-object", where)
        yield ObjectRecord(
            corners, class_name=label, crowd=difficult and self._settings.difficult == "ignore", where=where
        )


def _hidden_in(place: Place) -> list[Path]:
    """Annotations among hidden files: of other programs there may be xml files too."""
    folder = place.files[0].parent
    return [path for path in hidden_files(folder, frozenset({".xml"}), deep=False) if root_of(path) == "annotation"]


def _masks_of(place: Place, tree: DataTree) -> ObjectMasks | None:
    folder = named_folder(place.home, "segmentationobject")
    if folder is None:
        return None
    from detloom_plugins.formats.voc.masks import ObjectMasks

    return ObjectMasks.below(folder, tree.root)


def _lists(folder: Path | None) -> dict[str, Path]:
    """Split to its list; `trainval` is the training split where neither `train` nor `val` is there."""
    files = {path.stem.casefold(): path for path in files_in(folder, ".txt")} if folder else {}
    lists: dict[str, Path] = {}
    for stem, path in files.items():
        split = split_of(stem)
        if split is not None:
            lists.setdefault(split, path)
    if "trainval" in files and not {"train", "val"} & set(lists):
        lists["train"] = files["trainval"]
    return {split: lists[split] for split in ("train", "val", "test") if split in lists}


def _image_id(entry: str, files: Mapping[str, Path]) -> str:
    """`000005`, or `000005 -1` as in the lists of one class. A name may hold spaces."""
    entry = entry.strip()
    if entry in files:
        return entry
    match = re.fullmatch(r"(.+?)\s+(-1|0|1)", entry)
    return match[1] if match else entry


def _side(text: str) -> int | None:
    value = number(text)
    return int(value) if value is not None and value.is_integer() and 0 < value < 1e9 else None
