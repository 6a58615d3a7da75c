"""Data in a bucket, against a real server: listings, what is kept, archives, and what goes wrong."""

from __future__ import annotations

import datetime
import io
import os
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import minio.api
import pytest

from detloom.errors import DataError, DetloomError
from detloom.specs import FetchContext
from detloom.transfer import AccessError, ChangedError, NotThereError
from detloom_integrations.s3.source import S3Source
from s3_tools import (
    EMPTY,
    EMPTY_SECRET,
    MB,
    READER,
    READER_SECRET,
    SECRET,
    CuttingProxy,
    S3Server,
    contents,
    fetch,
    source,
)

pytestmark = pytest.mark.usefixtures("s3_keys")


# ---- listings -----------------------------------------------------------------------------------------------------


def test_a_plan_lists_everything_and_downloads_nothing(
    many: dict[str, bytes], proxy: CuttingProxy, tmp_path: Path
) -> None:
    plan = source(proxy.endpoint, "many", "tree").plan()
    assert (plan.files, plan.bytes) == (1203, sum(map(len, many.values())))
    assert plan.identity == f"{proxy.endpoint}/many/tree"
    assert proxy.gets(b".bin") == []
    assert sum(b"list-type=2" in head for head in proxy.requests) == 2
    assert source(proxy.endpoint, "many", "/tree/").plan() == plan


def test_every_object_arrives_byte_for_byte_and_a_second_fetch_asks_nobody(
    many: dict[str, bytes], proxy: CuttingProxy, tmp_path: Path
) -> None:
    asked = source(proxy.endpoint, "many", "tree")
    plan, reports = asked.plan(), list[tuple[int, int]]()
    tree = asked.fetch(plan, tmp_path / "x", FetchContext(progress=lambda done, total: reports.append((done, total))))
    assert contents(tree.root) == many
    assert tree.name == "tree"
    assert len(proxy.gets(b".bin")) == 1203
    assert reports[-1] == (plan.bytes, plan.bytes)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    before = proxy.connections
    again = source(proxy.endpoint, "many", "tree").fetch(plan, tmp_path / "x", FetchContext())
    assert again == tree
    assert proxy.connections == before


def test_only_what_changed_is_downloaded_for_a_new_revision(
    s3_server: S3Server, proxy: CuttingProxy, bucket: str, tmp_path: Path
) -> None:
    files = {f"d/{n}.jpg": os.urandom(500) for n in range(20)}
    s3_server.put(bucket, files)
    first = source(proxy.endpoint, bucket, "d").plan().revision
    fetch(source(proxy.endpoint, bucket, "d"), tmp_path)
    s3_server.put(bucket, {"d/3.jpg": b"new", "d/new.jpg": b"newer"})
    proxy.requests.clear()
    tree = fetch(source(proxy.endpoint, bucket, "d"), tmp_path)
    assert source(proxy.endpoint, bucket, "d").plan().revision != first
    assert len(proxy.gets(b".jpg")) == 2
    wanted = {**files, "d/3.jpg": b"new", "d/new.jpg": b"newer"}
    assert {f"d/{name}": content for name, content in contents(tree.root).items()} == wanted
    assert contents(tmp_path / first / "data")["3.jpg"] == files["d/3.jpg"]


