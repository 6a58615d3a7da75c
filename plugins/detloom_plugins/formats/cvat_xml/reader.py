"""CVAT XML to records. Whatever cannot be read becomes a finding with its line; nothing raises.

Images: each <image> with its <box>, <polygon>, <mask> and <ellipse>. Videos: each <track> has its shapes frame by
frame, interpolated ones among them (CVAT writes them out); a shape with outside="1" is not there. Polylines, points,
cuboids, skeletons and tags are neither box nor mask and are counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from detloom.data.findings import found
from detloom.data.layout import IMAGE_SUFFIXES, brief, files_in, shown, split_of
from detloom.data.markup import Element, stream
from detloom.data.paths import Finder, PathEscapeError, find_inside
from detloom.data.records import ClassRecord, DataTree, Finding, ImageRecord, ObjectRecord
from detloom_plugins.formats.cvat_xml.shapes import read_shape

Record = ClassRecord | ImageRecord | Finding
_PLAIN = {"", "default"}
_Size = tuple[int | None, int | None]


def read_files(files: Sequence[Path], tree: DataTree) -> Iterator[Record]:
    for path in files:
        yield from _Document(path, tree).read()


class _Document:
    """One annotations.xml."""

    def __init__(self, path: Path, tree: DataTree) -> None:
        self._path = path
        self._tree = tree
        self._name = shown(path, tree.root)
        self._strange: set[str] = set()
        self._finders: dict[str, Finder] = {}
        self._size: _Size = (None, None)  # of the frames of a video

    def read(self) -> Iterator[Record]:
        frames: dict[tuple[str, int], list[ObjectRecord]] = defaultdict(list)
        tracks = empty = False
        images = 0
        for element in stream(self._path, self._name, {"meta", "image", "track"}):
            if isinstance(element, Finding):
                yield element
            elif element.tag == "meta":
                yield from self._classes(element)
                self._size = _original_size(element)
                empty = True
            elif element.tag == "image":
                images += 1
                yield from self._image(element)
            else:
                tracks = True
                yield from self._track(element, frames)
        if tracks:
            yield from self._frames(frames)
        elif not images and empty:
            yield found("empty-split", self._name)

    def _classes(self, meta: Element) -> Iterator[ClassRecord]:
        """Labels of a task, a project or a job: wherever <labels> stands."""
        pending = [meta]
        while pending:
            node = pending.pop(0)
            if node.tag == "labels":
                for label in node.all("label"):
                    # Parts of skeletons are labels with a parent.
                    if label.value("name") and label.child("parent") is None:
                        yield ClassRecord(None, label.value("name"), f"{self._name}:{label.line}")
            else:
                pending += node.children

    def _image(self, element: Element) -> Iterator[Record]:
        where = f"{self._name}:{element.line}"
        name = element.attributes.get("name", "")
        if not name:
            yield found("bad-record", f"{where} (an image without a name)", images=1, objects=len(element.children))
            return
        subset = element.attributes.get("subset", "")
        objects: list[ObjectRecord] = []
        size = (_whole(element.attributes.get("width")), _whole(element.attributes.get("height")))
        for shape in element.children:
            yield from self._shape(shape, shape.attributes.get("label", ""), size, objects)
        try:
            path = self._finder(subset).find(name)
        except PathEscapeError as fault:
            yield found("path-escape", f"{where} ({brief(name)}: {fault})", objects=len(objects))
            return
        yield from self._strange_subset(subset, where)
        yield self._record(subset, name, path, objects, size, where)

    def _record(
        self,
        subset: str,
        name: str,
        path: Path | None,
        objects: list[ObjectRecord],
        size: _Size,
        where: str,
    ) -> ImageRecord:
        known = None not in size
        return ImageRecord(
            split=split_of(subset) or "all",
            file_name=name,
            path=path,
            objects=tuple(objects),
            width=size[0] if known else None,
            height=size[1] if known else None,
            where=f"{where} ({name})",
        )

    def _strange_subset(self, subset: str, where: str) -> Iterator[Finding]:
        if subset.casefold() not in _PLAIN and split_of(subset) is None and subset not in self._strange:
            self._strange.add(subset)
            yield found("unknown-split", f"{where} (subset {brief(subset)})")

    def _finder(self, subset: str) -> Finder:
        if subset not in self._finders:
            self._finders[subset] = Finder(self._folders(subset), [self._tree.root, *self._tree.images])
        return self._finders[subset]

    def _folders(self, subset: str) -> list[Path]:
        """Where images are looked up: projects have a folder for each subset."""
        beside = self._path.parent
        own = [beside / "images" / subset, beside / subset] if subset and "/" not in subset and subset != ".." else []
        around = [*own, beside / "images", beside, self._tree.root / "images", self._tree.root]
        return list(dict.fromkeys([*self._tree.images, *around]))

    def _shape(self, shape: Element, label: str, size: _Size, objects: list[ObjectRecord]) -> Iterator[Finding]:
        for item in read_shape(shape, label, f"{self._name}:{shape.line}", size):
            if isinstance(item, Finding):
                yield item
            else:
                objects.append(item)

    # ---- videos

    def _track(self, track: Element, frames: dict[tuple[str, int], list[ObjectRecord]]) -> Iterator[Finding]:
        label, subset = track.attributes.get("label", ""), track.attributes.get("subset", "")
        for shape in track.children:
            number = _whole(shape.attributes.get("frame"), least=0)
            if number is None:
                yield found("bad-record", f"{self._name}:{shape.line} (a shape of a track without a frame)")
            elif not label.strip():
                yield found("bad-record", f"{self._name}:{track.line} (a track without a label)")
                return
            elif shape.attributes.get("outside") != "1":
                yield from self._shape(shape, label, self._size, frames[subset, number])

    def _frames(self, frames: Mapping[tuple[str, int], list[ObjectRecord]]) -> Iterator[Record]:
        """Every frame whose picture is there; those without a shape are background."""
        left = dict(frames)
        for subset in dict.fromkeys(subset for subset, _ in frames):
            yield from self._strange_subset(subset, self._name)
            for number, path in self._pictures(subset):
                objects = left.pop((subset, number), [])
                where = f"{self._name}: frame {number}"
                if path is None:
                    yield found("path-escape", f"{where} (a link that leads out of the data's folder)")
                else:
                    yield self._record(subset, path.name, path, objects, self._size, where)
        if left:
            numbers = ", ".join(str(number) for _, number in sorted(left)[:5])
            yield found("video-without-frames", f"{self._name}: frames {numbers}", count=len(left))

    def _pictures(self, subset: str) -> Iterator[tuple[int, Path | None]]:
        """Number and place of each frame_000012.PNG, from the first folder that has some."""
        for folder in self._folders(subset):
            named = [(_frame_number(path.name), path) for path in files_in(folder, *IMAGE_SUFFIXES)]
            pictures = [(number, path) for number, path in named if number is not None]
            for number, path in pictures:
                try:
                    yield number, find_inside(path.name, [folder], [self._tree.root, *self._tree.images])
                except PathEscapeError:
                    yield number, None
            if pictures:
                return


def _original_size(meta: Element) -> _Size:
    for holder in (*meta.children, meta):
        box = holder.child("original_size")
        if box is not None:
            return _whole(box.value("width")), _whole(box.value("height"))
    return None, None


def _frame_number(name: str) -> int | None:
    """frame_000012.PNG"""
    stem = Path(name).stem
    digits = stem.removeprefix("frame_")
    return int(digits) if stem.startswith("frame_") and digits.isascii() and digits.isdigit() else None


def _whole(text: str | None, least: int = 1) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least else None
