"""Everything that can go wrong on the way from CVAT: what the user gets, or is told, and when."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from cvat_tools import ACCESS_TOKEN, PASSWORD, TOKEN, CVATServer, fetched, pictures_of, source, task
from data_tools import codes
from detloom.config import mapping_layer, resolve
from detloom.data.load import check
from detloom.errors import DataError, DetloomError, UnreachableError
from detloom.host import discover
from detloom.transfer import AccessError, Patience, TimedOutError

BOTH = ["sdk", "http-v2"]
WHOLE = {"task-1/a.jpg", "task-1/b.jpg"}


@pytest.fixture
def filled(cvat: CVATServer, monkeypatch: pytest.MonkeyPatch) -> CVATServer:
    """A task of two images. Pauses between attempts are short."""
    quick = Patience(attempts=4, first_pause_s=0.05)
    monkeypatch.setattr("detloom_integrations.cvat.source.FETCH_PATIENCE", quick)
    monkeypatch.setattr("detloom_integrations.cvat.source.PLAN_PATIENCE", quick)
    cvat.hold(task(1))
    return cvat


def refused(folder: Path, kind: type[DetloomError], **settings: Any) -> str:
    """What the user is told: the reason and the remedy, without a secret, and nothing half-made left."""
    with pytest.raises(kind) as told:
        fetched(folder, task_ids=[1], **settings)
    assert type(told.value).exit_code == (3 if kind is DataError else 5)
    assert told.value.hint, "an error says what to do"
    assert not [path for path in folder.rglob("*") if re.fullmatch("[0-9a-f]{16}", path.name)], "nothing is half-made"
    for hidden in (PASSWORD, TOKEN, ACCESS_TOKEN):
        assert hidden not in str(told.value)
    return str(told.value)


def arrived(cvat: CVATServer, folder: Path, **settings: Any) -> None:
    """Everything came, as it is."""
    pictures = pictures_of(fetched(folder, task_ids=[1], **settings))
    assert pictures == {f"task-1/{name}": sha for name, sha in cvat.pictures(1).items()}


# ---- faults that pass ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("downloader", BOTH)
@pytest.mark.parametrize(
    ("fault", "value"),
    [
        *((f"http{status}", kind) for status in (500, 503, 429) for kind in ("other", "export", "request", "download")),
        ("drop", 0),
        ("drop", 1000),
        ("corrupt_zip", 1),
        ("expired", 1),
    ],
)
def test_a_fault_that_passes_is_not_noticed(
    filled: CVATServer, tmp_path: Path, fault: str, value: Any, downloader: str
) -> None:
    filled.fault(fault, value, times=1)
    arrived(filled, tmp_path, downloader=downloader)
    assert filled.hits(fault) == 1


@pytest.mark.parametrize("downloader", BOTH)
def test_a_slow_server_is_waited_for(filled: CVATServer, tmp_path: Path, downloader: str) -> None:
    filled.fault("slow", 0.1)
    arrived(filled, tmp_path, downloader=downloader)
    assert filled.hits("slow") >= 5, "about, task, export, request and download"


@pytest.mark.parametrize("downloader", BOTH)
def test_a_download_that_comes_in_drops_is_waited_for(filled: CVATServer, tmp_path: Path, downloader: str) -> None:
    filled.fault("trickle", 0.05)
    arrived(filled, tmp_path, downloader=downloader, timeout=0.5)
    assert filled.hits("trickle") == 1, "and it was begun once"


@pytest.mark.parametrize("downloader", BOTH)
def test_a_download_that_stalls_is_begun_again(filled: CVATServer, tmp_path: Path, downloader: str) -> None:
    filled.fault("stall", 60, times=1)
    begun = time.monotonic()
    arrived(filled, tmp_path, downloader=downloader, timeout=0.5)
    assert time.monotonic() - begun < 30
    assert filled.hits("stall") == 1


@pytest.mark.parametrize("downloader", BOTH)
def test_an_expired_result_is_exported_again_once(filled: CVATServer, tmp_path: Path, downloader: str) -> None:
    filled.fault("expired", times=1)
    arrived(filled, tmp_path, downloader=downloader)
    assert filled.hits("expired") == 1
    assert len(filled.requests("POST /api/tasks/1/dataset/export")) == 2


@pytest.mark.parametrize("downloader", BOTH)
def test_the_name_that_an_archive_is_given_does_not_matter(filled: CVATServer, tmp_path: Path, downloader: str) -> None:
    filled.fault("bad_filename")
    arrived(filled, tmp_path / "in", downloader=downloader)
    assert filled.hits("bad_filename") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("downloader", BOTH)
def test_a_session_that_ended_is_begun_again(filled: CVATServer, tmp_path: Path, downloader: str) -> None:
    made = source(task_ids=[1], downloader=downloader)
    plan = made.plan()
    filled.fault("expire_auth", 0, times=1)
    with pytest.raises(AccessError):
        made.plan()
    filled.clear_faults()
    assert made.plan() == plan


# ---- faults that last ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("downloader", BOTH)
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_stays_busy_is_named(filled: CVATServer, tmp_path: Path, status: int, downloader: str) -> None:
    filled.fault(f"http{status}", "export")
    text = refused(tmp_path, UnreachableError, downloader=downloader)
    assert f"CVAT at {filled.url}" in text and f"it answers {status} (injected)" in text
    assert filled.hits(f"http{status}") == 4


@pytest.mark.parametrize("downloader", BOTH)
def test_a_download_that_breaks_off_each_time_is_an_error(filled: CVATServer, tmp_path: Path, downloader: str) -> None:
    filled.fault("drop", 1000)
    text = refused(tmp_path, UnreachableError, downloader=downloader, export="task")
    assert "fetching task 1 (task 1) broke off each time" in text and "data.cvat.export=auto" in text


@pytest.mark.parametrize("downloader", BOTH)
def test_a_failed_export_is_told_in_the_servers_last_line(filled: CVATServer, tmp_path: Path, downloader: str) -> None:
    filled.fault("fail_request", f"Traceback (most recent call last):\n  line 7\nValueError: no disk, {PASSWORD}\n")
    text = refused(tmp_path, UnreachableError, downloader=downloader, export="task")
    assert "could not export task 1 (task 1): ValueError: no disk, ***" in text and "line 7" not in text


@pytest.mark.parametrize("downloader", BOTH)
def test_an_export_that_never_finishes_ends_with_the_deadline(
    filled: CVATServer, tmp_path: Path, downloader: str
) -> None:
    filled.fault("never_finish")
    begun = time.monotonic()
    text = refused(tmp_path, TimedOutError, downloader=downloader, export="task", seconds=2)
    assert "did not finish the export of task 1 (task 1) within 2 s" in text and "data.fetch_deadline" in text
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize("downloader", BOTH)
def test_a_result_that_expires_each_time_is_an_error(filled: CVATServer, tmp_path: Path, downloader: str) -> None:
    filled.fault("expired")
    text = refused(tmp_path, UnreachableError, downloader=downloader, export="task")
    assert "expires before it is fetched" in text
    assert len(filled.requests("POST /api/tasks/1/dataset/export")) == 2


@pytest.mark.parametrize("downloader", BOTH)
def test_credentials_that_end_in_the_middle_are_named(filled: CVATServer, tmp_path: Path, downloader: str) -> None:
    filled.fault("expire_auth", 6)
    text = refused(tmp_path, AccessError, downloader=downloader)
    assert "does not take the credentials of CVAT_USERNAME and CVAT_PASSWORD: Invalid token." in text


@pytest.mark.parametrize("downloader", BOTH)
def test_a_damaged_archive_is_refused(filled: CVATServer, tmp_path: Path, downloader: str) -> None:
    filled.fault("corrupt_zip")
    text = refused(tmp_path, DataError, downloader=downloader)
    assert "sent an archive that cannot be used" in text and "of task 1 (task 1)" in text
    assert filled.hits("corrupt_zip") == 2


@pytest.mark.parametrize(
    ("fault", "value", "words"),
    [
        ("zip_slip", 1, ["../../../evil.txt", "climbs out"]),
        ("zip_symlink", 1, ["images/link.jpg", "is a link"]),
        ("zip_bomb", 200, ["a bomb"]),
    ],
)
def test_a_hostile_archive_is_refused_and_nothing_of_it_is_written(
    filled: CVATServer, tmp_path: Path, fault: str, value: Any, words: list[str]
) -> None:
    filled.fault(fault, value)
    text = refused(tmp_path / "deep/er/down", DataError)
    assert all(word in text for word in words)
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name or path.is_symlink()]
    assert not Path("/abs_evil.txt").exists()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 10_000


@pytest.mark.parametrize(("fault", "code"), [("truncated_jpeg", "truncated-image"), ("missing_frame", "missing-image")])
def test_a_picture_that_the_archive_has_not_whole_is_found_by_the_check(
    filled: CVATServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, code: str
) -> None:
    filled.fault(fault, 1)
    monkeypatch.setenv("DETLOOM_CACHE", str(tmp_path))
    plugins = discover()
    values = {"data.source": "cvat", "data.cvat.task_ids": [1], "export.format": []}
    report = check(resolve(plugins, [mapping_layer(values)]), plugins)
    assert codes(report)[code] == 1
    (finding,) = [finding for finding in report.findings if finding.code == code]
    assert "task-1/b.jpg" in finding.where


@pytest.mark.parametrize("downloader", BOTH)
@pytest.mark.parametrize("kind", ["other", "export", "request", "download"])
def test_a_page_in_place_of_an_answer_is_told(filled: CVATServer, tmp_path: Path, kind: str, downloader: str) -> None:
    filled.fault("html", kind)
    text = refused(tmp_path, UnreachableError, downloader=downloader, export="task")
    expected = "it sends a page" if kind == "download" else "it answers, but not as a CVAT server"
    assert expected in text


def test_a_login_that_brings_no_session_is_done_in_plain_http(
    filled: CVATServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled.fault("no_cookies")
    caplog.set_level("INFO", "detloom")
    arrived(filled, tmp_path)
    assert "the cvat-sdk does not fit this server" in caplog.text


# ---- silence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("downloader", BOTH)
@pytest.mark.parametrize("kind", ["login", "export", "request", "download"])
def test_a_server_that_falls_silent_ends_with_the_deadline(
    filled: CVATServer, tmp_path: Path, kind: str, downloader: str
) -> None:
    """The timeout alone would take minutes."""
    made = source(task_ids=[1], downloader=downloader, timeout=60.0)
    plan = made.plan()
    filled.fault("hang", kind)
    begun = time.monotonic()
    from detloom.specs import FetchContext

    with pytest.raises(TimedOutError, match=r"within 2 s|longer than 2 s"):
        made.fetch(plan, tmp_path / "data", FetchContext(deadline_s=2))
    assert time.monotonic() - begun < 20


def test_a_plan_of_a_silent_server_ends_after_some_timeouts(filled: CVATServer) -> None:
    filled.fault("hang", "any")
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match="no answer in time") as told:
        source(task_ids=[1], timeout=0.5).plan()
    assert "CVAT_URL" in told.value.hint
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("downloader", BOTH)
def test_a_download_in_drops_ends_with_the_deadline(filled: CVATServer, tmp_path: Path, downloader: str) -> None:
    filled.fault("trickle", 1.5)
    begun = time.monotonic()
    refused(tmp_path, TimedOutError, downloader=downloader, export="task", seconds=3)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("downloader", BOTH)
def test_a_server_that_is_not_there_is_named(
    filled: CVATServer, monkeypatch: pytest.MonkeyPatch, downloader: str
) -> None:
    with pytest.raises(UnreachableError) as told:
        source(task_ids=[1], url="http://127.0.0.1:9", downloader=downloader).plan()
    assert "CVAT at http://127.0.0.1:9: Connection refused" in str(told.value) and told.value.exit_code == 5


def test_a_server_that_is_not_cvat_is_told(filled: CVATServer) -> None:
    with pytest.raises(UnreachableError, match="it answers, but not as a CVAT server"):
        source(task_ids=[1], url=f"{filled.url}/elsewhere").plan()
    filled.hold()  # forgets that it was asked for a path that it does not have


# ---- exports that are too big -------------------------------------------------------------------------------------


def test_a_task_that_is_too_big_is_fetched_job_by_job(
    filled: CVATServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled.hold(task(1, names=("a.jpg", "b.jpg", "c.jpg"), jobs=[[11, 0, 0], [12, 1, 2]]))
    filled.fault("too_big")
    arrived(filled, tmp_path)
    assert "maximum timeout value" in caplog.text and "each of its jobs alone" in caplog.text
    assert len(filled.requests("POST /api/jobs/")) == 2


@pytest.mark.parametrize("downloader", BOTH)
@pytest.mark.parametrize(
    "jobs",
    [[[11, 0, 1]], [[11, 0, 1], [12, 1, 2]], [[11, 0, 2], [99, 1, 1, "ground_truth"]]],
    ids=["one job", "jobs that share a frame", "ground truth beside it"],
)
def test_a_task_that_is_too_big_and_has_no_smaller_jobs_is_fetched_frame_by_frame(
    filled: CVATServer, tmp_path: Path, jobs: list[list[Any]], downloader: str
) -> None:
    names = ("a.jpg", "b.jpg") if jobs == [[11, 0, 1]] else ("a.jpg", "b.jpg", "c.jpg")
    filled.hold(task(1, names=names, jobs=jobs))
    filled.fault("too_big")
    arrived(filled, tmp_path, downloader=downloader)
    assert len(filled.requests("GET /api/tasks/1/data/")) >= len(names)
    assert not filled.requests("POST /api/jobs/")


def test_a_video_is_fetched_frame_by_frame(filled: CVATServer, tmp_path: Path) -> None:
    filled.hold(task(1, names=("v0", "v1", "v2"), mode="interpolation", start=4, step=3, deleted=[1]))
    pictures = pictures_of(fetched(tmp_path, task_ids=[1], export="frames"))
    kept = {name: sha for name, sha in filled.pictures(1).items() if name != "frame_000007.PNG"}
    assert {name.lower(): sha for name, sha in pictures.items()} == {
        f"task-1/{name.lower()}": sha for name, sha in kept.items()
    }


def test_a_job_is_fetched_frame_by_frame(filled: CVATServer, tmp_path: Path) -> None:
    filled.hold(task(1, names=("a.jpg", "b.jpg", "c.jpg"), jobs=[[11, 0, 0], [12, 1, 2]]))
    pictures = pictures_of(fetched(tmp_path, job_ids=[12], export="frames"))
    shas = filled.pictures(1)
    assert pictures == {"job-12/b.jpg": shas["b.jpg"], "job-12/c.jpg": shas["c.jpg"]}


def test_an_export_that_never_finishes_gives_way_to_smaller_ones(
    filled: CVATServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled.fault("never_finish", times=8)
    arrived(filled, tmp_path, seconds=6)
    assert "now its annotations, and its frames one by one" in caplog.text


@pytest.mark.parametrize("fault", ["http500", "http429"])
def test_a_frame_that_fails_once_is_fetched_again(filled: CVATServer, tmp_path: Path, fault: str) -> None:
    filled.fault(fault, "frame", times=1)
    arrived(filled, tmp_path, export="frames")
    assert filled.hits(fault) == 1


def test_frames_that_have_arrived_are_kept_when_others_fail(filled: CVATServer, tmp_path: Path) -> None:
    filled.hold(task(1, names=tuple(f"{n:03}.jpg" for n in range(30))))
    filled.fault("html", "frame", times=1)
    refused(tmp_path, UnreachableError, export="frames")
    kept = len(list(tmp_path.rglob("*.jpg")))
    before = len(filled.requests("GET /api/tasks/1/data/"))
    arrived(filled, tmp_path, export="frames")
    frames = [request for request in filled.requests("GET /api/tasks/1/data/")[before:] if "meta" not in request]
    assert 0 < len(frames) == 30 - kept


def test_jobs_that_share_frames_are_not_exported_one_by_one(filled: CVATServer, tmp_path: Path) -> None:
    filled.hold(task(1, jobs=[[11, 0, 1], [12, 1, 1]]))
    with pytest.raises(DataError, match="share frames"):
        fetched(tmp_path, task_ids=[1], export="jobs")


# ---- old servers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.11.0", "2.80.0"])
def test_an_old_server_is_asked_in_the_old_way(filled: CVATServer, tmp_path: Path, version: str) -> None:
    filled.hold(task(1), legacy=True, version=version, polls=2)
    arrived(filled, tmp_path)
    assert filled.requests("GET /api/tasks/1/dataset")


@pytest.mark.parametrize(
    ("fault", "value"), [("http500", "export"), ("drop", 1000), ("corrupt_zip", 1), ("http429", "download")]
)
def test_an_old_server_is_waited_for_as_well(filled: CVATServer, tmp_path: Path, fault: str, value: Any) -> None:
    filled.hold(task(1), legacy=True, version="2.11.0")
    filled.fault(fault, value, times=1)
    arrived(filled, tmp_path, downloader="http-v1")
    assert filled.hits(fault) == 1


def test_an_old_server_that_never_finishes_ends_with_the_deadline(filled: CVATServer, tmp_path: Path) -> None:
    filled.hold(task(1), legacy=True)
    filled.fault("never_finish")
    text = refused(tmp_path, TimedOutError, downloader="http-v1", seconds=2)
    assert "did not finish the export" in text


def test_the_old_way_is_not_taken_where_it_is_gone(filled: CVATServer, tmp_path: Path) -> None:
    text = refused(tmp_path, UnreachableError, downloader="http-v1")
    assert "410" in text and "data.cvat.downloader" in text
