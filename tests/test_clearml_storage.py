"""The server's front and the storage of ClearML: what is said of each failure, and files there and back."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from delivery_tools import Bench, bench
from detloom.errors import UnreachableError
from detloom_integrations.clearml.server import Server, ServerRefusedError
from detloom_integrations.clearml.storage import Storage, StorageError, fetch, plain_key

__all__ = ["bench"]


# ---- the server's front -----------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_said_at_once_with_its_address(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEARML_API_HOST", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9.*refused") as caught:
        Server.open()
    assert caught.value.exit_code == 5
    assert "offline" in caught.value.hint


def test_a_server_that_does_not_answer_is_given_up_after_the_timeout(bench: Bench) -> None:
    bench.double.fault("debug.ping", hang=30.0)
    start = time.monotonic()
    with pytest.raises(UnreachableError, match="no answer in 1 s"):
        Server.open(timeout=1.0)
    assert time.monotonic() - start < 6.0


def test_wrong_credentials_are_said_with_the_way_to_new_ones(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARML_API_SECRET_KEY", "wrong")
    with pytest.raises(ServerRefusedError, match=r"auth\.login") as caught:
        Server.open()
    assert "Create new credentials" in caught.value.hint


def test_a_refusal_keeps_the_servers_own_words(bench: Bench) -> None:
    with pytest.raises(ServerRefusedError, match="Invalid task id") as caught:
        bench.server.call("tasks.get_by_id", task="nothing")
    assert (caught.value.action, caught.value.code) == ("tasks.get_by_id", 400)


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_fault_of_the_server_is_no_refusal(bench: Bench, status: int) -> None:
    bench.double.fault("users.get_current_user", status=status, times=1)
    with pytest.raises(UnreachableError, match=str(status)):
        bench.server.call("users.get_current_user")
    assert bench.server.call("users.get_current_user")["user"]


def test_something_else_that_answers_is_not_taken_for_clearml(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARML_API_HOST", bench.double.files_url)
    with pytest.raises(UnreachableError, match=bench.double.files_url):
        Server.open()


# ---- storage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["files", "folder"])
def test_a_file_comes_back_as_it_was_stored(bench: Bench, tmp_path: Path, place: str) -> None:
    base = bench.double.files_url if place == "files" else str(tmp_path / "bucket")
    content = os.urandom(300_000)
    url = Storage(bench.server, base).put(bench.file("weights.bin", content), "my project/weights.bin")
    dest = tmp_path / "back" / "weights.bin"
    assert fetch(bench.server, url, dest).read_bytes() == content
    assert [path.name for path in dest.parent.iterdir()] == ["weights.bin"]


def test_a_file_that_is_not_there_leaves_nothing_behind(bench: Bench, tmp_path: Path) -> None:
    dest = tmp_path / "back" / "weights.bin"
    with pytest.raises(StorageError, match="404"):
        fetch(bench.server, f"{bench.double.files_url}/nothing.bin", dest)
    with pytest.raises(StorageError, match="refused"):
        fetch(bench.server, "http://127.0.0.1:9/nothing.bin", dest)
    with pytest.raises(StorageError, match=r"nothing\.bin"):
        fetch(bench.server, str(tmp_path / "nothing.bin"), dest)
    assert not dest.exists()


def test_the_token_goes_to_the_configured_file_server_only(bench: Bench) -> None:
    assert Storage(bench.server, f"{bench.double.files_url}/x")._authorization()
    assert not Storage(bench.server, f"{bench.double.files_url}0")._authorization()
    assert not Storage(bench.server, "http://elsewhere.test")._authorization()


def test_names_that_a_storage_may_not_read_alike_are_replaced_and_stay_different() -> None:
    assert plain_key("my project/run.12ab/models/best.pt") == "my project/run.12ab/models/best.pt"
    keys = [plain_key(f"a/{name}.pt") for name in ("\u00e4", "\u00f6", "#", "%23", "..", '"')]
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and key.startswith("a/") and ".." not in key.split("/") for key in keys)
    assert plain_key("a/../b") != "a/../b"


def test_a_file_that_arrived_in_part_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(bench.server, bench.double.files_url)
    path = bench.file("whole.bin", b"0123456789")
    url = storage.put(path, "some/whole.bin")
    bench.double.file(url).write_bytes(b"01234")
    monkeypatch.setattr(storage, "_post", lambda file, key: None)
    with pytest.raises(StorageError, match="holds 5 bytes instead of the 10"):
        storage.put(path, "some/whole.bin")
