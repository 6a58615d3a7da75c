# ruff: noqa: TID253
"""Decoded images at the size of the network input: read once, then mapped into every process that needs them.

What is kept is the picture after it was resized and before it is padded or augmented, so that batches are the same
with and without a cache. A cache belongs to the content of its images, their order, the input rule and the decoders.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detloom.data.cache_use import hold
from detloom.data.dataset import ImageInfo, Split
from detloom.data.facts import Progress
from detloom.data.images import decode_image
from detloom.errors import DataError, DetloomError, RunInterrupted
from detloom.files import cache_dir
from detloom.geometry import InputRule
from detloom.progress import say

CacheKind = Literal["none", "ram", "disk"]

_LAYOUT = "1"
"""Part of the key: files of another layout are not taken over."""

_FILE = "pixels.bin"
_SPARE = 0.1
"""Share of the free memory or disk that is left to others."""


class PixelStore:
    """Pictures of one split, one after another in one file, mapped on first use; pickled by the file's name."""

    def __init__(self, path: Path, shapes: NDArray[np.int64]) -> None:
        """shapes: int64 [images, 2], height and width."""
        self.path, self._shapes = path, shapes
        self._ends = np.cumsum(shapes[:, 0] * shapes[:, 1] * 3)
        self._map: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self._shapes)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_shapes": self._shapes, "_ends": self._ends, "_map": None}

    @property
    def bytes(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int) -> NDArray[np.uint8]:
        """uint8 RGB [h, w, 3]; a copy, which the caller may change."""
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _view(self._map, self._ends, self._shapes, index).copy()


def _view(pixels: mmap.mmap, ends: NDArray[np.int64], shapes: NDArray[np.int64], index: int) -> NDArray[np.uint8]:
    height, width = (int(side) for side in shapes[index])
    count = height * width * 3
    flat = np.frombuffer(pixels, np.uint8, count, int(ends[index]) - count)
    return flat.reshape(height, width, 3)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A split that is to be cached."""

    split: Split
    rule: InputRule
    shapes: NDArray[np.int64]

    @property
    def bytes(self) -> int:
        return int((self.shapes[:, 0] * self.shapes[:, 1]).sum()) * 3

    @property
    def key(self) -> str:
        """Of everything that the pixels depend on."""
        versions = [importlib.metadata.version(name) for name in ("simplejpeg", "opencv-python-headless")]
        digest = hashlib.sha256("\x1f".join([_LAYOUT, *versions, self.rule.resize, str(self.rule.size)]).encode())
        for image in self.split.images:
            digest.update(f"\n{image.sha256 or _unhashed(image)}".encode())
        return digest.hexdigest()[:32]

    @property
    def folder(self) -> Path:
        return cache_dir() / "pixels" / self.key


def _unhashed(image: ImageInfo) -> str:
    state = image.path.stat()
    return f"{image.path.resolve()}|{state.st_size}|{state.st_mtime_ns}"


def build_stores(
    splits: Sequence[Split],
    rule: InputRule,
    kind: CacheKind,
    *,
    progress: Progress | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> list[PixelStore | None]:
    """One store for each split (equal ones share it), all filled; None for each without a cache.

    Says what it takes before it begins. Raises DetloomError when the memory or the disk is too small, DataError for a
    picture that cannot be read or has changed since the check, RunInterrupted when it was stopped.
    """
    if kind == "none":
        return [None] * len(splits)
    wanted = [_Wanted(split, rule, _shapes(split, rule)) for split in splits]
    distinct = {one.key: one for one in wanted if len(one.split)}
    for one in distinct.values() if kind == "disk" else ():
        hold(one.folder, f"{len(one.split)} images of {one.split.name}, {rule.size[1]}x{rule.size[0]}")
    todo = {key: one for key, one in distinct.items() if kind == "ram" or not _is_whole(one, one.folder)}
    _demand_room(kind, list(distinct.values()), sum(one.bytes for one in todo.values()))
    total, done = sum(len(one.split) for one in todo.values()), 0
    stores: dict[str, PixelStore] = {}
    for key, one in distinct.items():

        def noted(count: int, before: int = done) -> None:
            if stop_requested():
                raise RunInterrupted("stopped while the images were cached", hint="start it again")
            if progress is not None:
                progress(before + count, total)

        stores[key] = _in_memory(one, noted) if kind == "ram" else _on_disk(one, noted, stop_requested)
        done += len(one.split) if key in todo else 0
    return [stores.get(one.key) for one in wanted]


def _shapes(split: Split, rule: InputRule) -> NDArray[np.int64]:
    sizes = [rule.content_size((image.height, image.width)) for image in split.images]
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


# ---- filling ------------------------------------------------------------------------------------------------------


def _in_memory(wanted: _Wanted, noted: Callable[[int], None]) -> PixelStore:
    """A file that is nowhere but in memory (where the system has such files), gone with the store."""
    path, forget = _memory_file(wanted.bytes)
    store = PixelStore(path, wanted.shapes)
    weakref.finalize(store, forget)
    _fill(wanted, path, noted)
    return store


def _memory_file(size: int) -> tuple[Path, Callable[[], None]]:
    """A file of this size and what gives it back. Processes that are started later open it by its name."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("detloom-pixels")
        os.ftruncate(handle, size)
        return Path(f"/proc/{os.getpid()}/fd/{handle}"), lambda: os.close(handle)
    handle, name = tempfile.mkstemp(prefix="detloom-", suffix=".pixels")
    os.ftruncate(handle, size)
    os.close(handle)
    return Path(name), lambda: Path(name).unlink(missing_ok=True)


