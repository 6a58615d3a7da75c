"""What every source needs to bring data here: patience with an end, files that arrive whole, folders that appear whole.

    Deadline        seconds that are left, and a way to cancel
    retried         a call, repeated with growing pauses while its faults are transient
    download        one file, gone on with where it was cut where the server can
    cached_folder   a folder filled once, by one process, and then there at one stroke
    extract         an archive unpacked without trust (detloom.archives)
    secret, redacted   secrets come from the environment and appear in no message (detloom.redaction)

Standard library only. A source turns the faults of its client library into the errors of this module.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from detloom.archives import ArchiveLimits, extract, is_archive, remove_tree
from detloom.errors import DataError, DetloomError, RunInterrupted, UnreachableError
from detloom.files import sync_folder
from detloom.redaction import redacted, secret

if TYPE_CHECKING:
    from detloom.specs import FetchContext

__all__ = [
    "AccessError", "ArchiveLimits", "ChangedError", "CutError", "Deadline", "Meter", "NotThereError", "OpenAt",
    "Patience", "TimedOutError", "cached_folder", "demand_space", "download", "extract", "is_archive", "locked",
    "redacted", "remove_tree", "retried", "secret", "sync_file",
]  # fmt: skip

T = TypeVar("T")


class AccessError(UnreachableError):
    """The source is there and does not let us in: credentials missing, wrong, expired or without the right."""


class TimedOutError(UnreachableError):
    """The time for the whole fetch is over."""


class NotThereError(DataError):
    """The source answers, and what was asked for does not exist."""


class ChangedError(DataError):
    """What was asked for is no longer what was planned."""


class CutError(Exception):
    """A transfer ended before its end. Transient: `download` goes on by itself."""


# ---- time -------------------------------------------------------------------------------------------------------


class Deadline:
    """The end of a fetch. May be shared by threads."""

    def __init__(self, seconds: float, cancelled: Callable[[], bool] = lambda: False) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._cancelled = cancelled
        self._stopped = threading.Event()

    @classmethod
    def of(cls, context: FetchContext) -> Deadline:
        return cls(context.deadline_s, context.cancelled)

    def left(self) -> float:
        """Seconds, 0 when it is over."""
        return max(0.0, self._end - time.monotonic())

    def stop(self) -> None:
        """Every later `check`, in any thread, raises RunInterrupted."""
        self._stopped.set()

    def check(self) -> None:
        """Raises RunInterrupted when the fetch was cancelled and TimedOutError when its time is over."""
        if self._stopped.is_set() or self._cancelled():
            raise RunInterrupted(
                "fetching the data was stopped", hint="start it again: what has arrived is kept where the source can"
            )
        if self._end <= time.monotonic():
            raise TimedOutError(
                f"fetching the data took longer than {self.seconds:g} s",
                hint="start it again to go on, or allow more time with data.fetch_deadline",
            )

    def pause(self, seconds: float) -> None:
        """Sleep, and notice the end within a quarter of a second."""
        until = time.monotonic() + seconds
        self.check()
        while (left := until - time.monotonic()) > 0:
            self._stopped.wait(min(left, 0.25))
            self.check()


@dataclass(frozen=True, slots=True)
class Patience:
    """attempts: calls in all, without progress in between; the pause after the first fault doubles with each further
    one up to the longest."""

    attempts: int = 6
    first_pause_s: float = 0.5
    longest_pause_s: float = 20.0

    def pause(self, failures: int) -> float:
        """Seconds after so many failures, spread so that many clients do not return at once."""
        return float(min(self.longest_pause_s, self.first_pause_s * 2 ** (failures - 1)) * random.uniform(0.75, 1.25))


def retried(
    call: Callable[[], T],
    *,
    deadline: Deadline,
    is_transient: Callable[[Exception], bool],
    patience: Patience | None = None,
    asked_pause: Callable[[Exception], float | None] = lambda error: None,
) -> T:
    """The result of `call`. A fault that is not transient, and the last one, are raised as they are.

    asked_pause: seconds that the server asked for with this fault (Retry-After). Raises TimedOutError and
    RunInterrupted as the deadline does.
    """
    patience, failures = patience or Patience(), 0
    while True:
        deadline.check()
        try:
            return call()
        except Exception as error:
            failures += 1
            if isinstance(error, DetloomError) or not is_transient(error) or failures >= patience.attempts:
                raise
            asked = asked_pause(error)
            deadline.pause(patience.pause(failures) if asked is None else min(asked, 300.0))


# ---- bytes ------------------------------------------------------------------------------------------------------


class Meter:
    """Adds up what arrives in several threads and tells the progress."""

    def __init__(self, total: int, report: Callable[[int, int], None] = lambda done, total: None) -> None:
        self.total, self.done = total, 0
        self._report, self._lock = report, threading.Lock()

    def add(self, count: int) -> None:
        """count: bytes; negative when what had arrived must come again."""
        with self._lock:
            self.done += count
            self._report(self.done, max(self.total, self.done))


OpenAt = Callable[[int], AbstractContextManager[tuple[int, Iterable[bytes]]]]
"""Opens a file at (about) this offset; gives the offset where its chunks really begin: that one, or 0."""


def download(
    part: Path,
    open_at: OpenAt,
    size: int | None,
    *,
    deadline: Deadline,
    is_transient: Callable[[Exception], bool],
    patience: Patience | None = None,
    meter: Meter | None = None,
) -> None:
    """Fill `part` up to `size` bytes (None: until the stream ends), going on with what it already holds.

    After a cut it goes on where the server can, else from the beginning; attempts that came further than all before
    do not use up the patience. Raises the fault itself when its kind or the patience ends it, DataError when more
    comes than `size`.
    """
    patience, meter, failures = patience or Patience(), meter or Meter(size or 0), 0
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    if size is None or part.stat().st_size > size:
        os.truncate(part, 0)
    farthest = part.stat().st_size
    meter.add(farthest)
    while size is None or part.stat().st_size < size:
        deadline.check()
        try:
            _receive(part, open_at, size, deadline, meter)
            return
        except Exception as error:
            passing = isinstance(error, CutError) or (not isinstance(error, DetloomError) and is_transient(error))
            arrived = part.stat().st_size
            failures = 1 if arrived > farthest else failures + 1
            farthest = max(farthest, arrived)
            if not passing or failures >= patience.attempts:
                raise
            deadline.pause(patience.pause(failures))


def _receive(part: Path, open_at: OpenAt, size: int | None, deadline: Deadline, meter: Meter) -> None:
    """One connection. Raises CutError when it ends too early."""
    have = part.stat().st_size
    with open_at(0 if size is None else have) as (start, chunks), part.open("r+b") as file:
        if start not in (0, have):
            raise DataError(f"the server sent bytes from {start} where {have} was asked for")
        file.truncate(start)
        file.seek(start)
        meter.add(start - have)
        have = start
        for chunk in chunks:
            deadline.check()
            have += len(chunk)
            if size is not None and have > size:
                raise DataError(f"more than the {size:,} bytes came that were announced", hint="fetch it again")
            file.write(chunk)
            meter.add(len(chunk))
    if size is not None and have < size:
        raise CutError(f"{have:,} of {size:,} bytes came")


def sync_file(path: Path) -> None:
    """Until what was written has reached the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def demand_space(folder: Path, needed: int) -> None:
    """Raises DetloomError when so many bytes do not fit where the folder is, or will be."""
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DetloomError(
            f"fetching the data needs {needed / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB left",
            hint="free space, or name another place in the environment variable DETLOOM_CACHE",
        )


