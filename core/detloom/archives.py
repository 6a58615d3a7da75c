"""Archives from elsewhere, unpacked without trust: zip and tar."""

from __future__ import annotations

import contextlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from detloom.errors import DataError
from detloom.safe_names import NameBook, UnsafeNameError, safe_name

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
SUFFIXES = (*ZIP_SUFFIXES, *TAR_SUFFIXES)
_CHUNK = 1 << 20
_SPARED = 16 << 20
"""Bytes that may be unpacked before the ratio counts: small texts compress a thousandfold in all honesty."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """bytes: of all members unpacked; members: their count; ratio: unpacked bytes for one byte of the archive."""

    bytes: int = 1 << 40
    members: int = 5_000_000
    ratio: float = 200.0


class ArchiveRefusedError(DataError):
    """An archive of which nothing is used. code: `archive-escape`, `archive-link`, `archive-clash`, `archive-bomb` or
    `archive-damaged` (see detloom.data.codes); where: the archive, and the member if it is one."""

    def __init__(self, code: str, message: str, *, where: str, hint: str = "") -> None:
        super().__init__(f"{code}: {message}", hint=hint or "nothing of it is used; write it again, as zip or tar")
        self.code = code
        self.where = where


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size: int
    kind: str  # "file", "folder", or what it is instead
    open: Callable[[], IO[bytes]]


def is_archive(name: str) -> bool:
    """Judged by the name."""
    return name.lower().endswith(SUFFIXES)


def archive_stem(name: str) -> str:
    """`a/train.tar.gz` -> `a/train`."""
    suffix = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len, default="")
    return name[: len(name) - len(suffix)] if suffix else name


def extract(
    archive: Path,
    dest: Path,
    *,
    limits: ArchiveLimits | None = None,
    check: Callable[[], None] = lambda: None,
    name: str = "",
) -> list[Path]:
    """Unpack into the folder `dest`; returns the files that were written.

    Every member is looked at before the first is written. check: called between chunks; raises to stop. name: what
    messages call the archive. Raises ArchiveRefusedError for an archive that is damaged, encrypted or past the limits,
    and for members that lead out of the folder, are links or devices, or have names that clash.
    """
    label, limits = name or archive.name, limits or ArchiveLimits()
    try:
        with _opened(archive) as (members, packed):
            chosen = _examined(members, packed, limits, label)
            return [_written(member, dest, target, label, check) for member, target in chosen]
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        reason = "it is encrypted" if "encrypted" in str(error) or "password" in str(error) else str(error)
        raise _damaged(label, reason) from error
    except OSError as error:
        if error.filename is None and error.errno is None:  # what bz2 and gzip raise for damaged data
            raise _damaged(label, str(error)) from error
        raise DataError(
            f"cannot unpack {label}: {error.strerror or error} ({error.filename or dest})", hint="free space"
        ) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Iterator[_Member], int]]:
    """Members of a zip or tar file, and the bytes it takes on disk."""
    packed = path.stat().st_size
    with path.open("rb") as file:  # zipfile.is_zipfile also takes a tar file with a zip file in it
        zipped_file = file.read(2) == b"PK"
    if zipped_file:
        with zipfile.ZipFile(path) as zipped:
            yield _zip_members(zipped), packed
    else:
        with tarfile.open(path) as tarred:
            yield _tar_members(tarred), packed


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        mode = info.external_attr >> 16
        kind = "folder" if info.is_dir() else "file"
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "a link" if stat.S_ISLNK(mode) else "a device or pipe"
        elif info.flag_bits & 1:
            kind = "encrypted"
        yield _Member(info.filename, info.file_size, kind, lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        if info.isfile() and not info.issparse():
            kind = "file"
        elif info.isdir():
            kind = "folder"
        else:
            kind = "a link" if info.issym() or info.islnk() else "a device, pipe or sparse file"
        yield _Member(info.name, info.size, kind, lambda info=info: _tar_file(archive, info))  # type: ignore[misc]
    # The checksum of the compression stands behind what tarfile reads.
    rest = 0
    while archive.fileobj is not None and (padding := archive.fileobj.read(_CHUNK)):
        rest += len(padding)
        if rest > _SPARED:
            raise tarfile.ReadError("much follows the end of the archive")


def _tar_file(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    opened = archive.extractfile(info)
    assert opened is not None
    return opened


def _examined(members: Iterator[_Member], packed: int, limits: ArchiveLimits, label: str) -> list[tuple[_Member, str]]:
    """Files and the safe names they get. Raises ArchiveRefusedError for the first thing that is wrong."""
    book, total, chosen = NameBook(), 0, []
    for count, member in enumerate(members, start=1):
        if count > limits.members:
            raise _refused("archive-bomb", label, f"it has more than {limits.members:,} members")
        if member.kind not in ("file", "folder"):
            code = "archive-damaged" if member.kind == "encrypted" else "archive-link"
            raise _refused(code, label, f"its member {member.name!r} is {member.kind}")
        total += member.size
        if total > limits.bytes:
            raise _refused("archive-bomb", label, f"unpacked it has more than {limits.bytes:,} bytes")
        if total > max(_SPARED, packed * limits.ratio):
            many = f"it grows more than {limits.ratio:.0f}-fold when it is unpacked (a bomb)"
            raise _refused("archive-bomb", label, many)
        code = "archive-escape"
        try:
            name = safe_name(member.name.rstrip("/")) if member.name.rstrip("/") not in ("", ".") else ""
            code = "archive-clash"
            if member.kind == "file":
                book.add(name)
                chosen.append((member, name))
        except UnsafeNameError as error:
            raise _refused(code, label, f"its member {member.name!r} cannot be unpacked: {error}") from None
    return chosen


def _written(member: _Member, dest: Path, name: str, label: str, check: Callable[[], None]) -> Path:
    """A member may hold more than it says; what it says was counted, so no more than that is written."""
    path = dest / name
    path.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with member.open() as packed, path.open("wb") as file:
        while chunk := packed.read(min(_CHUNK, left + 1)):
            check()
            left -= len(chunk)
            if left < 0:
                raise _refused("archive-bomb", label, f"its member {member.name!r} is larger than it says")
            file.write(chunk)
    if left > 0:
        raise _refused("archive-damaged", label, f"its member {member.name!r} ends {left:,} bytes too early")
    return path


def _refused(code: str, label: str, reason: str) -> ArchiveRefusedError:
    return ArchiveRefusedError(code, f"the archive {label} was refused: {reason}", where=f"{label} ({reason})")


def _damaged(label: str, reason: str) -> ArchiveRefusedError:
    message = f"the archive {label} cannot be unpacked: {reason}"
    return ArchiveRefusedError("archive-damaged", message, where=f"{label} ({reason})")


def unwrapped(folder: Path) -> Path:
    """The folder inside, when an archive holds nothing but one folder around everything."""
    entries = [entry for entry in folder.iterdir() if entry.name not in ("__MACOSX", ".DS_Store")]
    only = entries[0] if len(entries) == 1 and entries[0].is_dir() else None
    return only if only is not None and only.name.lower() not in _MEANINGFUL else folder


_MEANINGFUL = {"train", "val", "valid", "validation", "test", "images", "labels", "annotations", "obj_train_data"}
"""Names of folders that formats look for: they belong to the data."""


def remove_tree(path: Path) -> None:
    """A folder that may not be there."""
    shutil.rmtree(path, ignore_errors=True)
