"""The one place that writes files of a run, whole or not at all; and where the cache stands."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detloom.errors import DetloomError


def cache_dir() -> Path:
    """Where Detloom keeps what it can make or fetch again: DETLOOM_CACHE, else the user's cache folder."""
    named = os.environ.get("DETLOOM_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "detloom"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there replaces `path` when the block ends well.

    The data reach the disk before the name changes, so that a crash leaves the old file or the new one.
    Raises DetloomError when the place cannot be written or the disk is full.
    """
    handle, name = -1, ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        # mkstemp makes files private; a run's files follow the user's umask.
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        yield Path(name)
        with Path(name).open("rb") as written:
            os.fsync(written.fileno())
        Path(name).replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise DetloomError(
            f"cannot write {path}: {error.strerror or error}",
            hint="free space or choose another place; nothing half-written was left behind",
        ) from error
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Until the names in it have reached the disk."""
    if os.name == "nt":  # folders cannot be opened there; NTFS journals the rename
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
