"""`detloom cache`: what is there, what goes, and what a process uses stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import format_tools as tools
from conftest import IMPORT_ROOTS
from data_tools import load
from detloom.cli import main
from detloom.data import cache_use
from detloom.data.cache_use import Entry, clear, entries, hold, release

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path / "cache"))
    before = dict(cache_use._held)
    yield tmp_path / "cache"
    for folder in set(cache_use._held) - set(before):
        release(folder)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def execute(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["cache", *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return execute


def put(folder: Path, size: int, days: float, label: str = "") -> Path:
    """A folder that was used so long ago by a process that is gone."""
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * size)
    if label:
        hold(folder, label)
        release(folder)
    place = folder.with_name(folder.name + ".use") if label else folder
    os.utime(place, (time.time() - days * 86400,) * 2)
    return folder


def filled(cache: Path) -> dict[str, Path]:
    return {
        "new": put(cache / "sources/sources.s3/s3/aa", 2_000_000, 1, "http://depot/new"),
        "old": put(cache / "sources/sources.s3/s3/bb", 3_000_000, 40, "http://depot/old"),
        "half": put(cache / "sources/sources.cvat/cvat/cc.part", 1_000_000, 10),
        "pixels": put(cache / "pixels/dd", 4_000_000, 20, "8 images of train, 416x416"),
    }


def rows(call: Call, *arguments: object) -> dict[str, Any]:
    code, out, err = call(*arguments, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_the_list_shows_what_is_there_longest_unused_first(call: Call, cache: Path) -> None:
    filled(cache)
    (cache / "weights" / "0123").mkdir(parents=True)
    (cache / "weights" / "0123" / "nano.pth").write_bytes(b"w" * 500)
    (cache / "weights" / "0123" / "nano.pth.sha256").write_text("ab\n")
    (cache / "facts.sqlite").write_bytes(b"f" * 100)
    found = rows(call)
    assert found["folder"] == str(cache) and found["bytes"] == 10_000_600
    assert [row["label"] for row in found["entries"]][:4] == [
        "http://depot/old", "8 images of train, 416x416", "cc.part (unfinished)", "http://depot/new",
    ]  # fmt: skip
    assert [round(row["days_unused"]) for row in found["entries"]][:4] == [40, 20, 10, 1]
    assert {row["kind"] for row in found["entries"]} == {"sources", "pixels", "weights", "facts"}
    assert not any(row["in_use"] for row in found["entries"])
    code, out, _ = call("--kind", "pixels")
    assert code == 0 and "8 images of train" in out and "depot" not in out
    shutil.rmtree(cache)
    assert rows(call)["entries"] == []


@pytest.mark.parametrize(
    ("arguments", "gone"),
    [
        (("--older-than", "15"), {"old", "pixels"}),
        (("--older-than", "15", "--kind", "sources"), {"old"}),
        (("--keep", "0.0065"), {"old", "pixels"}),
        (("--keep", "1"), set()),
        (("--keep", "0.003", "--older-than", "30"), {"old"}),
        (("--all",), {"new", "old", "half", "pixels"}),
    ],
)
def test_what_is_asked_for_goes_and_the_rest_stays(
    call: Call, cache: Path, arguments: tuple[str, ...], gone: set[str]
) -> None:
    places = filled(cache)
    (cache / "facts.sqlite").write_bytes(b"f" * 100)
    planned = rows(call, "clear", *arguments, "--dry-run")
    assert all(place.exists() for place in places.values())
    done = rows(call, "clear", *arguments)
    assert {name for name, place in places.items() if not place.exists()} == gone
    assert planned["bytes"] == done["bytes"] and len(done["cleared"]) == len(gone)
    assert (cache / "facts.sqlite").exists(), "small, and dear to find out again: only by its name"
    assert not list(cache.rglob("*.gone"))


def test_weights_and_facts_go_when_they_are_named(call: Call, cache: Path) -> None:
    (cache / "weights" / "0123").mkdir(parents=True)
    for name in ("nano.pth", "nano.pth.sha256"):
        (cache / "weights" / "0123" / name).write_bytes(b"w")
    (cache / "facts.sqlite").write_bytes(b"f")
    assert rows(call, "clear", "--all")["cleared"] == []
    assert len(rows(call, "clear", "--all", "--kind", "weights", "facts")["cleared"]) == 2
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("clear",), "does not say what"),
        (("list", "--all"), "belong to `clear`"),
        (("clear", "--older-than", "-1"), "0 or more"),
        (("clear", "--kind", "dust"), "'dust' is none of"),
    ],
)
def test_a_wrong_call_teaches(call: Call, cache: Path, arguments: tuple[str, ...], said: str) -> None:
    filled(cache)
    code, _, err = call(*arguments)
    assert (code, said in err) == (2, True), err
    assert len(entries(cache)) == 4


HOLDING = """
import sys
from pathlib import Path
from detloom.data.cache_use import hold
hold(Path(sys.argv[1]), "held")
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_another_process_uses_stays_until_it_ends_however_it_ends(call: Call, cache: Path) -> None:
    places = filled(cache)
    command = [sys.executable, "-c", HOLDING, str(places["old"])]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(IMPORT_ROOTS)}
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert {row["label"]: row["in_use"] for row in rows(call)["entries"]}["http://depot/old"]
        code, out, _ = call("clear", "--all")
        assert code == 0 and "in use, and kept: http://depot/old" in out
        assert places["old"].exists() and not places["new"].exists()
        process.kill()
    assert [row["label"] for row in rows(call, "clear", "--all")["cleared"]] == ["http://depot/old"]


