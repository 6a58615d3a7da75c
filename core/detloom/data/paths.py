"""Finding a file that annotations name, without ever leaving the folders that the user gave."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath


class PathEscapeError(ValueError):
    """A name that leads out of its root."""


def find_inside(name: str, folders: Sequence[Path], roots: Sequence[Path]) -> Path | None:
    """The first existing file `folder / name` whose real place is inside one of `roots`; None when there is none.

    Names may be written in another Unicode form than the file system's (macOS decomposes accents), and with
    backslashes. Raises PathEscapeError for absolute names, for names that climb out, and for links that lead out.
    """
    relative = _relative(name)
    real_roots = [root.resolve() for root in roots]
    for folder in folders:
        for candidate in _spellings(folder.resolve(), relative):
            if not _within(_flat(candidate), real_roots) or not candidate.is_file():
                continue
            if _within(candidate.resolve(), real_roots):
                return candidate
            raise PathEscapeError(f"it is a link to {candidate.resolve()}, outside the data's folder")
    # Names are written relative to the annotation file, which is the first folder.
    if not _within(_flat(folders[0].resolve() / relative), real_roots):
        raise PathEscapeError("it climbs out of the data's folder")
    return None


def _flat(path: Path) -> Path:
    """Without `..`, and without following links."""
    return Path(os.path.normpath(path))


def _within(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _relative(name: str) -> str:
    if "\x00" in name:
        raise PathEscapeError("it holds a NUL character")
    windows = PureWindowsPath(name)
    if windows.drive or windows.root:
        raise PathEscapeError("absolute paths are not followed")
    return "/".join(windows.parts)


def _spellings(folder: Path, relative: str) -> list[Path]:
    forms = dict.fromkeys((relative, *(unicodedata.normalize(form, relative) for form in ("NFC", "NFD"))))
    return [folder / form for form in forms if form]
