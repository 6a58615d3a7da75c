"""Downloads from a bucket that are cut, cancelled, late, or not what was listed, against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import IMPORT_ROOTS
from detloom.errors import DataError, RunInterrupted, UnreachableError
from detloom.specs import FetchContext
from detloom.transfer import ChangedError, Patience, TimedOutError
from detloom_integrations.s3 import client as client_module
from detloom_integrations.s3.source import S3Source
from s3_tools import MB, CuttingProxy, S3Server, contents, fetch, source

pytestmark = pytest.mark.usefixtures("s3_keys")


# ---- downloads that are cut ---------------------------------------------------------------------------------------


def test_a_download_that_is_cut_three_times_goes_on_and_asks_for_this_very_content(
    s3_server: S3Server, proxy: CuttingProxy, bucket: str, tmp_path: Path
) -> None:
    content = os.urandom(6 * MB)
    s3_server.put(bucket, {"big.bin": content})
    asked = source(proxy.endpoint, bucket)
    plan = asked.plan()
    proxy.sent, proxy.cut_after, proxy.cuts = 0, 1_300_000, 3
    tree = asked.fetch(plan, tmp_path / "x", FetchContext())
    assert contents(tree.root) == {"big.bin": content}
    assert proxy.cuts == 0
    assert proxy.sent <= 1.2 * len(content)
    heads = [head.decode().lower() for head in proxy.gets(b"big.bin")]
    etag = s3_server.etag(bucket, "big.bin")
    assert len(heads) == 4
    assert all(f'if-match: "{etag}"' in head for head in heads)
    assert [("range: bytes=" in head) for head in heads] == [False, True, True, True]


def test_many_small_downloads_survive_cuts(many: dict[str, bytes], proxy: CuttingProxy, tmp_path: Path) -> None:
    asked = source(proxy.endpoint, "many", "tree/part 1")
    plan = asked.plan()
    proxy.cut_after, proxy.cuts = 2000, 12
    tree = asked.fetch(plan, tmp_path / "x", FetchContext())
    assert contents(tree.root) == {
        name.removeprefix("part 1/"): content for name, content in many.items() if name.startswith("part 1/")
    }
    assert proxy.cuts == 0


def test_an_answer_may_be_cut_anywhere(
    s3_server: S3Server, proxy: CuttingProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an etag is no other etag, and half a length no other length: not among the first headers, not in the body,
    and not when the next answer is cut at the same place."""
    monkeypatch.setattr(client_module, "Patience", lambda: Patience(first_pause_s=0.001, longest_pause_s=0.001))
    content = b"content " * 16
    s3_server.put(bucket, {"a.bin": content})
    plan = source(s3_server.endpoint, bucket, region="us-east-1").plan()
    for place in range(0, 440, 6):
        asked = source(proxy.endpoint, bucket, region="us-east-1")
        assert asked.plan().revision == plan.revision
        proxy.cut_after, proxy.cuts = place, 2
        assert contents(asked.fetch(plan, tmp_path / f"{place}" / "x", FetchContext()).root) == {"a.bin": content}
        assert proxy.cuts == 0, place


@pytest.mark.parametrize("share", [0.02, 0.92], ids=["first page", "second page"])
def test_a_listing_that_is_cut_goes_on_behind_the_last_key(
    share: float, many: dict[str, bytes], proxy: CuttingProxy
) -> None:
    whole = source(proxy.endpoint, "many", "tree").plan()
    proxy.cut_after, proxy.cuts = int(proxy.sent * share), 1
    assert source(proxy.endpoint, "many", "tree").plan() == whole
    assert proxy.cuts == 0


def test_a_fetch_that_was_cancelled_is_gone_on_with_by_the_next_one(
    s3_server: S3Server, proxy: CuttingProxy, bucket: str, tmp_path: Path
) -> None:
    content = os.urandom(8 * MB)
    s3_server.put(bucket, {"big.bin": content})
    proxy.delay_s = 0.002
    asked, seen = source(proxy.endpoint, bucket), [0]
    plan = asked.plan()
    context = FetchContext(progress=lambda done, total: seen.append(done), cancelled=lambda: seen[-1] > 3 * MB)
    with pytest.raises(RunInterrupted):
        asked.fetch(plan, tmp_path / "x", context)
    assert not (tmp_path / "x").exists()
    arrived = seen[-1]
    proxy.sent, proxy.delay_s = 0, 0.0
    tree = source(proxy.endpoint, bucket).fetch(plan, tmp_path / "x", FetchContext())
    assert contents(tree.root) == {"big.bin": content}
    assert arrived > 3 * MB
    assert proxy.sent <= len(content) - arrived + 20_000


