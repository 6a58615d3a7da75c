"""What the check says of each image file: whether it can be used, and in which frame its objects lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from detloom.data.facts import ImageFacts
from detloom.data.findings import FindingBook
from detloom.data.objects import Frame
from detloom.data.records import ImageRecord

Sizes = Literal["refuse", "picture", "scale"]

_KINDS = {
    ".jpg": "jpeg", ".jpeg": "jpeg", ".jpe": "jpeg", ".jfif": "jpeg", ".png": "png", ".gif": "gif", ".bmp": "bmp",
    ".webp": "webp", ".tif": "tiff", ".tiff": "tiff",
}  # fmt: skip


def is_there(record: ImageRecord, book: FindingBook) -> bool:
    """Whether there is a file to look at; else the book says why not."""
    book.sight = (record.split, record.file_name, record.path)
    if record.fault is not None:
        book.take(record.fault)
    elif record.path is None:
        book.add("missing-image", f"{record.where} ({record.file_name})", objects=len(record.objects))
    else:
        return True
    return False


def frame_of(record: ImageRecord, facts: ImageFacts, sizes: Sizes, book: FindingBook) -> Frame | None:
    """None when the picture is unusable or is not the one that was annotated. sizes: what a size that is not the
    picture's means."""
    objects = len(record.objects)
    if facts.fault:
        book.add(facts.fault, f"{record.where} ({record.file_name}: {facts.reason})", objects=objects)
        return None
    written, upright = (record.width, record.height), (facts.width, facts.height)
    if None in written or written == upright:
        if facts.orientation != 1:
            book.add("exif-orientation", record.file_name)
        return Frame(facts.width, facts.height)
    if written == (facts.raw_width, facts.raw_height):
        book.add("exif-raw-boxes", f"{record.where} ({record.file_name}: EXIF orientation {facts.orientation})")
        return Frame(facts.width, facts.height, facts.orientation)
    swapped = ", swapped" if written == (facts.height, facts.width) else ""
    place = (
        f"{record.where} ({record.file_name}: written {record.width}x{record.height}, "
        f"the picture has {facts.width}x{facts.height}{swapped})"
    )
    if sizes == "picture":
        book.add("size-replaced", place)
        return Frame(facts.width, facts.height)
    width, height = record.width or 0, record.height or 0
    if sizes == "scale" and width > 0 and height > 0:
        book.add("size-scaled", place)
        return Frame(facts.width, facts.height, drawn=(width, height))
    book.add("size-mismatch", place, objects=objects)
    return None


def remark(record: ImageRecord, facts: ImageFacts, book: FindingBook) -> None:
    """What is worth knowing of a usable picture."""
    name = record.file_name
    if facts.mode not in ("rgb", ""):
        book.add("pixels-converted", name, f"pictures are {facts.mode}, not 8-bit RGB")
    if facts.several:
        book.add("first-frame", name)
    if facts.blank:
        book.add("blank-image", name)
    due = _KINDS.get(Path(name).suffix.lower())
    if due is not None and facts.kind and due != facts.kind:
        book.add("wrong-suffix", f"{name} is a {facts.kind} file")
    if not record.objects:
        book.add("image-without-objects", name)


def compare_names(records: Sequence[ImageRecord], book: FindingBook) -> None:
    """One file under several ids; names that some file systems take for one."""
    owners: dict[tuple[str, str, Path], object] = {}
    spellings: dict[tuple[Path, str], str] = {}
    for record in records:
        if record.path is None or record.fault is not None:
            continue
        book.sight = (record.split, record.file_name, record.path)
        key = (record.source, record.split, record.path)
        if owners.setdefault(key, record.id) != record.id:
            book.add("duplicate-image-file", f"{record.where} ({record.file_name})")
        name = record.path.name
        other = spellings.setdefault((record.path.parent, name.casefold()), name)
        if other != name:
            book.add("case-clash", f"{record.where} ({other} and {name})")


Facts = Mapping[Path, ImageFacts]
