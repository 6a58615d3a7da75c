"""A queue in a file: what was not delivered yet, bounded in bytes, whole after a crash.

One record is one line of JSON; the first line names the file. How far the records were delivered stands beside it, in
`<name>.ack`, so that a record that the server has acknowledged is not sent again.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detloom.errors import DetloomError
from detloom.files import atomic_path

_COMPACT_BYTES = 1 << 20
"""Delivered records are cut off when they make up so much."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record that waits. end: where the next one begins."""

    record: dict[str, Any]
    end: int


class Spool:
    """Append at the end, take from the front. May be used from several threads of one process."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        """Goes on with what an earlier process left in `path`; a line that it did not finish is dropped.

        limit_bytes: of the whole file.
        """
        self.path = path
        self._ack_path = path.with_suffix(".ack")
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._handle = -1
        self.waiting = 0
        """Records that were not delivered yet."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def append(self, records: Sequence[Mapping[str, Any]], *, sync: bool = False) -> int:
        """Returns how many of them were lost: the limit is reached, or the disk is full. sync: they are on the disk
        itself when this returns."""
        lines = [json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n" for record in records]
        with self._lock:
            if self._size + sum(map(len, lines)) > self._limit:
                self._compact()
            kept = _fitting(lines, self._limit - self._size)
            try:
                _write_all(self._handle, b"".join(kept))
                if sync:
                    os.fsync(self._handle)
            except OSError:  # a full disk: no torn line may stay in the middle
                with contextlib.suppress(OSError):
                    os.ftruncate(self._handle, self._size)
                return len(lines)
            self._size += sum(map(len, kept))
            self.waiting += len(kept)
            return len(lines) - len(kept)

    def peek(self, count: int = 500, size_bytes: int = 2 << 20) -> list[Entry]:
        """The records at the front, at least one if there is any: up to `count`, and about `size_bytes`."""
        with self._lock, self.path.open("rb") as file:
            file.seek(self._position)
            entries: list[Entry] = []
            end = self._position
            for line in file:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                record = _parse(line)
                if record is not None:
                    entries.append(Entry(record, end))
                if len(entries) >= count or end - self._position >= size_bytes:
                    break
            return entries

    def acknowledge(self, entry: Entry, count: int) -> None:
        """Everything up to `entry`, `count` records, is delivered or was given up."""
        with self._lock:
            self._position = entry.end
            self.waiting = max(0, self.waiting - count)
            self._write_ack()
            if self._position == self._size and self._size > _COMPACT_BYTES:
                self._compact()

    def close(self) -> None:
        """A file in which nothing waits is removed."""
        with self._lock:
            self._release()
            if not self.waiting:
                self.path.unlink(missing_ok=True)
                self._ack_path.unlink(missing_ok=True)

    def __del__(self) -> None:
        self._release()

    def _release(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _open(self) -> None:
        self._drop_torn_line()
        self._handle = _open_at_end(self.path)
        self._size = self.path.stat().st_size
        if not self._size:
            self._begin()
        with self.path.open("rb") as file:
            head = file.readline()
            self._id = str((_parse(head) or {}).get("spool", ""))
            self._position = max(len(head), self._acknowledged())
            file.seek(self._position)
            self.waiting = sum(1 for line in file if _parse(line) is not None)

    def _begin(self) -> None:
        _write_all(self._handle, _head(uuid.uuid4().hex))
        self._size = self.path.stat().st_size

    def _drop_torn_line(self) -> None:
        with contextlib.suppress(FileNotFoundError), self.path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            end = size
            while end:
                start = max(0, end - 65536)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                end = start + newline + 1 if newline >= 0 else start
                if newline >= 0:
                    break
            if end < size:
                file.truncate(end)

    def _acknowledged(self) -> int:
        """0 when nothing is known of this very file."""
        try:
            ack = json.loads(self._ack_path.read_text(encoding="utf-8"))
            position = int(ack["position"]) if ack["spool"] == self._id else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return position if position <= self._size else 0

    def _write_ack(self) -> None:
        part = self._ack_path.with_suffix(".ack.part")
        with contextlib.suppress(OSError):  # a full disk: the records are sent again one day, to the same places
            part.write_text(json.dumps({"spool": self._id, "position": self._position}), encoding="utf-8")
            part.replace(self._ack_path)

    def _compact(self) -> None:
        """Cut off what was delivered. The new file has a new name, so that an old position cannot be taken for its.
        Where there is no room for it the old one stays."""
        if self._position <= len(_head(self._id)):
            return
        name = uuid.uuid4().hex
        self._release()
        try:
            with atomic_path(self.path) as part, self.path.open("rb") as old, part.open("wb") as new:
                new.write(_head(name))
                old.seek(self._position)
                while block := old.read(1 << 20):
                    new.write(block)
        except DetloomError:
            self._handle = _open_at_end(self.path)
            return
        self._handle = _open_at_end(self.path)
        self._id, self._position = name, len(_head(name))
        self._size = self.path.stat().st_size
        self._write_ack()


def _open_at_end(path: Path) -> int:
    """Not buffered: what was written when the process is killed is the kernel's to keep."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)


def _write_all(handle: int, data: bytes) -> None:
    """The system may take a part only."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _head(name: str) -> bytes:
    return json.dumps({"spool": name}).encode() + b"\n"


def _fitting(lines: Sequence[bytes], room: int) -> list[bytes]:
    """As many from the front as fit: what was said first is kept."""
    kept: list[bytes] = []
    for line in lines:
        room -= len(line)
        if room < 0:
            break
        kept.append(line)
    return kept


def _parse(line: bytes) -> dict[str, Any] | None:
    """None for a line that the disk has spoiled."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
