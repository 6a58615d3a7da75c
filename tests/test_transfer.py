"""What sources share: deadlines, retries, downloads that go on, folders that appear whole, archives, secrets."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from detloom.archives import ArchiveRefusedError, archive_stem, is_archive, unwrapped
from detloom.data.codes import CODES
from detloom.errors import DataError, DetloomError, RunInterrupted
from detloom.safe_names import NameBook, UnsafeNameError, safe_name
from detloom.transfer import (
    ArchiveLimits,
    Deadline,
    Meter,
    Patience,
    TimedOutError,
    cached_folder,
    demand_space,
    download,
    extract,
    locked,
    redacted,
    retried,
    secret,
)

QUICK = Patience(attempts=4, first_pause_s=0.001, longest_pause_s=0.002)
CONTENT = bytes(range(256)) * 40


def always(error: Exception) -> bool:
    return isinstance(error, ConnectionError)


# ---- time ---------------------------------------------------------------------------------------------------------


def test_a_call_is_repeated_while_its_fault_is_transient() -> None:
    faults: list[Exception] = [ConnectionError("a"), ConnectionError("b")]

    def call() -> str:
        if faults:
            raise faults.pop()
        return "done"

    assert retried(call, deadline=Deadline(5), is_transient=always, patience=QUICK) == "done"


@pytest.mark.parametrize(("fault", "calls"), [(ConnectionError("x"), 4), (KeyError("x"), 1), (DataError("x"), 1)])
def test_patience_ends_with_the_fault_itself(fault: Exception, calls: int) -> None:
    seen = []

    def call() -> None:
        seen.append(1)
        raise fault

    with pytest.raises(type(fault)) as raised:
        retried(call, deadline=Deadline(5), is_transient=always, patience=QUICK)
    assert raised.value is fault
    assert len(seen) == calls


def test_the_pause_that_a_server_asks_for_is_kept() -> None:
    moments: list[float] = []

    def call() -> None:
        moments.append(time.monotonic())
        if len(moments) == 1:
            raise ConnectionError

    retried(call, deadline=Deadline(5), is_transient=always, patience=QUICK, asked_pause=lambda error: 0.3)
    assert moments[1] - moments[0] >= 0.3


def test_a_deadline_ends_a_pause_and_says_what_to_do() -> None:
    began = time.monotonic()
    with pytest.raises(TimedOutError, match=r"longer than 0.2 s[\s\S]*data.fetch_deadline") as raised:
        Deadline(0.2).pause(60)
    assert time.monotonic() - began < 10
    assert raised.value.exit_code == 5


@pytest.mark.parametrize("how", ["stopped", "cancelled"])
def test_a_fetch_that_is_cancelled_ends_in_every_thread(how: str) -> None:
    flag = threading.Event()
    deadline = Deadline(60, flag.is_set)
    ended: list[type[BaseException]] = []

    def wait() -> None:
        try:
            deadline.pause(60)
        except RunInterrupted as error:
            ended.append(type(error))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    if how == "stopped":
        deadline.stop()
    else:
        flag.set()
    for thread in threads:
        thread.join(20)
    assert ended == [RunInterrupted] * 3


# ---- downloads ----------------------------------------------------------------------------------------------------


class Line:
    """Serves CONTENT in pieces and breaks off after the given numbers of bytes, one for each connection."""

    def __init__(self, *breaks: int, resumes: bool = True, extra: bytes = b"") -> None:
        self.breaks, self.resumes, self.extra = list(breaks), resumes, extra
        self.asked: list[int] = []
        self.bytes = 0

    @contextlib.contextmanager
    def open(self, offset: int) -> Iterator[tuple[int, Iterable[bytes]]]:
        self.asked.append(offset)
        start = offset if self.resumes else 0
        yield start, self._chunks(start)

    def _chunks(self, start: int) -> Iterator[bytes]:
        left = self.breaks.pop(0) if self.breaks else None
        content = CONTENT[start:] + self.extra
        for position in range(0, len(content), 100):
            piece = content[position : position + 100]
            if left is not None and left < len(piece):
                self.bytes += left
                yield piece[:left]
                raise ConnectionResetError("cut")
            left = None if left is None else left - len(piece)
            self.bytes += len(piece)
            yield piece


def get(line: Line, part: Path, size: int | None = len(CONTENT), meter: Meter | None = None) -> bytes:
    download(part, line.open, size, deadline=Deadline(20), is_transient=always, patience=QUICK, meter=meter)
    return part.read_bytes()


def test_a_download_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    line, reports = Line(1000, 2345, 17), list[tuple[int, int]]()
    meter = Meter(len(CONTENT), lambda done, total: reports.append((done, total)))
    assert get(line, tmp_path / "part", meter=meter) == CONTENT
    assert line.asked == [0, 1000, 3345, 3362]
    assert line.bytes == len(CONTENT)
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


def test_a_download_of_another_process_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(CONTENT[:5000])
    line = Line()
    assert get(line, tmp_path / "part") == CONTENT
    assert line.asked == [5000]


def test_a_server_that_begins_again_is_followed(tmp_path: Path) -> None:
    line, meter = Line(1000, 5000, resumes=False), Meter(len(CONTENT))
    assert get(line, tmp_path / "part", meter=meter) == CONTENT
    assert meter.done == len(CONTENT)


def test_cuts_that_bring_nothing_new_use_up_the_patience(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError):
        get(Line(500, *([0] * 20)), tmp_path / "part")
    line = Line(*([500] * 20), resumes=False)
    with pytest.raises(ConnectionResetError):
        get(line, tmp_path / "other")
    assert len(line.asked) == 4


def test_an_answer_that_ends_too_early_without_a_fault_is_a_cut(tmp_path: Path) -> None:
    class Short(Line):
        def _chunks(self, start: int) -> Iterator[bytes]:
            yield CONTENT[start : start + 4000]

    line = Short()
    assert get(line, tmp_path / "part") == CONTENT
    assert line.asked == [0, 4000, 8000]


def test_more_bytes_than_announced_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than the 10,240 bytes"):
        get(Line(extra=b"and more"), tmp_path / "part")


def test_a_part_that_is_too_long_and_an_unknown_size_begin_anew(tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(b"x" * (len(CONTENT) + 1))
    assert get(Line(), part) == CONTENT
    part.write_bytes(b"left over")
    assert get(Line(300), part, size=None) == CONTENT


def test_a_disk_without_space_is_told_before_the_download(tmp_path: Path) -> None:
    demand_space(tmp_path / "not" / "there", 1)
    with pytest.raises(DetloomError, match=r"needs 1000000000.0 GB[\s\S]*DETLOOM_CACHE"):
        demand_space(tmp_path, 10**18)


# ---- folders ------------------------------------------------------------------------------------------------------


def test_a_folder_is_filled_once_and_appears_whole(tmp_path: Path) -> None:
    calls = []

    def fill(folder: Path) -> None:
        calls.append(folder)
        assert not (tmp_path / "c" / "dest").exists()
        (folder / "file").write_text("1")

    for _ in range(2):
        assert (cached_folder(tmp_path / "c" / "dest", fill, deadline=Deadline(5)) / "file").read_text() == "1"
    assert len(calls) == 1


def test_a_folder_that_could_not_be_filled_is_not_there_and_keeps_what_arrived(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "first").write_text("1")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        cached_folder(tmp_path / "dest", half, deadline=Deadline(5))
    assert not (tmp_path / "dest").exists()

    def rest(folder: Path) -> None:
        assert (folder / "first").read_text() == "1"

    cached_folder(tmp_path / "dest", rest, deadline=Deadline(5))
    assert (tmp_path / "dest" / "first").is_file()


def test_a_folder_that_is_not_whole_any_more_is_made_anew(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "file").write_text("new")

    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / "odd").write_text("")
    cached_folder(tmp_path / "dest", fill, deadline=Deadline(5), is_whole=lambda folder: (folder / "file").is_file())
    assert [path.name for path in (tmp_path / "dest").iterdir()] == ["file"]


def test_threads_that_want_one_folder_wait_for_the_first(tmp_path: Path) -> None:
    calls = []

    def fill(folder: Path) -> None:
        calls.append(folder)
        time.sleep(0.3)
        (folder / "file").write_text("1")

    def ask() -> None:
        assert (cached_folder(tmp_path / "dest", fill, deadline=Deadline(20)) / "file").is_file()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(calls) == 1


def test_waiting_for_a_lock_ends_with_the_deadline(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock", Deadline(5)),
        pytest.raises(TimedOutError),
        locked(tmp_path / "lock", Deadline(0.3)),
    ):
        pass
    with locked(tmp_path / "lock", Deadline(5)):
        pass


def test_a_cache_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DetloomError, match=r"cannot write to the cache[\s\S]*DETLOOM_CACHE"):
        cached_folder(tmp_path / "file" / "dest", lambda folder: None, deadline=Deadline(5))


# ---- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../x", "climbs"),
        ("a/../../x", "climbs"),
        ("a\\..\\x", "climbs"),
        ("/etc/passwd", "absolute"),
        ("\\\\host\\share", "absolute"),
        ("C:\\x", "drive"),
        ("c:x", "drive"),
        ("a//b", "empty"),
        ("", "empty"),
        ("./", "empty"),
        ("a\nb", "control"),
        ("a\x00b", "control"),
        ("x" * 256, "longer"),
        ("ü" * 128, "longer"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(name: str, why: str) -> None:
    with pytest.raises(UnsafeNameError, match=why):
        safe_name(name)


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("a/b.jpg", "é ü/日本.png", "a +%&?=.jpg", "..a/b..", "ab:c", ".hidden"):
        assert safe_name(name) == name
    assert safe_name("./a/./b") == "a/b"


@pytest.mark.parametrize(
    ("first", "second"),
    [("a.jpg", "A.jpg"), ("a", "a/b"), ("a/b", "a"), ("A/x", "a/y"), ("\u00e9", "e\u0301"), ("same", "same")],
)
def test_names_that_a_file_system_may_confuse_clash(first: str, second: str) -> None:
    book = NameBook()
    book.add(first)
    with pytest.raises(UnsafeNameError):
        book.add(second)


def test_names_that_differ_do_not_clash() -> None:
    book = NameBook()
    names = ("a/b/c", "a/b/d", "a/c", "b", "ab", "a.b")
    for name in names:
        book.add(name)
    for name in names:
        with pytest.raises(UnsafeNameError, match=f"clashes with '{name}'"):
            book.add(name.upper())


# ---- archives -----------------------------------------------------------------------------------------------------


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


# ---- secrets ------------------------------------------------------------------------------------------------------


def test_secrets_come_from_the_first_variable_that_is_set() -> None:
    environ = {"A": "", "B": " b\n", "C": "c"}
    assert secret(["A", "B", "C"], environ) == "b"
    assert secret(["A", "X"], environ) == ""


@pytest.mark.parametrize(
    "text",
    [
        "the key is s3cr+t/x, is it?",
        "https://host/?key=s3cr%2Bt%2Fx&a=1",
        "Basic czNjcit0L3g=",
        "https://user:s3cr+t@host/x failed",
        "GET /?X-Amz-Signature=0123abcd&x=1",
        "{'Authorization': 'Token 0123abcd', 'Accept': '*'}",
        "authorization: Bearer 0123abcd",
    ],
)
def test_no_secret_stays_in_a_message(text: str) -> None:
    shown = redacted(text, ["s3cr+t/x"])
    assert not any(trace in shown for trace in ("s3cr", "czNjcit0L3", "0123abcd", "user:"))
    assert "***" in shown


def test_what_is_no_secret_stays() -> None:
    text = "https://host:9000/bucket/a@b?x=1 refused: NoSuchKey (tasks 1, 2)"
    assert redacted(text, ["unrelated", ""]) == text
