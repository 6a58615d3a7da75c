"""What a planted fault is expected to cause, and the ways to break sound data on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from data_tools import Document, edit, picture

Plant = Callable[[Path], object]

# Severity under strict, repair and lenient.
SINGLE = ("error", "error", "warning")  # an error of single images or objects
WHOLE = ("error", "error", "error")
MENDED = ("error", "warning", "warning")
REMARK = ("warning", "warning", "warning")
INFO = ("info", "info", "info")
JSON = "_annotations.coco.json"


@dataclass(frozen=True)
class Fault:
    """images, objects: how many are left out for it. place: stands in `where` (or the message). settings: of `data`.
    also: codes of information that must come with it. loose: the lists cannot be counted from the files."""

    name: str
    plant: Plant
    code: str
    severity: tuple[str, str, str]
    place: str
    count: int = 1
    images: int = 0
    objects: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    also: frozenset[str] = frozenset()
    loose: bool = False


def doc(change: Callable[[Document], object], *splits: str) -> Plant:
    def plant(root: Path) -> None:
        for split in splits or ("train",):
            edit(root, change, split)

    return plant


def first(**changed: Any) -> Plant:
    """The first annotation of the training split with other values."""
    return doc(lambda c: c["annotations"][0].update(changed))


def box(x: float, y: float, width: float, height: float) -> Plant:
    return first(bbox=[x, y, width, height], area=width * height)


def image(**changed: Any) -> Plant:
    return doc(lambda c: c["images"][0].update(changed))


def without(key: str, field_name: str) -> Plant:
    return doc(lambda c: c[key][0].pop(field_name))


def again(key: str, **changed: Any) -> Plant:
    return doc(lambda c: c[key].append({**c[key][0], **changed}))


def text(content: str | bytes) -> Plant:
    data = content.encode() if isinstance(content, str) else content
    return lambda root: (root / "train" / JSON).write_bytes(data)


def raw(change: Callable[[str], str]) -> Plant:
    """The text of the training json changed."""

    def plant(root: Path) -> None:
        path = root / "train" / JSON
        path.write_text(change(path.read_text()))

    return plant


def file(data: bytes | Callable[[bytes], bytes], name: str = "p0.png") -> Plant:
    """The bytes of the first picture."""

    def plant(root: Path) -> None:
        path = root / "train" / "p0.png"
        new = data if isinstance(data, bytes) else data(path.read_bytes())
        path.unlink()
        (root / "train" / name).write_bytes(new)
        if name != "p0.png":
            edit(root, lambda c: c["images"][0].update(file_name=name))

    return plant


def stored(name: str = "p0.png", mode: str = "RGB", seed: int = 0, **options: Any) -> Plant:
    """The first picture, stored in another way by Pillow."""

    def plant(root: Path) -> None:
        (root / "train" / "p0.png").unlink()
        Image.fromarray(picture(seed)).convert(mode).save(root / "train" / name, **options)
        edit(root, lambda c: c["images"][0].update(file_name=name))

    return plant


def turned(orientation: int, width: int, height: int) -> Plant:
    """The first picture stored lying, with an EXIF orientation; width and height as the json says them."""

    def plant(root: Path) -> None:
        exif = Image.Exif()
        exif[274] = orientation
        stored("p0.jpg", exif=exif, quality=95)(root)
        edit(root, lambda c: c["images"][0].update(width=width, height=height))
        # Boxes that lie inside either way.
        edit(root, lambda c: [row.update(bbox=[5, 5, 20, 10 + n], area=20 * (10 + n)) for n, row in _own(c)])

    def _own(content: Document) -> list[tuple[int, dict[str, Any]]]:
        return list(enumerate(row for row in content["annotations"] if row["image_id"] == 1))

    return plant


def with_masks(change: Callable[[Document], object]) -> Plant:
    """Every object gets its box as a polygon; then the change."""

    def plant(root: Path) -> None:
        for split in ("train", "valid"):
            edit(root, lambda c: [row.update(segmentation=[polygon(*row["bbox"])]) for row in c["annotations"]], split)
        edit(root, change)

    return plant


def polygon(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]