def _on_disk(wanted: _Wanted, noted: Callable[[int], None], stop_requested: Callable[[], bool]) -> PixelStore:
    """In the cache folder, whole or not at all, also when several processes want it."""
    from detloom.transfer import Deadline, cached_folder

    def fill(folder: Path) -> None:
        part = folder / _FILE
        with part.open("wb") as file:
            file.truncate(wanted.bytes)
        _fill(wanted, part, noted)
        with part.open("rb") as file:
            os.fsync(file.fileno())

    deadline = Deadline(7 * 24 * 3600.0, stop_requested)
    folder = cached_folder(wanted.folder, fill, deadline=deadline, is_whole=lambda place: _is_whole(wanted, place))
    return PixelStore(folder / _FILE, wanted.shapes)


def _is_whole(wanted: _Wanted, folder: Path) -> bool:
    try:
        return (folder / _FILE).stat().st_size == wanted.bytes
    except OSError:
        return False


def _fill(wanted: _Wanted, path: Path, noted: Callable[[int], None]) -> None:
    """Read every picture into its place; decoding lets other threads work."""
    ends = np.cumsum(wanted.shapes[:, 0] * wanted.shapes[:, 1] * 3)
    with _writable(path) as pixels, ThreadPoolExecutor(_threads()) as pool:

        def put(index: int) -> None:
            _view(pixels, ends, wanted.shapes, index)[:] = _resized(wanted.split.images[index], wanted.rule)

        try:
            for count, _ in enumerate(pool.map(put, range(len(wanted.split))), start=1):
                noted(count)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[mmap.mmap]:
    with path.open("r+b") as file:
        pixels = mmap.mmap(file.fileno(), 0)
    try:
        yield pixels
        pixels.flush()
    finally:
        with contextlib.suppress(BufferError):  # a thread that was interrupted may still hold a view
            pixels.close()


def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores))


def _resized(image: ImageInfo, rule: InputRule) -> NDArray[np.uint8]:
    try:
        data = image.path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{image.path} cannot be read: {error.strerror or error}", hint="run the check again"
        ) from error
    if image.sha256 and hashlib.sha256(data).hexdigest() != image.sha256:
        raise DataError(f"{image.path} has changed since the data were checked", hint="run the check again")
    return rule.resize_image(decode_image(data, str(image.path)))


# ---- room ---------------------------------------------------------------------------------------------------------


def _demand_room(kind: CacheKind, stores: Sequence[_Wanted], needed: int) -> None:
    """Say what the cache takes. Raises DetloomError when that is not there."""
    images, whole = sum(len(one.split) for one in stores), sum(one.bytes for one in stores)
    free = free_memory() if kind == "ram" else _free_disk(cache_dir())
    place = "memory" if kind == "ram" else str(cache_dir() / "pixels")
    said = f"{_gigabytes(whole)} for {images} images in {place}"
    if needed < whole:
        said += f", {_gigabytes(whole - needed)} of it there already"
    if free is not None:
        said += f" ({_gigabytes(free)} free)"
    if free is not None and needed > free * (1 - _SPARE):
        others = "disk or data.cache=none" if kind == "ram" else "none, or set DETLOOM_CACHE to a larger disk"
        hint = f"lower training.resolution, or set data.cache={others}"
        if kind == "disk" and (kept := _size_of(cache_dir() / "pixels")):
            hint += f"; {_gigabytes(kept)} of other data or sizes lie there (detloom cache clear --kind pixels)"
        raise DetloomError(f"data.cache={kind} is too large here: {said}", hint=hint)
    say(f"cache    {said}")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _free_disk(folder: Path) -> int:
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(place).free


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob(_FILE)) if folder.is_dir() else 0


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that processes here may still take: of the machine, and of the container where that is less. None where
    the system does not say. root: where /proc and /sys are."""
    found = [value for value in (_machine(root), _container(root)) if value is not None]
    return min(found) if found else None


def _machine(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _container(root: Path) -> int | None:
    """Of a control group, version 2 or 1. What is used there as cache of files can be taken back."""
    for folder, limit, used, cache in (
        ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((root / folder / limit).read_text())
            taken = int((root / folder / used).read_text())
            rows = dict(line.split() for line in (root / folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group, or `max`
            continue
        return max(0, most - taken + int(rows.get(cache, 0)))
    return None
