"""Archives on this machine: read like the folder that they hold, and refused with a code when they are hostile."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import format_tools as tools
from data_tools import load, look
from detloom.archives import ArchiveRefusedError
from detloom.data.codes import NEVER_ALLOWED


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(("kind", "suffix"), [("zip", ".zip"), ("gztar", ".tar.gz")])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_archive_is_read_like_its_folder(tmp_path: Path, kind: str, suffix: str, wrapped: bool) -> None:
    tools.yolo_ultralytics(tmp_path / "pets")
    shutil.make_archive(str(tmp_path / "set"), kind, tmp_path, "pets" if wrapped else None, None) if wrapped else (
        shutil.make_archive(str(tmp_path / "set"), kind, tmp_path / "pets")
    )
    dataset = load(tmp_path / f"set{suffix}")
    assert dataset.name == "set"
    assert dataset.digest == load(tmp_path / "pets").digest
    assert dataset.source == str(tmp_path / f"set{suffix}") and len(dataset.revision) == 16
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "sources").rglob("*.png")}
    assert load(tmp_path / f"set{suffix}").digest == dataset.digest
    assert before and {path: path.stat().st_mtime_ns for path in before} == before, "it was unpacked once"


def test_a_new_archive_of_the_same_name_is_unpacked_anew(tmp_path: Path) -> None:
    tools.coco_roboflow(tmp_path / "pets")
    shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "pets")
    first = load(tmp_path / "set.zip")
    (tmp_path / "pets" / "train" / "p1.png").unlink()
    shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "pets")
    os.utime(tmp_path / "set.zip", ns=(1, 1))
    again = look(tmp_path / "set.zip")
    assert "missing-image" in {finding.code for finding in again.refused}
    assert again.dataset is not None and again.dataset.revision != first.revision


def packed(path: Path, name: str, content: bytes = b"x", mode: int = 0) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.txt", b"good")
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = mode << 16
        archive.writestr(info, content)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "climbing": (lambda path: packed(path, "../../evil.txt"), "archive-escape"),
    "absolute": (lambda path: packed(path, "/tmp/evil.txt"), "archive-escape"),
    "a link": (lambda path: packed(path, "l", b"/etc/passwd", stat.S_IFLNK | 0o777), "archive-link"),
    "a bomb": (lambda path: packed(path, "zeros", bytes(20 << 20)), "archive-bomb"),
    "names that clash": (lambda path: packed(path, "GOOD.txt"), "archive-clash"),
    "no archive": (lambda path: path.write_bytes(b"PK no archive at all"), "archive-damaged"),
    "an empty file": (lambda path: path.write_bytes(b""), "archive-damaged"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_a_finding_of_the_check_and_stops_a_training(tmp_path: Path, kind: str) -> None:
    make, code = HOSTILE[kind]
    make(tmp_path / "set.zip")
    report = look(tmp_path / "set.zip")
    (finding,) = report.findings
    assert (finding.code, finding.severity) == (code, "error") and finding.where.startswith("set.zip (")
    assert report.refused == [finding] and report.dataset is None and code in NEVER_ALLOWED
    assert look(tmp_path / "set.zip", allow=[code], policy="lenient").refused, "nothing can be allowed of it"
    with pytest.raises(ArchiveRefusedError, match=code):
        load(tmp_path / "set.zip")
    assert not list(tmp_path.rglob("evil*")) and not list(tmp_path.rglob("good.txt"))


def test_the_command_says_the_code_and_ends_with_3(tmp_path: Path, cli: Callable[..., Any]) -> None:
    packed(tmp_path / "set.zip", "../../evil.txt")
    done = cli("check", tmp_path / "set.zip", "--json")
    assert done.returncode == 3, done.stderr
    answer = json.loads(done.stdout)
    assert answer["refused"] == ["archive-escape"] and "climbs out" in answer["findings"][0]["where"]
    done = cli("check", tmp_path / "set.zip")
    assert done.returncode == 3 and "refused: archive-escape" in done.stdout and "--allow" not in done.stdout
    done = cli("train", tmp_path / "set.zip", "--no-clearml")
    assert done.returncode == 3 and "archive-escape" in done.stderr


def test_a_tar_with_a_device_is_refused_too(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        info = tarfile.TarInfo("d")
        info.type = tarfile.CHRTYPE
        archive.addfile(info)
    assert [finding.code for finding in look(tmp_path / "set.tar").findings] == ["archive-link"]
