"""What lies below a prefix, and which file each object becomes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from detloom.archives import archive_stem, is_archive
from detloom.errors import DataError
from detloom.safe_names import NameBook, UnsafeNameError, safe_name

SHOWN = 5


@dataclass(frozen=True, slots=True)
class StoredObject:
    """version: empty where the bucket keeps none."""

    key: str
    etag: str
    size: int
    version: str = ""

    @property
    def address(self) -> str:
        """Names its content: the same key with another content has another one."""
        text = f"{self.key}\x1f{self.etag}\x1f{self.size}\x1f{self.version}"
        return hashlib.sha256(text.encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class Placed:
    """An object and the file that it becomes. folder: where its content goes when it is an archive that is unpacked
    (`.`: the data's own folder); None for a file."""

    stored: StoredObject
    path: str
    folder: str | None = None


def revision_of(placed: Sequence[Placed]) -> str:
    """Changes when a key, a content, a version, or what becomes of it changes; the order does not count."""
    lines = [
        f"{one.stored.key}\x1f{one.stored.etag}\x1f{one.stored.size}\x1f{one.stored.version}\x1f{one.folder or ''}"
        for one in placed
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:32]


def below(key: str, prefix: str) -> bool:
    """`data` holds `data/a` and is `data`, but does not hold `data2/a`."""
    return not prefix or key == prefix or key.startswith(f"{prefix}/")


def place(objects: Iterable[StoredObject], prefix: str, *, unpack: bool, label: str) -> list[Placed]:
    """Paths relative to the prefix; markers of folders are passed over.

    unpack: an archive alone becomes the data's folder, each of several a folder of its name. Raises DataError for keys
    that cannot become files inside one folder. label: what messages call the place.
    """
    book, placed, faults = NameBook(), [], []
    for stored in sorted(objects, key=lambda one: one.key):
        if stored.key.endswith("/") and stored.size == 0:
            continue
        try:
            path = _path(stored.key, prefix)
            book.add(path)
        except UnsafeNameError as error:
            faults.append(f"  {stored.key!r}: {error}")
            continue
        placed.append(Placed(stored, path))
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(
            f"{label} has {len(faults)} object{'s' * (len(faults) > 1)} whose key cannot become a file here:\n"
            + "\n".join(faults[:SHOWN])
            + more,
            hint="rename them there, or name a prefix without them; nothing was downloaded",
        )
    return [_unpacked(one, placed) for one in placed] if unpack else placed


def _path(key: str, prefix: str) -> str:
    if "\\" in key:  # in a key it is a letter, and would be a folder on some machines only
        raise UnsafeNameError("it holds a backslash")
    relative = key.rpartition("/")[2] if key == prefix else key[len(prefix) + 1 if prefix else 0 :]
    path = safe_name(relative)
    if path != relative:
        raise UnsafeNameError("a part of it is a dot")
    return path


def _unpacked(one: Placed, placed: Sequence[Placed]) -> Placed:
    if not is_archive(one.path):
        return one
    if len(placed) == 1:
        return Placed(one.stored, one.path, ".")
    stem = archive_stem(one.path)
    taken = any(other.path == stem or other.path.startswith(f"{stem}/") for other in placed)
    twice = sum(is_archive(other.path) and archive_stem(other.path) == stem for other in placed) > 1
    # Somebody keeps both the archive and what was in it: the files are the data.
    return one if taken or twice or not stem.rpartition("/")[2] else Placed(one.stored, one.path, stem)