def test_a_whole_bucket_and_a_single_object_are_sources_too(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    s3_server.put(bucket, {"a/one.json": b"{}", "two.txt": b"2", "empty.txt": b""})
    assert contents(fetch(source(s3_server.endpoint, bucket), tmp_path / "1").root) == {
        "a/one.json": b"{}",
        "two.txt": b"2",
        "empty.txt": b"",
    }
    assert contents(fetch(source(s3_server.endpoint, bucket, "a/one.json"), tmp_path / "2").root) == {"one.json": b"{}"}


def test_keys_that_only_differ_in_case_stop_the_plan(s3_server: S3Server, bucket: str) -> None:
    s3_server.put(bucket, {"d/a.jpg": b"1", "d/A.jpg": b"2", "d/b.jpg": b"3"})
    with pytest.raises(DataError, match=r"'d/a.jpg': it clashes with 'A.jpg'"):
        source(s3_server.endpoint, bucket, "d").plan()


# ---- archives -----------------------------------------------------------------------------------------------------


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


TREE = {"train/a.json": b"{}", "train/é.png": b"picture"}


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_alone_becomes_the_data(
    pack: Callable[[dict[str, bytes]], bytes], s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    key = "sets/cells.zip" if pack is zipped else "sets/cells.tar.gz"
    s3_server.put(bucket, {key: pack(TREE), "sets2/x": b"1"})
    for prefix in ("sets", key):
        tree = fetch(source(s3_server.endpoint, bucket, prefix), tmp_path / prefix.replace("/", "-"))
        assert contents(tree.root) == TREE
        assert tree.name == prefix.rpartition("/")[2].partition(".")[0]
    wrapped = {f"export/{name}": content for name, content in TREE.items()}
    s3_server.put(bucket, {key: pack(wrapped)})
    assert contents(fetch(source(s3_server.endpoint, bucket, "sets"), tmp_path / "wrapped").root) == TREE


def test_several_archives_become_folders_and_plain_files_stay(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    s3_server.put(
        bucket,
        {
            "train.zip": zipped({"a.json": b"1"}),
            "valid.tgz": tarred({"valid/b.json": b"2"}),
            "notes.txt": b"3",
            "both.zip": zipped({"old": b""}),
            "both/new": b"4",
        },
    )
    found = contents(fetch(source(s3_server.endpoint, bucket), tmp_path).root)
    assert found.pop("both.zip")
    assert found == {"train/a.json": b"1", "valid/b.json": b"2", "notes.txt": b"3", "both/new": b"4"}


def test_archives_stay_packed_when_told_so(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    packed = zipped(TREE)
    s3_server.put(bucket, {"set.zip": packed})
    unpacked = source(s3_server.endpoint, bucket).plan()
    asked = source(s3_server.endpoint, bucket, unpack=False)
    assert asked.plan().revision != unpacked.revision
    assert contents(fetch(asked, tmp_path).root) == {"set.zip": packed}


def test_a_hostile_archive_is_refused_and_leaves_nothing(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    s3_server.put(bucket, {"set.zip": zipped({"good": b"1", "../../../evil.txt": b"x"})})
    with pytest.raises(DataError, match=r"set.zip was refused: its member '../../../evil.txt'"):
        fetch(source(s3_server.endpoint, bucket), tmp_path / "cache")
    assert not list(tmp_path.rglob("evil.txt")) and not list(tmp_path.rglob("good"))
    s3_server.put(bucket, {"set.zip": zipped(TREE)})
    assert contents(fetch(source(s3_server.endpoint, bucket), tmp_path / "cache").root) == TREE


# ---- what goes wrong ----------------------------------------------------------------------------------------------


def failing(asked: S3Source) -> DetloomError:
    with pytest.raises(DetloomError) as raised:
        asked.plan()
    assert SECRET not in str(raised.value)
    return raised.value


def test_wrong_keys_are_told_apart(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, many: object) -> None:
    asked = source(s3_server.endpoint, "many")
    monkeypatch.setenv("MINIO_SECRET_KEY", "a-wrong-secret")
    error = failing(asked)
    assert type(error) is AccessError and error.exit_code == 5
    assert "secret key (MINIO_SECRET_KEY)" in error.message and "a-wrong-secret" not in str(error)
    monkeypatch.setenv("MINIO_ACCESS_KEY", "a-wrong-key")
    error = failing(asked)
    assert "access key (MINIO_ACCESS_KEY)" in error.message and "a-wrong-key" not in str(error)


def test_keys_from_other_variables_are_used(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, many: object) -> None:
    monkeypatch.setenv("LAB_KEY", READER)
    monkeypatch.setenv("LAB_SECRET", READER_SECRET)
    monkeypatch.delenv("MINIO_SECRET_KEY")
    own = {"access_key_env": "LAB_KEY", "secret_key_env": "LAB_SECRET"}
    assert source(s3_server.endpoint, "many", "tree", **own).plan().files == 1203


def test_a_session_token_is_sent(proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch, many: object) -> None:
    monkeypatch.setenv("LAB_TOKEN", "the-lab-token")
    failing(source(proxy.endpoint, "many", session_token_env="LAB_TOKEN", region="eu-lab-1"))
    heads = b"".join(proxy.requests)
    assert b"the-lab-token" in heads


def test_the_region_is_the_one_that_is_signed_for(proxy: CuttingProxy, many: object) -> None:
    source(proxy.endpoint, "many", "tree", region="eu-lab-1").plan()
    assert b"/eu-lab-1/s3/aws4_request" in proxy.requests[0]
    assert not any(b"?location" in head for head in proxy.requests)


def test_keys_without_the_right_are_told_what_they_need(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, many: object
) -> None:
    monkeypatch.setenv("MINIO_ACCESS_KEY", EMPTY)
    monkeypatch.setenv("MINIO_SECRET_KEY", EMPTY_SECRET)
    error = failing(source(s3_server.endpoint, "many"))
    assert type(error) is AccessError and "s3:ListBucket" in error.hint


def test_public_buckets_need_no_keys_and_others_say_so(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, many: object
) -> None:
    s3_server.put("public-data", {"a.txt": b"free"})
    monkeypatch.delenv("MINIO_ACCESS_KEY")
    monkeypatch.delenv("MINIO_SECRET_KEY")
    assert "data.s3.anonymous" in failing(source(s3_server.endpoint, "public-data")).hint
    tree = fetch(source(s3_server.endpoint, "public-data", anonymous=True), tmp_path)
    assert contents(tree.root) == {"a.txt": b"free"}
    assert "data.s3.anonymous=false" in failing(source(s3_server.endpoint, "many", anonymous=True)).hint


def test_what_is_not_there_comes_with_a_suggestion(s3_server: S3Server, bucket: str, many: object) -> None:
    error = failing(source(s3_server.endpoint, "manny"))
    assert type(error) is NotThereError and error.exit_code == 3
    assert error.hint == "did you mean 'many'?"
    assert "did you mean 'tree'?" in str(failing(source(s3_server.endpoint, "many", "tree-")))
    assert "did you mean 'tree/part 1'?" in str(failing(source(s3_server.endpoint, "many", "tree/part1")))
    assert "many holds" in str(failing(source(s3_server.endpoint, "many", "zzz")))
    s3_server.put(bucket, {})
    assert f"the bucket {bucket} is empty" in str(failing(source(s3_server.endpoint, bucket)))


def test_a_clock_that_is_wrong_is_named(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, many: object) -> None:
    real, real_now = minio.api.time.utcnow, time.time
    late = datetime.timedelta(hours=3)
    monkeypatch.setattr(minio.api.time, "utcnow", lambda: real() - late)
    monkeypatch.setattr(time, "time", lambda: real_now() - late.total_seconds())
    error = failing(source(s3_server.endpoint, "many"))
    assert type(error) is AccessError
    assert "clock" in error.message and " by 10" in error.message and "ntp" in error.hint


def test_a_server_that_is_not_there_is_unreachable(s3_server: S3Server) -> None:
    error = failing(source("http://127.0.0.1:9", "many"))
    assert error.exit_code == 5 and "nobody listens there" in error.hint
    error = failing(source("http://no-such-host.invalid", "many"))
    assert error.exit_code == 5 and "not known" in error.hint
    error = failing(source(s3_server.host, "many"))
    assert f"http://{s3_server.host}" in error.hint, "it does not speak TLS"
    assert source(s3_server.host, "ready", secure=False).plan().files == 1


def test_a_web_server_is_not_taken_for_s3() -> None:
    import http.server

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html>console</html>"
            self.send_response(200 if "location" in self.path else 404)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        error = failing(source(f"http://127.0.0.1:{server.server_address[1]}", "many", region="us-east-1"))
        server.shutdown()
        thread.join(10)
    assert error.exit_code == 5 and "9001" in error.hint


# ---- an odd gateway -----------------------------------------------------------------------------------------------


def test_a_gateway_with_habits_of_its_own_gives_the_data(gateway: str, tmp_path: Path) -> None:
    folder = tmp_path / "buckets" / "photos" / "set"
    folder.mkdir(parents=True)
    files = {"a.bin": os.urandom(3 * MB), "é ü.txt": b"text"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    between = CuttingProxy(gateway.removeprefix("http://"))
    try:
        asked = source(between.endpoint, "photos", "set")
        plan = asked.plan()
        between.sent, between.cut_after, between.cuts = 0, 1_000_000, 2
        assert contents(asked.fetch(plan, tmp_path / "x", FetchContext()).root) == files
        assert between.cuts == 0 and between.sent <= 1.2 * (3 * MB)
        (folder / "é ü.txt").write_bytes(b"other")
        with pytest.raises(ChangedError):
            asked.fetch(plan, tmp_path / "elsewhere" / "y", FetchContext())
    finally:
        between.close()


def test_the_gateways_own_errors_are_understood(gateway: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "buckets" / "photos").mkdir()
    assert type(failing(source(gateway, "nothing"))) is NotThereError
    monkeypatch.setenv("MINIO_SECRET_KEY", "wrong")
    error = failing(source(gateway, "photos"))
    assert type(error) is AccessError and "HTTP 403" in error.message
