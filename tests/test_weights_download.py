"""Downloading published weights, from a server that can do wrong in every way that servers do."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch

from detloom import weights_download
from detloom.errors import DetloomError, UnreachableError, WeightsError
from detloom.files import cache_dir
from detloom.host import discover
from detloom.specs import ModelSpec, WeightsFile
from detloom.train.assemble import find_weights, weights_facts
from detloom.transfer import Patience
from detloom.weights_download import HUB, Arrival, Limits, arrival_of, fetch_weights

SHORT = Limits(answer_s=0.3, total_s=5.0)
QUICK = Patience(attempts=3, first_pause_s=0.001, longest_pause_s=0.002)


def _saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a.weight": torch.arange(600.0).reshape(20, 30)}, buffer)
    return buffer.getvalue()


WEIGHTS = _saved()
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
COMMIT = "8f2c0a9e7d6b5c4a3f2e1d0c9b8a7f6e5d4c3b2a"


class _Server(ThreadingHTTPServer):
    """asked: path and Range of each request. cuts: bytes after which each connection breaks off, one after the other.
    told: the hash that the hub tells. etag: of the content."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str]] = []
        self.cuts: list[int] = []
        self.busy = 0
        self.told, self.etag, self.body = DIGEST, '"one"', WEIGHTS

    @property
    def hits(self) -> int:
        return len(self.asked)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path, ranged = urlsplit(self.path).path, self.headers.get("Range", "")
        self.server.asked.append((path, ranged))
        if path == "/gone.pth":
            self.send_error(404, "Not Found")
        elif self.server.busy:
            self.server.busy -= 1
            self._answer(503, {"Retry-After": "0"})
        elif "/resolve/" in path:
            # As the hub does: what it knows of the file stands beside the way to its bytes.
            told = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{self.server.told}"'}
            self._answer(302, {**told, "Location": "/store/bytes?signature=abc"})
        else:
            self._send_file(path, ranged)

    def _answer(self, status: int, headers: dict[str, str], length: int = 0) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, path: str, ranged: str) -> None:
        page = b"<!DOCTYPE html><html>Please log in</html>"
        body = {"/page.pth": page, "/junk.pth": b"no weights at all"}.get(path, self.server.body)
        headers = {"ETag": self.server.etag} if self.server.etag else {}
        if ranged and self.headers.get("If-Range") == self.server.etag:
            start = int(ranged.removeprefix("bytes=").rstrip("-"))
            part = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            self._answer(206, {**headers, **part}, len(body) - start)
            self._send(path, body[start:])
        else:
            self._answer(200, headers, len(body) + (10 if path == "/short.pth" else 0))
            self._send(path, body)

    def _send(self, path: str, body: bytes) -> None:
        if self.server.cuts and (cut := self.server.cuts.pop(0)) < len(body):
            self.wfile.write(body[:cut])
            self.close_connection = True
        elif path == "/stuck.pth":
            self.wfile.write(body[:50])
            self.wfile.flush()
            self.rfile.read(1)  # until the client hangs up
        elif path == "/slow.pth":
            with suppress(ConnectionError):  # the client gives up
                for start in range(0, len(body), 64):
                    self.wfile.write(body[start : start + 64])
                    time.sleep(0.1)
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def serving() -> Iterator[_Server]:
    server = _Server()
    server.daemon_threads = False  # closing waits for the answers that are still being given
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server() -> Iterator[_Server]:
    with serving() as running:
        yield running


def file_at(server: _Server, name: str, sha256: str = "") -> WeightsFile:
    return WeightsFile(name=name, url=f"{server.address}/{name}", licence="MIT", class_names=(), sha256=sha256)


def on_the_hub(sha256: str = "") -> WeightsFile:
    address = f"{HUB}somebody/some_model/resolve/main/model.safetensors"
    return WeightsFile(name="some.pth", url=address, licence="MIT", class_names=(), sha256=sha256)


