"""Names that come from elsewhere (keys of a bucket, members of an archive) as paths that stay below a folder."""

from __future__ import annotations

import re
import unicodedata

LONGEST_PART = 255
"""Bytes that a name between two slashes may have on the usual file systems."""


class UnsafeNameError(ValueError):
    """A name that must not become a path; the message says why."""


def safe_name(name: str) -> str:
    """The name as a relative path with `/`; backslashes separate too, and `.` between slashes is dropped.

    Raises UnsafeNameError for names that are absolute, climb (`..`), name a drive, hold control characters, empty
    parts or parts that are too long.
    """
    if any(ord(character) < 32 for character in name):
        raise UnsafeNameError("it holds a control character")
    slashed = name.replace("\\", "/")
    if re.match(r"[A-Za-z]:", slashed):
        raise UnsafeNameError("it names a drive")
    if slashed.startswith("/"):
        raise UnsafeNameError("it is absolute")
    parts = [part for part in slashed.split("/") if part != "."]
    if ".." in parts:
        raise UnsafeNameError("it climbs out of its folder")
    if not parts or "" in parts:
        raise UnsafeNameError("a part of it is empty")
    if any(len(part.encode("utf-8", "surrogateescape")) > LONGEST_PART for part in parts):
        raise UnsafeNameError(f"a part of it is longer than {LONGEST_PART} bytes")
    return "/".join(parts)


class NameBook:
    """Finds names that some file systems cannot keep apart: other case, other Unicode form, a file where another name
    needs a folder."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def add(self, name: str) -> None:
        """Take a safe name of a file. Raises UnsafeNameError naming the one that it clashes with."""
        key = _folded(name)
        taken = self._files.get(key) or self._folders.get(key)
        if taken is not None:
            raise UnsafeNameError(f"it clashes with {taken!r}")
        self._files[key] = name
        parents = name.split("/")[:-1]
        for depth in range(len(parents), 0, -1):
            folder = "/".join(parents[:depth])
            folded = _folded(folder)
            if folded in self._files:
                raise UnsafeNameError(f"it needs a folder where {self._files[folded]!r} is a file")
            if self._folders.setdefault(folded, folder) != folder:
                raise UnsafeNameError(f"its folder clashes with {self._folders[folded]!r}")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
