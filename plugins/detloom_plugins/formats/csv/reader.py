"""CSV files to records. Whatever cannot be read becomes a finding with its line; nothing raises.

A line is a box; a line whose box and class are empty says that the image is background. Whether numbers are pixels or
fractions is taken from the settings, else from what the file itself shows, and never guessed.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detloom.data.findings import found
from detloom.data.layout import IMAGE_SUFFIXES, brief, named_folder, read_text, shown, split_of, walk
from detloom.data.paths import Finder, PathEscapeError
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, ObjectRecord
from detloom.data.shapes import number
from detloom_plugins.formats.csv.header import Header, Layout, parse_header

Record = ClassRecord | ImageRecord | Finding
MAX_CSV = 1 << 30
_FOLDERS = ("images", "imgs", "jpegimages")


@dataclass(slots=True)
class _Image:
    split: str
    where: str
    width: int | None = None
    height: int | None = None
    boxes: list[tuple[list[float], str, bool, str]] = field(default_factory=list)


def read_files(files: Sequence[tuple[str, Path]], tree: DataTree, unit: str) -> Iterator[Record]:
    classes: set[str] = set()
    for split, path in files:
        name = shown(path, tree.root)
        text = read_text(path, name, MAX_CSV)
        if isinstance(text, Finding):
            yield text
            continue
        header = parse_header(text.partition("\n")[0].rstrip("\r"))
        if isinstance(header, str):
            yield found("bad-line", f"{name}:1 ({header})", objects=0)
            continue
        yield from _File(name, split, path, header, tree, classes).read(text, unit)


class _File:
    def __init__(self, name: str, split: str, path: Path, header: Header, tree: DataTree, classes: set[str]) -> None:
        self._name = name
        self._split = split
        self._path = path
        self._header = header
        self._tree = tree
        self._classes = classes
        self._images: dict[tuple[str, str], _Image] = {}
        self._strange: set[str] = set()

    def read(self, text: str, unit: str) -> Iterator[Record]:
        rows = csv.reader(text.splitlines(keepends=True), delimiter=self._header.delimiter)
        try:
            next(rows, None)
            for row in rows:
                if any(cell.strip() for cell in row):
                    yield from self._row(row, f"{self._name}:{rows.line_num}")
        except csv.Error as fault:
            yield found("bad-line", f"{self._name}:{rows.line_num} ({fault})")
        relative = self._relative(unit)
        if relative is None:
            yield found("unit-unknown", self._name)
        elif not self._images:
            yield found("empty-split", self._name)
        else:
            yield from self._records(relative)

    def _row(self, row: list[str], where: str) -> Iterator[Record]:
        header = self._header
        needed = max(header.file, header.label, *header.box)
        if len(row) <= needed:
            yield found("bad-line", f"{where} ({len(row)} fields, at least {needed + 1} are due)")
            return
        if any(cell.strip() for cell in row[header.columns :]):
            yield found("bad-line", f"{where} ({len(row)} fields, and the first line names {header.columns})")
            return
        file_name, written = row[header.file].strip(), row[header.label].strip()
        label = " ".join(written.split())
        texts = [row[place].strip() for place in header.box]
        if not file_name:
            yield found("bad-record", f"{where} (no file name)")
            return
        split = yield from self._split_of(row, where)
        image = self._images.setdefault((split, file_name), _Image(split, where))
        yield from self._size(image, row, where)
        if not any(texts):
            return  # background
        values = [number(text) for text in texts]
        if None in values:
            bad = next(i for i, value in enumerate(values) if value is None)
            yield found("bad-box-type", f"{where} ({header.names[bad]} is {brief(texts[bad])})")
            return
        if not label:
            yield found("bad-record", f"{where} (no class)")
            return
        if written not in self._classes:
            self._classes.add(written)
            yield ClassRecord(None, written, where)
        group = header.group is not None and len(row) > header.group and row[header.group].strip() == "1"
        if group:
            yield found("group-object", where)
        corners = _corners([value for value in values if value is not None], header.layout)
        image.boxes.append((corners, label, group, where))

    def _split_of(self, row: list[str], where: str) -> Generator[Finding, None, str]:
        """Returns the split of a line: its own column's, else the file's."""
        place = self._header.split
        text = row[place].strip() if place is not None and len(row) > place else ""
        split = split_of(text)
        if text and split is None and text not in self._strange:
            self._strange.add(text)
            yield found("unknown-split", f"{where} ({brief(text)})")
        return split or self._split

    def _size(self, image: _Image, row: list[str], where: str) -> Iterator[Finding]:
        if self._header.size is None or len(row) <= max(self._header.size):
            return
        texts = [row[place].strip() for place in self._header.size]
        sides = [value for text in texts if (value := number(text)) is not None and 0 < value < 1e9 and value % 1 == 0]
        if len(sides) != 2:
            if any(texts):
                yield found("bad-size", f"{where} (width and height of the image: {brief(texts)})")
            return
        size = int(sides[0]), int(sides[1])
        if image.width is None:
            image.width, image.height = size
        elif (image.width, image.height) != size:
            other = f"{where} (another size of the same image: {size[0]}x{size[1]})"
            yield found("bad-record", other, objects=0)

    def _relative(self, unit: str) -> bool | None:
        """Whether coordinates are fractions; None when that cannot be told."""
        if unit != "auto" or self._header.open_images:
            return unit in ("fractions", "auto")
        boxes = [box for image in self._images.values() for box, _, _, _ in image.boxes]
        if not boxes or any(value > 1 for box in boxes for value in box):
            return False
        return None

    def _records(self, relative: bool) -> Iterator[Record]:
        stems = self._by_stem() if self._header.open_images else {}
        finder = Finder(self._folders(), [self._tree.root, *self._tree.images, self._path.parent])
        for (split, file_name), image in self._images.items():
            objects = tuple(
                ObjectRecord(box, class_name=label, crowd=group, where=where, relative=relative)
                for box, label, group, where in image.boxes
            )
            try:
                path = finder.find(file_name)
            except PathEscapeError as fault:
                yield found("path-escape", f"{image.where} ({brief(file_name)}: {fault})", objects=len(objects))
                continue
            path = path or stems.get(file_name)
            yield ImageRecord(split, file_name, path, objects, None, image.width, image.height, image.where)

    def _folders(self) -> list[Path]:
        beside = [self._path.parent]
        for home in (self._path.parent, self._tree.root):
            beside += [folder for name in _FOLDERS if (folder := named_folder(home, name)) is not None]
        inner = [folder / self._split for folder in beside if (folder / self._split).is_dir()]
        return list(dict.fromkeys([*self._tree.images, *beside, self._tree.root, *inner]))

    def _by_stem(self) -> dict[str, Path]:
        """Open Images names pictures without suffix."""
        found_: dict[str, Path] = {}
        for folder in self._folders():
            for image in walk(folder, IMAGE_SUFFIXES, self._tree.root):
                if image.path is not None:
                    found_.setdefault(image.path.stem, image.path)
        return found_


def _corners(values: list[float], layout: Layout) -> list[float]:
    """xyxy."""
    if layout == "corners":
        return values
    x, y, width, height = values
    if layout == "centre-size":
        x, y = x - width / 2, y - height / 2
    return [x, y, x + width, y + height]
