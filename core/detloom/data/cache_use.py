"""What lies in the cache folder, who uses it, and how it is cleared. Standard library only.

    sources/PLUGIN/NAME/REVISION/     fetched and unpacked data; REVISION.part while they come
    sources/PLUGIN/NAME/objects/      objects of a bucket, which the revisions share by hard links
    pixels/KEY/                       decoded images
    weights/ADDRESS/FILE              official weights
    facts.sqlite                      what is known of image files

Beside a folder lies `REVISION.use`: who uses it holds a shared lock on that file as long as the process lives, and
clearing needs the lock alone. The kernel lets go of it when a process dies, however it dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detloom.archives import remove_tree

Kind = Literal["sources", "pixels", "weights", "facts"]
KINDS: tuple[Kind, ...] = ("sources", "pixels", "weights", "facts")

USE, PART, GONE, LOCK = ".use", ".part", ".gone", ".lock"
OBJECTS = "objects"

_held: dict[Path, int] = {}
"""Open files of this process, by folder: they are closed when it ends."""

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int, *, alone: bool) -> bool:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return not alone  # somebody else keeps it from being cleared, which serves as well
        return True

else:
    import fcntl

    def _lock(file: int, *, alone: bool) -> bool:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX | fcntl.LOCK_NB) if alone else fcntl.LOCK_SH)
        except BlockingIOError:
            return False
        return True


def hold(folder: Path, label: str) -> None:
    """While this process lives nobody clears the folder, which may not be there yet. label: for people, what it is.
    Where no lock can be had (a cache that may not be written), it does nothing."""
    if folder in _held:
        with contextlib.suppress(OSError):
            os.utime(_beside(folder, USE))
        return
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(_beside(folder, USE), os.O_RDWR | os.O_CREAT, 0o644)
        _held[folder] = file
        _lock(file, alone=False)
        if not os.fstat(file).st_size:
            os.write(file, json.dumps({"label": label}).encode())
        os.utime(_beside(folder, USE))


def release(folder: Path) -> None:
    """For a folder that is not used after all: its mark goes too when nobody made the folder."""
    file = _held.pop(folder, None)
    if file is not None:
        if not folder.exists():
            with contextlib.suppress(OSError):
                _beside(folder, USE).unlink()
        os.close(file)


@dataclass(frozen=True, slots=True)
class Entry:
    """used: when it was last, in seconds since 1970. busy: a process uses it. bytes: each file once."""

    kind: Kind
    path: Path
    label: str
    bytes: int
    used: float
    busy: bool

    @property
    def days(self) -> float:
        """Since it was used."""
        return max(0.0, (time.time() - self.used) / 86400)


def entries(root: Path) -> list[Entry]:
    """Everything in the cache, longest unused first."""
    found = [*_folders(root), *_files(root)]
    return sorted(found, key=lambda entry: (entry.used, str(entry.path)))


def clear(entry: Entry) -> bool:
    """Whether it is gone, with what it alone had in the store of its bucket: False when a process uses it."""
    if entry.path.parent.name == OBJECTS:
        return _clear_objects(entry.path)
    if entry.path.is_file():
        entry.path.unlink(missing_ok=True)
        entry.path.with_name(entry.path.name + ".sha256").unlink(missing_ok=True)
        return True
    whole = entry.path.with_suffix("") if entry.path.suffix == PART else entry.path
    _beside(whole, USE).touch()  # so that there is a lock to hold, also for what an older version left
    with _alone(_beside(whole, USE)) as free, _alone(_beside(whole, LOCK)) as unlocked:
        if not (free and unlocked):
            return False
        if not entry.path.exists():  # it became whole, or somebody else cleared it
            return True
        gone = entry.path.with_name(entry.path.name + GONE)
        remove_tree(gone)
        entry.path.replace(gone)  # at one stroke; taking it apart may last
    remove_tree(gone)
    for store in _below(entry.path.parent / OBJECTS):
        _clear_objects(store)  # what only this revision had
    return True


# ---- looking ------------------------------------------------------------------------------------------------------


def _folders(root: Path) -> Iterator[Entry]:
    for place in _below(root / "pixels"):
        yield _folder("pixels", place)
    for plugin in _below(root / "sources"):
        for source in _below(plugin):
            for place in _below(source):
                if place.name == OBJECTS:
                    yield from (_objects(store, source) for store in _below(place))
                else:
                    yield _folder("sources", place)


def _folder(kind: Kind, place: Path) -> Entry:
    whole = place.with_suffix("") if place.suffix == PART else place
    mark = _beside(whole, USE)
    label = place.name
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        label = str(json.loads(mark.read_text(encoding="utf-8"))["label"])
    if place.suffix in (PART, GONE):
        label += " (unfinished)"
    with contextlib.ExitStack() as stack:
        free = stack.enter_context(_alone(mark)) and stack.enter_context(_alone(_beside(whole, LOCK)))
    return Entry(kind, place, label, _size(place), _time(mark if mark.exists() else place), not free)


def _objects(store: Path, source: Path) -> Entry:
    with _alone(store / LOCK) as free:
        size = sum(state.st_size for _, state in _loose(store))
    return Entry("sources", store, f"{source.name}: objects of no revision that is here", size, _time(store), not free)


def _files(root: Path) -> Iterator[Entry]:
    for path in sorted((root / "weights").glob("*/*")):
        if path.is_file() and path.suffix != ".sha256":
            state = path.stat()
            yield Entry("weights", path, path.name, state.st_size, max(state.st_atime, state.st_mtime), False)
    facts = root / "facts.sqlite"
    if facts.is_file():
        state = facts.stat()
        yield Entry("facts", facts, "what is known of image files", state.st_size, state.st_mtime, False)


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _size(folder: Path) -> int:
    """Of all files, those with several names once."""
    return sum({(state.st_dev, state.st_ino): state.st_size for _, state in _files_below(folder)}.values())


def _files_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Others may move and delete what is listed here."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with contextlib.suppress(OSError):
                yield path, path.lstat()


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


# ---- clearing -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether nobody else holds the lock; it is ours meanwhile. A file that is not there is held by nobody."""
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        yield True
        return
    try:
        yield _lock(file, alone=True)
    finally:
        os.close(file)


def _loose(store: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Objects that no revision links to. Where the file system has no links, revisions hold copies of their own."""
    for path, state in _files_below(store):
        if path.name != LOCK and state.st_nlink == 1:
            yield path, state


def _clear_objects(store: Path) -> bool:
    with _alone(store / LOCK) as free:
        if free:
            for path, _ in list(_loose(store)):
                path.unlink(missing_ok=True)
    return free