def kept_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_downloaded_once_and_then_taken_from_the_cache(server: _Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    file = file_at(server, "nano.pth", DIGEST)
    path = fetch_weights(file, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == WEIGHTS and seen[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert fetch_weights(file, tmp_path) == path
    assert server.asked == [("/nano.pth", "")]


def test_the_licence_is_read_before_a_byte_is_asked_for(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path))
    file, hits = file_at(server, "shown.pth"), []
    fetch_weights(file, tmp_path / "other", announce=lambda: hits.append(server.hits))
    assert hits == [0] and server.hits == 1
    spec = dataclasses.replace(discover().get(ModelSpec, "yolox-nano"), weights=(file,))
    for official in ("official", "shown"):
        assert find_weights(official, spec)[0] is not None
    assert capsys.readouterr().out == f"weights  {file.url}, licence MIT\n", "once, for the one download"


# ---- cuts ---------------------------------------------------------------------------------------------------------


def test_a_cut_download_goes_on_where_it_was_cut(server: _Server, tmp_path: Path) -> None:
    server.cuts = [1000, 700]
    assert fetch_weights(file_at(server, "nano.pth"), tmp_path, patience=QUICK).read_bytes() == WEIGHTS
    assert [ranged for _, ranged in server.asked] == ["", "bytes=1000-", "bytes=1700-"]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_a_server_that_cannot_say_that_nothing_changed_is_asked_for_everything_again(
    server: _Server, tmp_path: Path, etag: str
) -> None:
    server.cuts, server.etag = [1000], etag
    assert fetch_weights(file_at(server, "nano.pth"), tmp_path, patience=QUICK).read_bytes() == WEIGHTS
    assert [ranged for _, ranged in server.asked] == ["", ""]


def test_a_file_that_changed_during_a_cut_begins_anew(server: _Server, tmp_path: Path) -> None:
    other = WEIGHTS.replace(b"a.weight", b"b.weight")
    assert len(other) == len(WEIGHTS) and other != WEIGHTS

    def change(done: int, total: int) -> None:
        if done >= 1000:
            server.etag, server.body = '"two"', other

    server.cuts = [1000]
    assert fetch_weights(file_at(server, "nano.pth"), tmp_path, progress=change, patience=QUICK).read_bytes() == other


def test_a_busy_server_is_asked_again(server: _Server, tmp_path: Path) -> None:
    server.busy = 2
    assert fetch_weights(file_at(server, "nano.pth"), tmp_path, patience=QUICK).read_bytes() == WEIGHTS
    server.busy = 9
    with pytest.raises(UnreachableError, match="the server answered 503"):
        fetch_weights(file_at(server, "other.pth"), tmp_path, patience=QUICK)


# ---- the hub ------------------------------------------------------------------------------------------------------


def test_what_the_hub_says_of_a_file_is_checked_and_kept(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address + "/")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    server.cuts = [1000]
    path = fetch_weights(on_the_hub(), tmp_path, patience=QUICK)
    assert path.read_bytes() == WEIGHTS and arrival_of(path) == Arrival(DIGEST, COMMIT)
    assert [where for where, _ in server.asked] == [
        "/somebody/some_model/resolve/main/model.safetensors",
        "/store/bytes",
    ] * 2
    server.told = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(WeightsError, match=f"SHA-256 {DIGEST}, but {server.told} was expected"):
        fetch_weights(on_the_hub(), tmp_path / "second")
    assert kept_files(tmp_path / "second") == []
    assert fetch_weights(on_the_hub(DIGEST), tmp_path / "third").is_file(), "a hash of our own stands above the hub's"


def test_the_revision_and_the_hash_stand_with_the_weights_of_a_run(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path))
    spec = dataclasses.replace(discover().get(ModelSpec, "yolox-nano"), weights=(on_the_hub(),))
    path, file, _ = find_weights("official", spec)
    assert path is not None and file is not None
    assert weights_facts(path, file) == [
        f"  SHA-256 of the file: {DIGEST}", f"  revision: {COMMIT}", "  licence of the weights: MIT"
    ]  # fmt: skip


def test_the_hub_is_left_alone_when_it_may_not_be_asked(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnreachableError, match="HF_HUB_OFFLINE forbids") as caught:
        fetch_weights(on_the_hub(), tmp_path)
    assert server.hits == 0 and "--weights FILE" in caught.value.hint


def test_the_library_of_models_is_kept_from_the_hub_and_we_are_not() -> None:
    """In a process of its own: the library reads the variable when it is imported."""
    code = (
        "import os\n"
        "from detloom_plugins.models._detr.library import transformers\n"
        "transformers('some family')\n"
        "from huggingface_hub.constants import is_offline_mode\n"
        "print(is_offline_mode(), os.environ.get('HF_HUB_OFFLINE'))\n"
    )
    clean = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "None"]


def test_an_encrypted_address_does_not_send_on_to_one_that_is_not() -> None:
    redirects = weights_download._Redirects()
    request = urllib.request.Request("https://127.0.0.1/a.pth")
    with pytest.raises(OSError, match="not encrypted"):
        redirects.redirect_request(request, io.BytesIO(), 302, "Found", HTTPMessage(), "http://127.0.0.1/a.pth")


# ---- the cache ----------------------------------------------------------------------------------------------------


