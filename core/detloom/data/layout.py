"""What readers of formats share: names of splits, pictures below a folder, text of hostile files. Standard library."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detloom.data.findings import found
from detloom.data.records import Finding

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "val",
    "val": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What people call splits, in small letters."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})

MAX_TEXT = 1 << 26
"""Bytes of an annotation file that is read in one piece: 64 MiB."""


def split_of(name: str) -> str | None:
    """`train`, `val` or `test`; None when the name means no split."""
    return SPLIT_NAMES.get(name.strip().casefold())


def split_folders(root: Path) -> dict[str, Path]:
    """Split to the folder below `root` that is called so; of several (`val`, `valid`) the first in the alphabet."""
    folders: dict[str, Path] = {}
    for entry in _entries(root):
        split = split_of(entry.name)
        if split is not None and entry.is_dir():
            folders.setdefault(split, Path(entry.path))
    return {split: folders[split] for split in ("train", "val", "test") if split in folders}


def named_folder(root: Path, *names: str) -> Path | None:
    """The folder below `root` with one of these names in small letters; earlier names first."""
    there = {entry.name.casefold(): Path(entry.path) for entry in _entries(root) if entry.is_dir()}
    return next((there[name] for name in names if name in there), None)


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """Files directly in a folder with one of these suffixes (small letters), by name; empty for no folder."""
    return [
        Path(entry.path)
        for entry in _entries(folder)
        if os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file()  # noqa: PTH122  (hot)
    ]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Everything in a folder but hidden files (`._a.jpg` is what macOS leaves in archives), by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError:
        return []


@dataclass(frozen=True, slots=True)
class Walked:
    """name: path below the folder that was walked, with `/`. path: None where a link leads out of the data."""

    name: str
    path: Path | None


def walk(folder: Path, suffixes: frozenset[str], root: Path) -> Iterator[Walked]:
    """Files below a folder by name, at every depth. Links are followed only where they stay inside `root`."""
    real_root = root.resolve()
    yield from _walk(str(folder), "", suffixes, real_root, 0)


def _walk(folder: str, prefix: str, suffixes: frozenset[str], root: Path, depth: int) -> Iterator[Walked]:
    folders = []
    for entry in _entries(Path(folder)):
        inside = not entry.is_symlink() or Path(entry.path).resolve().is_relative_to(root)
        if os.path.splitext(entry.name)[1].lower() in suffixes and (not inside or entry.is_file()):  # noqa: PTH122
            yield Walked(prefix + entry.name, Path(entry.path) if inside else None)
        elif inside and depth < 32 and entry.is_dir():  # a link to a folder above would never end
            folders.append(entry)
    for entry in folders:
        yield from _walk(entry.path, f"{prefix}{entry.name}/", suffixes, root, depth + 1)


def hidden_files(folder: Path, suffixes: frozenset[str], *, deep: bool = True) -> list[Path]:
    """Files that `walk` (not deep: `files_in`) passes over for a name that begins with a dot, their own or a folder's;
    not what macOS leaves beside each file (`._a.jpg`, `.AppleDouble/`)."""
    hidden = []
    for above, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if deep and name != ".AppleDouble")
        within = any(part.startswith(".") for part in Path(above).relative_to(folder).parts)
        for name in sorted(names):
            if (within or name.startswith(".")) and not name.startswith("._"):
                path = Path(above, name)
                if path.suffix.lower() in suffixes:
                    hidden.append(path)
    return hidden


def shown(path: Path, root: Path) -> str:
    """A path as it stands in findings: relative to the data."""
    text, above = str(path), f"{str(root).rstrip(os.sep)}{os.sep}"
    if text.startswith(above):  # pathlib would take a third of the time of reading label files
        return text[len(above) :].replace(os.sep, "/")
    return "." if path == root else path.name


def read_text(path: Path, name: str, limit: int = MAX_TEXT) -> str | Finding:
    """The text of a UTF-8 file (a byte order mark is dropped), or what is wrong with it."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as fault:
        return found("unreadable-file", f"{name} ({fault.strerror or fault})")
    if len(data) > limit:
        return found("unreadable-file", f"{name} (larger than {limit >> 20} MiB)")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        return found("text-encoding", f"{name}:{line} (byte {fault.start} is not UTF-8)")


def brief(value: object) -> str:
    """A value of the data for a message: never long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
