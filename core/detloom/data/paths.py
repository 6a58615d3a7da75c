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
        self._real: dict[str, str] = {}

    def find(self, name: str) -> Path | None:
        """The first existing file `folder / name`; None when there is none.

        Names may be written in another Unicode form than the file system's (macOS decomposes accents), and with
        backslashes. Raises PathEscapeError for absolute names, for names that climb out, and for links that lead out.
        """
        relative = _relative(name)
        spellings = _spellings(relative)
        for folder in self._folders:
            for spelling in spellings:
                # Plain texts: pathlib takes most of the time of reading annotations otherwise.
                candidate = f"{folder}{os.sep}{spelling}"
                if not self._holds(os.path.normpath(candidate)) or not os.path.isfile(candidate):  # noqa: PTH113
                    continue
                real = self._realpath(candidate)
                if self._holds(real):
                    return Path(candidate)
                outside = f"it is a link to {real}, outside the data's folder"
                raise PathEscapeError(f"{outside}: allow it with --images {Path(real).parent}")
        # Names are written relative to the annotation file, which is the first folder.
        if not _within(_flat(self._folders[0] / relative), self._roots):
            raise PathEscapeError("it climbs out of the data's folder")
        return None

    def _holds(self, path: str) -> bool:
        return any(path == str(root) or path.startswith(f"{root}{os.sep}") for root in self._roots)

    def _realpath(self, path: str) -> str:
        """As os.path.realpath, but asks once for the folder of many files."""
        folder, name = os.path.split(path)
        if name in ("..", ".") or os.path.islink(path):  # noqa: PTH114
            return os.path.realpath(path)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return f"{self._real[folder]}{os.sep}{name}"

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


def _spellings(relative: str) -> list[str]:
    forms = dict.fromkeys((relative, *(unicodedata.normalize(form, relative) for form in ("NFC", "NFD"))))
    return [form for form in forms if form]