def test_a_damaged_cache_entry_is_fetched_again_even_without_a_published_hash(server: _Server, tmp_path: Path) -> None:
    file = file_at(server, "nano.pth")
    path = fetch_weights(file, tmp_path)
    path.write_bytes(WEIGHTS[:-7])
    assert fetch_weights(file, tmp_path).read_bytes() == WEIGHTS
    assert kept_files(tmp_path) == ["nano.pth", "nano.pth.arrival.json"]


def test_a_file_put_into_the_cache_by_hand_is_used(tmp_path: Path) -> None:
    file = WeightsFile(name="nano.pth", url="http://127.0.0.1:9/nano.pth", licence="MIT", class_names=())
    with pytest.raises(UnreachableError) as caught:
        fetch_weights(file, tmp_path)
    named = Path(caught.value.hint.split("put it at ")[1].split(";")[0])
    named.parent.mkdir(parents=True, exist_ok=True)
    named.write_bytes(WEIGHTS)
    assert fetch_weights(file, tmp_path) == named


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("gone.pth", UnreachableError, "the server answered 404"),
        ("short.pth", UnreachableError, r"broke off after \d+ of \d+ bytes"),
        ("stuck.pth", UnreachableError, r"broke off after 50 of \d+ bytes: no answer in time"),
        ("page.pth", WeightsError, "a web page instead of weights"),
        ("junk.pth", WeightsError, "neither a PyTorch nor"),
    ],
)
def test_a_failed_download_says_why_and_keeps_nothing(
    server: _Server, tmp_path: Path, name: str, kind: type[DetloomError], message: str
) -> None:
    server.etag = ""
    with pytest.raises(kind, match=message) as caught:
        fetch_weights(file_at(server, name), tmp_path, limits=SHORT, patience=QUICK)
    assert caught.value.hint
    assert kept_files(tmp_path) == []


def test_a_download_that_takes_too_long_is_given_up(server: _Server, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"not finished within 0\.3 s"):
        fetch_weights(file_at(server, "slow.pth"), tmp_path, limits=Limits(total_s=0.3))


def test_a_connection_that_nobody_comes_to_read_is_closed(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time was up between the answer and its first byte."""
    asked: list[Any] = []
    real = weights_download._Remote.ask

    def late(remote: Any) -> None:
        real(remote)
        asked.append(remote._first)
        time.sleep(0.25)

    monkeypatch.setattr(weights_download._Remote, "ask", late)
    with pytest.raises(UnreachableError, match=r"not finished within 0\.2 s"):
        fetch_weights(file_at(server, "nano.pth"), tmp_path, limits=Limits(total_s=0.2))
    assert asked[0].isclosed()


def test_an_unreachable_server_names_the_remedy_and_exits_with_5(tmp_path: Path) -> None:
    file = WeightsFile(name="nano.pth", url="https://nowhere.invalid/nano.pth", licence="MIT", class_names=())
    with pytest.raises(UnreachableError, match=r"cannot be downloaded from https://nowhere\.invalid") as caught:
        fetch_weights(file, tmp_path, limits=SHORT)
    assert caught.value.exit_code == 5 and "--weights FILE" in caught.value.hint


def test_another_hash_than_published_is_refused(server: _Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"SHA-256 .* but {'0' * 64} was expected"):
        fetch_weights(file_at(server, "nano.pth", "0" * 64), tmp_path)
    assert kept_files(tmp_path) == []


def test_a_name_that_leaves_the_cache_is_refused(tmp_path: Path) -> None:
    for name in ("../evil.pth", "/etc/evil.pth", "..", ""):
        with pytest.raises(WeightsError, match="plain file name"):
            fetch_weights(WeightsFile(name=name, url="http://x/", licence="", class_names=()), tmp_path)


def test_only_web_addresses_are_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(WEIGHTS)
    file = WeightsFile(name="a.pth", url=f"file://{tmp_path}/secret", licence="", class_names=())
    with pytest.raises(WeightsError, match=r"not an http\(s\) address"):
        fetch_weights(file, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_one_sentence(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file where the folder should be")
    with pytest.raises(DetloomError, match="cannot write"):
        fetch_weights(file_at(server, "nano.pth"), tmp_path)


def test_a_full_disk_is_no_fault_of_the_server(server: _Server, tmp_path: Path) -> None:
    def full(done: int, total: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DetloomError, match=r"cannot write .*nano\.pth: No space left") as caught:
        fetch_weights(file_at(server, "nano.pth"), tmp_path, progress=full, patience=QUICK)
    assert not isinstance(caught.value, UnreachableError) and server.hits == 1
    assert kept_files(tmp_path) == []


def test_the_cache_stands_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("DETLOOM_CACHE", raising=False)
    assert cache_dir() == tmp_path / "xdg" / "detloom"
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
