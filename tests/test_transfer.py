"""What sources share: deadlines, retries, downloads that go on, folders that appear whole, secrets."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from detloom.errors import DataError, DetloomError, RunInterrupted
from detloom.transfer import (
    Deadline,
    Meter,
    Patience,
    TimedOutError,
    cached_folder,
    demand_space,
    download,
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
        "s3://AKIA0000000000000000:s3cr/x@host/bucket",
        "found {'region': 'x', 'secret_key': '0123abcd', 'z': 1}",
        "found '[{type: s3, secret_key: 0123abcd}'",
        "hf_0123abcd0123abcd0123abcd is no number",
        "-----BEGIN RSA PRIVATE KEY-----\\n0123abcd\\n-----END RSA PRIVATE KEY-----",
        "https://host/x?sig=0123abcd&a=1",
    ],
)
def test_no_secret_stays_in_a_message(text: str) -> None:
    shown = redacted(text, ["s3cr+t/x"])
    assert not any(trace in shown for trace in ("s3cr", "czNjcit0L3", "0123abcd", "user:"))
    assert "***" in shown


def test_what_is_no_secret_stays() -> None:
    text = "https://host:9000/bucket/a@b?x=1 refused: NoSuchKey (tasks 1, 2); {'secret_key_env': 'MINIO_SECRET_KEY'}"
    text += '; ["http://host:9000","a@b"], git@host:group/name.git, ssh://host:22 as a@b'
    assert redacted(text, ["unrelated", ""]) == text
