"""Finding a file that annotations name, without ever leaving the folders that the user gave."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath


class PathEscapeError(ValueError):
    """A name that leads out of its root."""


class Finder:
    """Looks for names in folders, in order; what is found lies really inside one of `roots`."""

    def __init__(self, folders: Sequence[Path], roots: Sequence[Path]) -> None:
        self._folders = [folder.resolve() for folder in folders]
        self._roots = [root.resolve() for root in roots]
        self._capitals: dict[Path, dict[str, str | None]] = {}

    def find(self, name: str) -> Path | None:
        """The first existing file `folder / name`; None when there is none.

        Names may be written in another Unicode form than the file system's (macOS decomposes accents), and with
        backslashes. Raises PathEscapeError for absolute names, for names that climb out, and for links that lead out.
        """
        relative = _relative(name)
        for folder in self._folders:
            for candidate in _spellings(folder, relative):
                if not _within(_flat(candidate), self._roots) or not candidate.is_file():
                    continue
                if _within(candidate.resolve(), self._roots):
                    return candidate
                raise PathEscapeError(f"it is a link to {candidate.resolve()}, outside the data's folder")
        # Names are written relative to the annotation file, which is the first folder.
        if not _within(_flat(self._folders[0] / relative), self._roots):
            raise PathEscapeError("it climbs out of the data's folder")
        return None

    def find_other_capitals(self, name: str) -> Path | None:
        """The only file whose name is written with other capitals; for names that `find` did not find."""
        relative = _relative(name)
        for folder in self._folders:
            place = _flat(folder / relative)
            there = self._names(place.parent).get(_plain(place.name))
            if there and _within(place, self._roots) and _within((place.parent / there).resolve(), self._roots):
                return place.parent / there
        return None

    def _names(self, folder: Path) -> dict[str, str | None]:
        """Plain name to the name on disk of the files of a folder; None where several would do."""
        if folder not in self._capitals:
            names: dict[str, str | None] = {}
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_file():
                        plain = _plain(entry.name)
                        names[plain] = None if plain in names else entry.name
            self._capitals[folder] = names
        return self._capitals[folder]


def find_inside(name: str, folders: Sequence[Path], roots: Sequence[Path]) -> Path | None:
    """As Finder.find, for a single name."""
    return Finder(folders, roots).find(name)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


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
