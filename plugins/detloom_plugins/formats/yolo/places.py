"""Where the images of each split lie, and which label file belongs to which image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from detloom.data.findings import found
from detloom.data.layout import IMAGE_SUFFIXES, Walked, read_text, shown, walk
from detloom.data.records import DataTree, Finding
from detloom_plugins.formats.yolo.description import Description


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of images, or a .txt file that lists them."""

    split: str
    path: Path
    is_list: bool

    def images(self, description: Description, tree: DataTree) -> Iterator[Walked]:
        """Images of a folder; of a list those that are found, and names without a path for the others."""
        if not self.is_list:
            yield from walk(self.path, IMAGE_SUFFIXES, tree.root)
            return
        text = read_text(self.path, shown(self.path, tree.root))
        for line in text.split("\n") if isinstance(text, str) else ():
            if line.strip():
                yield _listed(line.strip(), self.path.parent, description, tree.root)


def places_of(description: Description, tree: DataTree) -> Iterator[Place | Finding]:
    """What the entries of a description mean. A path that leads elsewhere is looked for inside the data."""
    root = tree.root.resolve()
    for split, entries in description.entries.items():
        for text, where in entries:
            yield from _place(split, text, where, description, root)


def _place(split: str, text: str, where: str, description: Description, root: Path) -> Iterator[Place | Finding]:
    written = description.base / text
    # Exports say `../train/images` beside `train/`, and `path` or `data/` name the disk of whoever made them.
    parts = [part for part in PureWindowsPath(text).parts if part not in ("..", ".", "/", "\\")]
    shortest = 1 if text.endswith(".txt") else 2  # a folder `images` is found everywhere
    tails = [parts[start:] for start in range(len(parts)) if start == 0 or len(parts) - start >= shortest]
    for candidate in dict.fromkeys((written, description.home / text, *(description.home.joinpath(*t) for t in tails))):
        real = Path(os.path.realpath(candidate))
        if real.exists() and real.is_relative_to(root):
            if candidate is not written:
                yield found("path-mended", f"{where} ({text!r} is {shown(candidate, description.home)})")
            is_list = real.suffix.lower() == ".txt"
            if real.is_dir() or is_list:
                yield Place(split, candidate if not _climbs(candidate) else real, is_list)
                return
    if written.exists() and not Path(os.path.realpath(written)).is_relative_to(root):
        real = Path(os.path.realpath(written))
        outside = f"{where} ({str(real)!r} is outside {root}: allow it with --images {_whole(real)})"
        yield found("path-escape", outside, images=0)
    else:
        yield found("missing-folder", f"{where or description.what} ({text!r}, looked for {written})")


def _whole(images: Path) -> Path:
    """The folder that holds a folder of images and the labels beside it."""
    above = [parent for parent in (images, *images.parents) if parent.name == "images"]
    return above[0].parent if above else images if images.is_dir() else images.parent


def _climbs(path: Path) -> bool:
    return ".." in path.parts


def _listed(line: str, folder: Path, description: Description, root: Path) -> Walked:
    """The image that a line of a list names: as written, or by its last parts inside the data."""
    parts = PureWindowsPath(line).parts if "\\" in line else PurePosixPath(line).parts
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    tails = [tail for tail in tails if tail and ".." not in tail.split("/") and not tail.startswith("/")]
    spellings = [line] if _plain(line) else []
    for name in dict.fromkeys([*spellings, *tails]):
        for base in dict.fromkeys((folder, description.base, description.home, root)):
            candidate = os.path.normpath(os.path.join(base, name))  # noqa: PTH118  (hot)
            if os.path.isfile(candidate) and Path(os.path.realpath(candidate)).is_relative_to(root.resolve()):  # noqa: PTH113
                return Walked(shown(Path(candidate), root), Path(candidate))
    return Walked(line, None)


def _plain(line: str) -> bool:
    """Neither absolute nor with steps upwards."""
    return (
        not PureWindowsPath(line).root and not PureWindowsPath(line).drive and ".." not in PureWindowsPath(line).parts
    )


def label_of(image: Path, root: Path) -> Path:
    """`images/` nearest to the file becomes `labels/`; without such a folder the label lies beside the image."""
    parts = list(image.parts)
    above = len(root.parts) if image.parts[: len(root.parts)] == root.parts else 0
    for place in range(len(parts) - 2, above - 1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    parts[-1] = f"{image.stem}.txt"
    return Path(*parts)