# ---- folders ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path, deadline: Deadline) -> Iterator[None]:
    """Only one process at a time is inside, for the same `path` (a file of its own, which stays). Waits until the
    deadline; a process that dies lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        while not _try_lock(file.fileno()):
            deadline.pause(0.1)
        try:
            yield
        finally:
            _unlock(file.fileno())


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)


def cached_folder(
    dest: Path,
    fill: Callable[[Path], None],
    *,
    deadline: Deadline,
    is_whole: Callable[[Path], bool] = lambda folder: True,
) -> Path:
    """`dest`, filled once and by one process; it appears whole or not at all.

    fill(folder): fills a folder beside it, which may hold what an attempt before has left; only when it returns does
    the folder become `dest`. is_whole: whether a `dest` that is there can be used; else it is made anew.
    """
    if dest.is_dir() and is_whole(dest):
        return dest
    try:
        with locked(dest.with_name(dest.name + ".lock"), deadline):
            if dest.is_dir() and is_whole(dest):
                return dest
            remove_tree(dest)
            part = dest.with_name(dest.name + ".part")
            part.mkdir(parents=True, exist_ok=True)
            fill(part)
            sync_folder(part)
            part.replace(dest)
            sync_folder(dest.parent)
    except (ConnectionError, TimeoutError):
        raise  # a fault of the network that `fill` did not explain
    except OSError as error:
        raise DetloomError(
            f"cannot write to the cache {dest.parent}: {error.strerror or error}",
            hint="free space, or name another place in the environment variable DETLOOM_CACHE",
        ) from error
    return dest
