"""Several tasks as one data set: one annotations.xml, each image below a folder of its task.

Classes are told apart by name, as the format does. Images keep the subset of their task. Elements are copied as the
server wrote them; only the name, number, subset and task of an image are written anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from detloom.errors import DataError
from detloom.safe_names import UnsafeNameError, safe_name
from detloom_integrations.cvat.units import Unit

_PROLOG = 1 << 16
_VIDEO_SUFFIXES = ("", ".PNG", ".png", ".jpg", ".JPG", ".jpeg")


@dataclass(frozen=True, slots=True)
class Source:
    """A unit and the folders that hold it, each with annotations.xml and images/."""

    unit: Unit
    folders: Sequence[Path]


def assemble(sources: Sequence[Source], dest: Path) -> dict[str, int]:
    """Write `dest/annotations.xml` and `dest/images/`. Returns the bytes of each image by its name there.

    Raises DataError for annotations that cannot be read.
    """
    sizes: dict[str, int] = {}
    dest.mkdir(parents=True, exist_ok=True)
    with (dest / "annotations.xml").open("wb") as file:
        _begin(file, sources)
        count = 0
        for source in sources:
            for folder in source.folders:
                for image in _elements(folder / "annotations.xml", source.unit, "image"):
                    name = _placed(image.get("name", ""), source.unit, folder / "images", dest / "images", sizes)
                    _write(file, _renamed(image, name, count, source.unit))
                    count += 1
        file.write(b"</annotations>\n")
    return sizes


def _begin(file: BinaryIO, sources: Sequence[Source]) -> None:
    """The head: every label once, as it is first described."""
    file.write(b"<?xml version='1.0' encoding='utf-8'?>\n<annotations>\n<version>1.1</version>\n<meta><project>\n")
    names = "; ".join(source.unit.label for source in sources)
    file.write(f"<name>{escape(names)}</name>\n<labels>\n".encode())
    seen: set[str] = set()
    for label in _labels(sources):
        name = (label.findtext("name") or "").strip()
        key = f"{label.findtext('parent') or ''}\x1f{name}"
        if name and key not in seen:
            seen.add(key)
            _write(file, label)
    file.write(b"</labels>\n</project></meta>\n")


def _labels(sources: Sequence[Source]) -> Iterator[ElementTree.Element]:
    for source in sources:
        for folder in source.folders:
            for meta in _elements(folder / "annotations.xml", source.unit, "meta"):
                for labels in meta.iter("labels"):
                    yield from labels.findall("label")
                break  # the images behind it are read later


def _elements(path: Path, unit: Unit, tag: str) -> Iterator[ElementTree.Element]:
    """Each element with this tag right below the root, without keeping those before."""
    with path.open("rb") as file:
        prolog = file.read(_PROLOG)
        if b"<!DOCTYPE" in prolog or b"<!ENTITY" in prolog:
            raise DataError(f"CVAT's annotations of {unit.label} declare entities, which is never needed: refused")
        file.seek(0)
        depth, root = 0, None
        try:
            for event, element in ElementTree.iterparse(file, events=("start", "end")):
                if event == "start":
                    depth += 1
                    root = element if root is None else root
                    continue
                depth -= 1
                if depth == 1 and root is not None:
                    if element.tag == tag:
                        yield element
                    root.clear()
        except ElementTree.ParseError as fault:
            raise DataError(
                f"CVAT's annotations of {unit.label} cannot be read: {fault}", hint="export them again"
            ) from None


def _renamed(image: ElementTree.Element, name: str, number: int, unit: Unit) -> ElementTree.Element:
    attributes = {"id": str(number), "name": name}
    subset = unit.subset or image.get("subset", "")
    if subset:
        attributes["subset"] = subset
    attributes[f"{unit.kind}_id"] = str(unit.id)
    kept = {key: value for key, value in image.attrib.items() if key not in ("id", "name", "subset", "task_id")}
    image.attrib.clear()
    image.attrib.update(attributes | kept)
    return image


def _write(file: BinaryIO, element: ElementTree.Element) -> None:
    element.tail = "\n"
    file.write(ElementTree.tostring(element, encoding="unicode").encode())


def _placed(name: str, unit: Unit, images: Path, dest: Path, sizes: dict[str, int]) -> str:
    """Link the picture to its place; returns its new name. A picture that is not there, and a name that is no path
    inside, are left for the check to report."""
    try:
        safe = safe_name(name)
    except UnsafeNameError:
        return name
    found = _picture(safe, unit, images)
    if found is None:
        return f"{unit.folder}/{safe}"
    placed = f"{unit.folder}/{found.relative_to(images).as_posix()}"
    if placed not in sizes:
        target = dest / placed
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(found, target)
        sizes[placed] = target.stat().st_size
    return placed


def _picture(name: str, unit: Unit, images: Path) -> Path | None:
    """Frames of a video are named without the suffix of their file."""
    for suffix in _VIDEO_SUFFIXES if unit.video else ("",):
        candidate = images / f"{name}{suffix}"
        if candidate.is_file():
            return candidate
    return None


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system can, else a copy."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def missing(folder: Path, sizes: Iterable[tuple[str, int]]) -> list[str]:
    """Names of pictures that are not there as they were written."""
    return [name for name, size in sizes if _size(folder / "images" / name) != size]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