def test_a_deadline_ends_a_slow_fetch(s3_server: S3Server, proxy: CuttingProxy, bucket: str, tmp_path: Path) -> None:
    s3_server.put(bucket, {"big.bin": os.urandom(4 * MB)})
    asked = source(proxy.endpoint, bucket)
    plan = asked.plan()
    proxy.delay_s, began = 0.1, time.monotonic()
    with pytest.raises(TimedOutError, match=r"longer than 0.7 s"):
        asked.fetch(plan, tmp_path / "x", FetchContext(deadline_s=0.7))
    assert time.monotonic() - began < 20


def test_a_server_that_dies_in_the_middle_is_a_clear_error(
    s3_server: S3Server, proxy: CuttingProxy, bucket: str, tmp_path: Path
) -> None:
    s3_server.put(bucket, {"big.bin": os.urandom(2 * MB)})
    asked = source(proxy.endpoint, bucket)
    plan = asked.plan()
    proxy.cut_after, proxy.cuts = 0, 1000
    with pytest.raises(UnreachableError, match=r"cannot be reached[\s\S]*start it again to go on"):
        asked.fetch(plan, tmp_path / "x", FetchContext())
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("at_once", [1, 5])
def test_as_many_objects_come_at_once_as_the_settings_say(
    at_once: int, s3_server: S3Server, proxy: CuttingProxy, bucket: str, tmp_path: Path
) -> None:
    s3_server.put(bucket, {f"{n}.bin": os.urandom(100_000) for n in range(10)})
    asked = source(proxy.endpoint, bucket, downloads=at_once)
    plan = asked.plan()
    deadline = time.monotonic() + 10
    while proxy.open and time.monotonic() < deadline:  # the plan's own connection
        time.sleep(0.01)
    proxy.delay_s, proxy.most_open = 0.01, 0
    asked.fetch(plan, tmp_path / "x", FetchContext())
    assert proxy.most_open == at_once


# ---- what changes, and what is damaged ----------------------------------------------------------------------------


