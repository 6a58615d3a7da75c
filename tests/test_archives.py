"""Archives: unpacked, looked through, or refused with nothing written."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from detloom.archives import ArchiveRefusedError, archive_stem, is_archive, unwrapped
from detloom.data.codes import CODES
from detloom.errors import DataError
from detloom.transfer import (
    ArchiveLimits,
    extract,
)


def zipped(path: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def tarred(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_archives_are_unpacked(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    files = {"train/é.txt": b"one" * 1000, "b.txt": b"", "./c/d.txt": b"three"}
    if suffix == "zip":
        zipped(path, *files.items())
    else:
        mode = "w" if suffix == "tar" else f"w:{suffix[4:]}"
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            for name, content in files.items():
                info = member(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    written = extract(path, tmp_path / "out")
    assert {str(file.relative_to(tmp_path / "out")): file.read_bytes() for file in written} == {
        name.removeprefix("./"): content for name, content in files.items()
    }


def test_a_tar_file_with_a_zip_file_in_it_is_a_tar_file(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", ("x", b"1")).read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = member("inner.zip")
        info.size = len(inner)
        archive.addfile(info, io.BytesIO(inner))
    assert [path.name for path in extract(tmp_path / "a.tar", tmp_path / "out")] == ["inner.zip"]


def evil_zip(path: Path, name: str, mode: int = 0, content: bytes = b"x") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.txt", b"good")
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, content)
    return path


Make = Callable[[Path], Path]
HOSTILE: dict[str, tuple[Make, str, str]] = {
    "climbing zip": (lambda d: evil_zip(d / "a.zip", "../evil"), "climbs", "escape"),
    "absolute zip": (lambda d: evil_zip(d / "a.zip", "/tmp/evil"), "absolute", "escape"),
    "drive": (lambda d: evil_zip(d / "a.zip", "C:\\evil"), "drive", "escape"),
    "backslashes": (lambda d: evil_zip(d / "a.zip", "a\\..\\..\\evil"), "climbs", "escape"),
    "link in zip": (lambda d: evil_zip(d / "a.zip", "l", stat.S_IFLNK | 0o777, b"/etc/passwd"), "a link", "link"),
    "pipe in zip": (lambda d: evil_zip(d / "a.zip", "p", stat.S_IFIFO | 0o600), "device or pipe", "link"),
    "case clash": (lambda d: zipped(d / "a.zip", ("a/B", b"1"), ("A/b", b"2")), "clash", "clash"),
    "bomb": (lambda d: zipped(d / "a.zip", ("zeros", b"\0" * (20 << 20))), "bomb", "bomb"),
    "climbing tar": (
        lambda d: tarred(d / "a.tar", (member("good"), b"1"), (member("../evil"), b"x")),
        "climbs",
        "escape",
    ),
    "link in tar": (lambda d: tarred(d / "a.tar", (member("l", tarfile.SYMTYPE, "/etc"), b"")), "a link", "link"),
    "hard link": (lambda d: tarred(d / "a.tar", (member("l", tarfile.LNKTYPE, "../x"), b"")), "a link", "link"),
    "device": (lambda d: tarred(d / "a.tar", (member("d", tarfile.CHRTYPE), b"")), "device", "link"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives_are_refused_and_nothing_is_written(kind: str, tmp_path: Path) -> None:
    make, why, code = HOSTILE[kind]
    with pytest.raises(ArchiveRefusedError, match=why) as raised:
        extract(make(tmp_path), tmp_path / "out" / "deep", name="bucket/a.zip")
    assert "bucket/a.zip" in raised.value.message and raised.value.where.startswith("bucket/a.zip (")
    assert raised.value.code == f"archive-{code}" and raised.value.code in CODES
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_an_archive_past_the_limits_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", *((f"{n}.txt", b"12345") for n in range(10)))
    for limits, why in ((ArchiveLimits(members=9), "9 members"), (ArchiveLimits(bytes=49), "49 bytes")):
        with pytest.raises(DataError, match=why):
            extract(path, tmp_path / "out", limits=limits)
    assert len(extract(path, tmp_path / "out", limits=ArchiveLimits(members=10, bytes=50))) == 10


def test_a_member_that_is_larger_than_it_says_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("a.txt", b"x" * 5000))
    content = path.read_bytes()
    lying = content.replace((5000).to_bytes(4, "little"), (50).to_bytes(4, "little"))
    assert lying != content
    path.write_bytes(lying)
    with pytest.raises(ArchiveRefusedError, match=r"^archive-(bomb|damaged): "):
        extract(path, tmp_path / "out")
    assert sum(file.stat().st_size for file in (tmp_path / "out").rglob("*")) <= 50


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_a_damaged_archive_is_a_clear_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    content = os.urandom(50_000)
    if suffix == "zip":
        zipped(path, ("a", content))
    else:
        tarred(path, (member("a"), content))
    whole = path.read_bytes()
    spoiled = bytearray(whole)
    spoiled[20_000:20_010] = b"0123456789"
    for damaged in (whole[:30_000], bytes(spoiled), b"no archive at all", b""):
        path.write_bytes(damaged)
        with pytest.raises(ArchiveRefusedError, match=f"^archive-damaged: .*a.{suffix}"):
            extract(path, tmp_path / "out")


def test_an_encrypted_archive_is_a_clear_error(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("a", b"secret"))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="encrypted"):
        extract(path, tmp_path / "out")


def test_names_of_archives() -> None:
    assert is_archive("a/B.ZIP") and is_archive("a.tar.gz") and not is_archive("a.gz") and not is_archive("zip")
    assert [archive_stem(name) for name in ("a/b.tar.gz", "b.ZIP", "c.txt")] == ["a/b", "b", "c.txt"]


def test_one_folder_around_everything_is_looked_through_unless_it_means_something(tmp_path: Path) -> None:
    (tmp_path / "a" / "export").mkdir(parents=True)
    (tmp_path / "b" / "train").mkdir(parents=True)
    assert unwrapped(tmp_path / "a") == tmp_path / "a" / "export"
    assert unwrapped(tmp_path / "b") == tmp_path / "b"
    (tmp_path / "a" / "second").mkdir()
    assert unwrapped(tmp_path / "a") == tmp_path / "a"
