"""Downloading and reading pretrained weights."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from detloom.errors import DetloomError, PluginError, UnreachableError, WeightsError
from detloom.host import discover
from detloom.specs import ModelSpec, WeightsFile
from detloom.train.assemble import find_weights
from detloom.weights import Patience, cache_dir, fetch_weights, read_weights

SHORT = Patience(connect_s=2.0, read_s=0.3, total_s=5.0)


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


WEIGHTS = saved({"a.weight": torch.arange(6.0).reshape(2, 3)})


class _Server(ThreadingHTTPServer):
    hits = 0


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        self.server.hits += 1
        page = b"<!DOCTYPE html><html>Please log in</html>"
        body = {"/page.pth": page, "/junk.pth": b"no weights at all"}.get(self.path, WEIGHTS)
        if self.path == "/gone.pth":
            self.send_error(404, "Not Found")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (10 if self.path == "/short.pth" else 0)))
        self.end_headers()
        if self.path == "/stuck.pth":
            self.wfile.write(body[:50])
            self.wfile.flush()
            time.sleep(1.0)
            return
        if self.path == "/slow.pth":
            with suppress(ConnectionError):  # the client gives up
                for start in range(0, len(body), 64):
                    self.wfile.write(body[start : start + 64])
                    time.sleep(0.1)
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def serving() -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[_Server]:
    with serving() as running:
        yield running


def file_at(server: _Server, name: str, sha256: str = "") -> WeightsFile:
    address = f"http://127.0.0.1:{server.server_address[1]}/{name}"
    return WeightsFile(name=name, url=address, licence="MIT", class_names=(), sha256=sha256)


def kept_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_downloaded_once_and_then_taken_from_the_cache(server: _Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    before = server.hits
    file = file_at(server, "nano.pth", hashlib.sha256(WEIGHTS).hexdigest())
    path = fetch_weights(file, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == WEIGHTS and seen[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert fetch_weights(file, tmp_path) == path
    assert server.hits == before + 1


def test_the_licence_is_read_before_a_byte_is_asked_for(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path))
    file, before, hits = file_at(server, "shown.pth"), server.hits, []
    fetch_weights(file, tmp_path / "other", announce=lambda: hits.append(server.hits))
    assert hits == [before] and server.hits == before + 1
    spec = dataclasses.replace(discover().get(ModelSpec, "yolox-nano"), weights=(file,))
    for official in ("official", "shown"):
        assert find_weights(official, spec)[0] is not None
    assert capsys.readouterr().out == f"weights  {file.url}, licence MIT\n", "once, for the one download"


def test_a_damaged_cache_entry_is_fetched_again_even_without_a_published_hash(server: _Server, tmp_path: Path) -> None:
    file = file_at(server, "nano.pth")
    path = fetch_weights(file, tmp_path)
    path.write_bytes(WEIGHTS[:-7])
    assert fetch_weights(file, tmp_path).read_bytes() == WEIGHTS
    assert kept_files(tmp_path) == ["nano.pth", "nano.pth.sha256"]


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
        ("stuck.pth", UnreachableError, "broke off after 50 bytes: no answer in time"),
        ("page.pth", WeightsError, "a web page instead of weights"),
        ("junk.pth", WeightsError, "neither a PyTorch nor"),
    ],
)
def test_a_failed_download_says_why_and_keeps_nothing(
    server: _Server, tmp_path: Path, name: str, kind: type[DetloomError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        fetch_weights(file_at(server, name), tmp_path, patience=SHORT)
    assert caught.value.hint
    assert kept_files(tmp_path) == []


def test_a_download_that_takes_too_long_is_given_up(server: _Server, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"not finished within 0\.3 s"):
        fetch_weights(file_at(server, "slow.pth"), tmp_path, patience=Patience(total_s=0.3))


def test_an_unreachable_server_names_the_remedy_and_exits_with_5(tmp_path: Path) -> None:
    file = WeightsFile(name="nano.pth", url="https://nowhere.invalid/nano.pth", licence="MIT", class_names=())
    with pytest.raises(UnreachableError, match=r"cannot be downloaded from https://nowhere\.invalid") as caught:
        fetch_weights(file, tmp_path, patience=SHORT)
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


def test_the_cache_stands_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("DETLOOM_CACHE", raising=False)
    assert cache_dir() == tmp_path / "xdg" / "detloom"
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"


TENSOR = torch.arange(3.0)


@pytest.mark.parametrize(
    "content",
    [
        {"w": TENSOR},
        {"model": {"w": TENSOR}, "epoch": 3},
        {"ema": {"module": {"w": TENSOR}}, "model": {"w": TENSOR + 1}},
        {"state_dict": {"module.w": TENSOR}},
    ],
)
def test_checkpoints_are_unwrapped(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(saved(content))
    found = read_weights(path)
    assert list(found) == ["w"] and torch.equal(found["w"], TENSOR)


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


@pytest.mark.parametrize("name", ["model.safetensors", "renamed.pth"])
def test_safetensors_files_are_read_whatever_they_are_called(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(safetensors())
    found = read_weights(path)
    assert list(found) == ["w"] and torch.equal(found["w"], torch.zeros(1))


def test_without_safetensors_the_package_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors())
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(PluginError, match=r"safetensors file.*\n.*detloom\[detr\]"):
        read_weights(path)


class Anything:
    pass


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.pth", WEIGHTS[: len(WEIGHTS) // 2], "damaged, cut off"),
        ("cut.pt", saved(TENSOR)[:40], "damaged, cut off"),
        ("old.pth", b"\x80\x02garbage", "damaged, cut off"),
        ("empty.pth", b"", "is empty"),
        ("photo.pth", b"\xff\xd8\xff\xe0 JFIF", "neither a PyTorch nor a safetensors file"),
        ("page.pth", b"\n<html><body>404</body>", "web page"),
        ("pointer.pth", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("cut.safetensors", safetensors()[:-2], "damaged, cut off"),
        ("renamed.pth", safetensors()[:40], "damaged, cut off"),
        ("page.safetensors", b"<html>", "web page"),
        ("model.onnx", b"\x08\x07\x12\x07pytorch", "ONNX graph"),
        ("list.pth", saved([TENSOR]), "a value of type list, not named tensors"),
        ("one.pth", saved(TENSOR), r"one tensor of shape \[3\]"),
        ("none.pth", saved({}), "holds nothing"),
        ("mixed.pth", saved({"w": TENSOR, "step": 4}), "`step` in it is a value of type int"),
        ("code.pth", saved({"w": Anything()}), "Python objects besides tensors"),
    ],
)
def test_anything_but_weights_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_weights(path)
    assert name in caught.value.message and caught.value.hint


def test_a_scripted_model_is_no_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "scripted.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(path))
    with pytest.raises(WeightsError, match="TorchScript"):
        read_weights(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no weights file"):
        read_weights(tmp_path / "nothing.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        read_weights(tmp_path)