def test_an_object_that_changes_after_the_listing_is_refused(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    s3_server.put(bucket, {"a.bin": b"old content", "b.bin": b"stays"})
    asked = source(s3_server.endpoint, bucket)
    plan = asked.plan()
    s3_server.put(bucket, {"a.bin": b"new content"})
    with pytest.raises(ChangedError, match=r"a.bin was changed[\s\S]*run the command again"):
        asked.fetch(plan, tmp_path / "x", FetchContext())
    assert not (tmp_path / "x").exists()
    with pytest.raises(ChangedError, match="does not hold any more what was planned"):
        source(s3_server.endpoint, bucket).fetch(plan, tmp_path / "x", FetchContext())
    s3_server.remove(bucket, "a.bin")
    with pytest.raises(ChangedError, match=r"a.bin was removed"):
        asked.fetch(plan, tmp_path / "x", FetchContext())


def test_a_bucket_with_versions_gives_what_was_planned(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    s3_server.versioned(bucket)
    s3_server.put(bucket, {"a.bin": b"first", "gone.bin": b"deleted later", "b.bin": b"stays"})
    s3_server.put(bucket, {"a.bin": b"second"})
    asked = source(s3_server.endpoint, bucket)
    plan = asked.plan()
    s3_server.put(bucket, {"a.bin": b"third"})
    s3_server.remove(bucket, "gone.bin")
    assert contents(asked.fetch(plan, tmp_path / "x", FetchContext()).root) == {
        "a.bin": b"second",
        "gone.bin": b"deleted later",
        "b.bin": b"stays",
    }
    now = source(s3_server.endpoint, bucket).plan()
    assert now.revision != plan.revision and now.files == 2
    s3_server.put(bucket, {"a.bin": b"third"})  # the same content as another version
    assert source(s3_server.endpoint, bucket).plan().revision != now.revision


def test_an_upload_in_parts_is_verified_by_its_parts(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    content = os.urandom(11 * MB)
    s3_server.put(bucket, {"small.bin": b"1"})
    s3_server.put_in_parts(bucket, "parts.bin", content, 5 << 20)
    asked = source(s3_server.endpoint, bucket)
    plan = asked.plan()
    assert s3_server.etag(bucket, "parts.bin").endswith("-3")
    store = _spoiled_parts(asked, plan.revision, tmp_path, s3_server, bucket)
    assert contents(asked.fetch(plan, tmp_path / "x", FetchContext()).root)["parts.bin"] == content
    assert not list(store.glob("*.part"))


def test_what_an_attempt_before_left_is_not_trusted(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    content = os.urandom(3 * MB)
    s3_server.put(bucket, {"a.bin": content})
    asked = source(s3_server.endpoint, bucket)
    plan = asked.plan()
    _spoiled_parts(asked, plan.revision, tmp_path, s3_server, bucket)
    assert contents(asked.fetch(plan, tmp_path / "x", FetchContext()).root) == {"a.bin": content}


def _spoiled_parts(asked: S3Source, revision: str, cache: Path, server: S3Server, bucket: str) -> Path:
    """Leave the beginning of every object in the store, with other bytes than the server's."""
    from detloom_integrations.s3.fetching import store_name

    store = cache / "objects" / store_name(f"{server.endpoint}/{bucket}/")
    store.mkdir(parents=True)
    for one in asked._placed[revision]:
        (store / f"{one.stored.address}.part").write_bytes(b"x" * (one.stored.size // 2))
    return store


def test_content_that_is_not_what_the_etag_says_is_refused(
    s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a storage gives whose disk is rotten: the etag of other bytes."""
    from detloom_integrations.s3 import client

    s3_server.put(bucket, {"a.bin": b"content"})
    real = client.Bucket.opened

    def rotten(self: Any, stored: Any, offset: int) -> Any:
        return _Rotten(real(self, stored, offset))

    monkeypatch.setattr(client.Bucket, "opened", rotten)
    with pytest.raises(DataError, match=r"a.bin[\s\S]*damaged in the storage"):
        fetch(source(s3_server.endpoint, bucket), tmp_path)


class _Rotten:
    def __init__(self, manager: Any) -> None:
        self.manager = manager

    def __enter__(self) -> tuple[int, list[bytes]]:
        start, chunks = self.manager.__enter__()
        return start, [chunk.swapcase() for chunk in chunks]

    def __exit__(self, *details: Any) -> Any:
        return self.manager.__exit__(*details)


def test_a_cache_that_somebody_changed_is_put_together_again(
    s3_server: S3Server, proxy: CuttingProxy, bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    s3_server.put(bucket, {"a.bin": b"one", "b.bin": b"two"})
    root = fetch(source(proxy.endpoint, bucket), tmp_path).root
    (root / "a.bin").chmod(0o644)
    (root / "a.bin").write_bytes(b"bad")
    (root / "b.bin").unlink()
    proxy.requests.clear()
    assert contents(fetch(source(proxy.endpoint, bucket), tmp_path).root) == {"a.bin": b"one", "b.bin": b"two"}
    assert len(proxy.gets(b".bin")) == 1, "what was only removed from the tree is still in the store"
    assert "not whole any more" in caplog.text


FETCHING = """
import sys
from pathlib import Path
from detloom.specs import FetchContext
from detloom_integrations.s3.source import S3Source
from detloom_schemas.data_config import MinIODataSource
source = S3Source(MinIODataSource(endpoint=sys.argv[1], bucket=sys.argv[2]))
plan = source.plan()
print(source.fetch(plan, Path(sys.argv[3]) / plan.revision, FetchContext()).root)
"""


def test_two_processes_that_fetch_the_same_download_it_once(
    s3_server: S3Server, proxy: CuttingProxy, bucket: str, tmp_path: Path
) -> None:
    files = {f"{n}.bin": os.urandom(60_000) for n in range(12)}
    s3_server.put(bucket, files)
    proxy.delay_s = 0.01
    command = [sys.executable, "-c", FETCHING, proxy.endpoint, bucket, str(tmp_path / "cache")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(IMPORT_ROOTS)}
    processes = [
        subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    roots = set()
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        roots.add(out.strip())
    assert len(roots) == 1 and contents(Path(roots.pop())) == files
    assert len(proxy.gets(b".bin")) == 12