def test_data_in_use_stay_and_are_fetched_anew_after_they_were_cleared(cache: Path, tmp_path: Path) -> None:
    tools.yolo_ultralytics(tmp_path / "pets")
    shutil.make_archive(str(tmp_path / "pets"), "zip", tmp_path / "pets")
    dataset = load(tmp_path / "pets.zip")
    (entry,) = [one for one in entries(cache) if one.kind == "sources"]
    assert entry.busy and entry.label == str(tmp_path / "pets.zip") and not clear(entry)
    assert all(image.path.is_file() for split in dataset.splits.values() for image in split.images)
    release(entry.path)
    assert clear(entry) and not entry.path.exists()
    assert load(tmp_path / "pets.zip").digest == dataset.digest
    load(tmp_path / "pets")
    assert len([one for one in entries(cache) if one.kind == "sources"]) == 1
    assert len(list(cache.rglob("*.use"))) == 1, "data that stay where they are leave nothing here"


def test_one_that_fetches_and_one_that_clears_never_meet(cache: Path, tmp_path: Path) -> None:
    """While one clears again and again, another unpacks, reads every picture and lets go."""
    tools.yolo_ultralytics(tmp_path / "pets")
    shutil.make_archive(str(tmp_path / "pets"), "zip", tmp_path / "pets")
    done = threading.Event()
    cleared = []

    def keep_clearing() -> None:
        while not done.is_set():
            cleared.extend(one for one in entries(cache) if one.kind == "sources" and clear(one))

    thread = threading.Thread(target=keep_clearing)
    thread.start()
    try:
        for _ in range(12):
            dataset = load(tmp_path / "pets.zip")
            (held,) = [folder for folder in cache_use._held if folder.is_relative_to(cache)]
            for split in dataset.splits.values():
                assert all(image.path.read_bytes() for image in split.images)
            release(held)
    finally:
        done.set()
        thread.join(30)
    assert not thread.is_alive()
    assert all(isinstance(one, Entry) for one in cleared)


def test_objects_of_a_bucket_go_when_no_revision_has_them(call: Call, cache: Path) -> None:
    store = cache / "sources/sources.s3/s3/objects/0123"
    store.mkdir(parents=True)
    (store / ".lock").touch()
    for name in ("a", "b"):
        (store / name).write_bytes(b"x" * 1000)
    tree = put(cache / "sources/sources.s3/s3/aa", 10, 1, "http://depot/new")
    os.link(store / "a", tree / "linked")
    assert [row["bytes"] for row in rows(call)["entries"]] == [1010, 1000], "a counts where it is used"
    rows(call, "clear", "--older-than", "0.5")
    assert not tree.exists()
    assert [path.name for path in store.iterdir()] == [".lock"]
