"""What the check needs to know of each image file, gathered in threads and remembered between runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from detloom.data.pixel_limit import max_pixels
from detloom.files import cache_dir

Progress = Callable[[int, int], None]

# Part of the key: facts that an older reader found out are not taken over.
_READER = "2"


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """width, height: upright; raw_width, raw_height: as stored; kind: `jpeg`, `png`, ..., empty for rare ones; mode:
    see detloom.data.headers; several: more pictures are in the file; blank: all pixels are equal; fingerprint: see
    detloom.data.similar. fault: a finding code, empty for a sound file; then the sizes are 0 and `reason` says what is
    wrong."""

    sha256: str = ""
    width: int = 0
    height: int = 0
    raw_width: int = 0
    raw_height: int = 0
    orientation: int = 1
    mode: str = ""
    kind: str = ""
    several: bool = False
    blank: bool = False
    fingerprint: str = ""
    fault: str = ""
    reason: str = ""


def look_at(path: Path) -> ImageFacts:
    """Read and decode one file."""
    from detloom.data.headers import parse_header
    from detloom.data.images import ImageError, decode_image, probe_bytes
    from detloom.data.similar import fingerprint, is_blank

    try:
        data = path.read_bytes()
    except OSError as error:
        return ImageFacts(fault="missing-image", reason=error.strerror or str(error))
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        pixels = decode_image(data, path.name)
        probe = probe_bytes(data, path.name)
    except ImageError as error:
        return ImageFacts(sha256, fault=error.code, reason=error.reason)
    height, width = pixels.shape[:2]
    header = parse_header(data)
    return ImageFacts(
        sha256,
        width,
        height,
        probe.raw_width,
        probe.raw_height,
        probe.orientation,
        probe.mode,
        kind=header.format if header is not None else "",
        several=header is not None and header.several,
        blank=is_blank(pixels),
        fingerprint=fingerprint(pixels),
    )


def gather_facts(paths: Sequence[Path], progress: Progress | None = None) -> dict[Path, ImageFacts]:
    """Facts of every path, from the cache where the file is unchanged. progress(done, total)."""
    unique = list(dict.fromkeys(paths))
    found: dict[Path, ImageFacts] = {}
    with _open_cache() as cache:
        keys = {path: _key(path) for path in unique}
        found.update(cache.load(keys))
        todo = [path for path in unique if path not in found]
        if progress is not None:
            progress(len(found), len(unique))
        threads = max(1, min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4))
        with ThreadPoolExecutor(threads) as pool:
            for path, facts in zip(todo, pool.map(look_at, todo), strict=True):
                found[path] = facts
                if progress is not None:
                    progress(len(found), len(unique))
        cache.save((keys[path], found[path]) for path in todo if keys[path])
    return found


def _key(path: Path) -> str:
    """Empty for a file that cannot be asked: it is not cached."""
    try:
        state = path.stat()
    except OSError:
        return ""
    return f"{_READER}|{path.absolute()}|{state.st_size}|{state.st_mtime_ns}"


class _Cache:
    """A table of facts. Every failure means: no cache; it never stops a check."""

    def __init__(self, connection: sqlite3.Connection | None) -> None:
        self._connection = connection

    def load(self, keys: dict[Path, str]) -> Iterator[tuple[Path, ImageFacts]]:
        if self._connection is None:
            return
        for path, key in keys.items():
            try:
                row = self._connection.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
                facts = ImageFacts(**json.loads(row[0])) if row else None
            except (sqlite3.Error, ValueError, TypeError):
                continue
            # The limit of pixels may have been another one.
            if facts is not None and facts.width * facts.height <= max_pixels():
                yield path, facts

    def save(self, rows: Iterable[tuple[str, ImageFacts]]) -> None:
        if self._connection is None:
            return
        values = [(key, json.dumps(asdict(facts))) for key, facts in rows if facts.fault != "image-too-large"]
        with contextlib.suppress(sqlite3.Error), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", values)


@contextlib.contextmanager
def _open_cache() -> Iterator[_Cache]:
    connection = _connect(cache_dir() / "facts.sqlite")
    try:
        yield _Cache(connection)
    finally:
        if connection is not None:
            connection.close()


def _connect(path: Path) -> sqlite3.Connection | None:
    """A broken file is replaced once; where nothing can be written, the check works without a cache."""
    for _ in range(2):
        connection: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=10)
            connection.execute("CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT)")
        except sqlite3.OperationalError:  # locked, read-only, no space
            if connection is not None:
                connection.close()
            return None
        except sqlite3.DatabaseError:  # not a database any more
            if connection is not None:
                connection.close()
            with contextlib.suppress(OSError):
                path.unlink()
        except OSError:
            return None
        else:
            return connection
    return None
