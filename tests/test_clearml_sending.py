"""What a run left in its folder is sent later: whole, once, and as often as it takes."""

from __future__ import annotations

import json

import pytest

from delivery_tools import RECORD, Bench, bench, report_losses
from detloom.errors import DetloomError, UsageError
from detloom.run_folder import locked
from detloom_integrations.clearml import sending
from detloom_integrations.clearml.sending import send_run
from detloom_integrations.clearml.uploads import Upload

__all__ = ["bench"]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending.time, "sleep", lambda seconds: None)


def offline_run(bench: Bench, steps: int = 600) -> None:
    """A run without a server: numbers, a curve, a picture, an artifact, weights."""
    logger = bench.logger(bench.delivery(online=False))
    for step in range(steps):
        logger.scalars({"train/loss": 1.0 / (step + 1)}, step, 0)
    logger.scalars({"best/val/AP": 0.5}, steps, 1)
    logger.plot("val/PR", {"RBC": [(0.0, 1.0)]}, steps)
    logger.image("val/a.jpg", bench.file("pictures/a.jpg", b"jpeg"), steps)
    logger.artifact("report", bench.file("report.html", b"<html>"))
    logger.model("best", bench.file("checkpoints/best.pt", b"weights"), {"val/AP": 0.5}, {"RBC": 0})
    logger.close("completed")
    bench.finished(finished="2026-01-02T04:00:00+00:00")


def the_sent_task(bench: Bench) -> str:
    """The one task besides that of the fixture."""
    [task] = [task["id"] for task in bench.double.tasks() if task["id"] != bench.task]
    return str(task)


def test_an_offline_run_arrives_with_everything_it_reported(bench: Bench) -> None:
    offline_run(bench)
    report = send_run(bench.folder, bench.server)
    assert (report.dropped, report.waiting, report.error) == (0, 0, "")
    assert report.flushed == 600 + 1 + 1 + 1 + 3  # losses, AP, its single value, curve; picture, report, model
    task = the_sent_task(bench)
    sent = bench.double.task(task)
    assert (sent["name"], sent["tags"], sent["type"]) == ("offline run", ["blood", "tiny"], "training")
    assert sent["status"] == "completed"
    assert "2026-01-02T03:04:05" in sent["comment"]
    assert "2026-01-02T04:00:00" in sent["comment"]
    assert bench.double.parameters(task) == {"training/lr": "0.01"}
    assert sent["configuration"]["augmentation"]["value"] == "flip: true"
    assert sent["script"]["entry_point"] == "-m detloom"
    projects = bench.double.state()["project"]
    assert projects[sent["project"]]["name"] == RECORD["project"]
    assert bench.steps(task=task) == list(range(600))
    assert bench.steps("Summary", "best/val/AP", task=task) == [-2147483648]
    assert len(bench.double.events(task, "plot")) == 1
    assert len(bench.double.events(task, "training_debug_image")) == 1
    assert bench.double.artifact(task, "report").read_bytes() == b"<html>"
    assert bench.double.file(bench.models(task)["best"]["uri"]).read_bytes() == b"weights"


def test_sending_again_changes_nothing(bench: Bench) -> None:
    offline_run(bench, steps=5)
    send_run(bench.folder, bench.server)
    before = bench.double.state()
    again = send_run(bench.folder, bench.server)
    assert (again.flushed, again.dropped, again.waiting) == (0, 0, 0)
    after = bench.double.state()
    assert after["events"] == before["events"]
    assert after["model"] == before["model"]
    assert list(after["task"]) == list(before["task"])


def test_a_folder_that_was_moved_is_sent_from_its_new_place(bench: Bench) -> None:
    offline_run(bench, steps=5)
    moved = bench.folder.rename(bench.folder.with_name("elsewhere"))
    assert send_run(moved, bench.server).waiting == 0
    assert bench.double.artifact(the_sent_task(bench), "report").read_bytes() == b"<html>"


def test_sending_that_was_cut_off_after_the_task_was_made_finds_that_task_again(bench: Bench) -> None:
    offline_run(bench, steps=5)
    bench.double.fault("tasks.create", cut="after", times=1)
    with pytest.raises(DetloomError):
        send_run(bench.folder, bench.server)
    bench.double.clear_faults()
    assert json.loads((bench.folder / "clearml" / "task.json").read_text())["task"] == ""
    assert send_run(bench.folder, bench.server).waiting == 0
    assert bench.steps(task=the_sent_task(bench)) == list(range(5))


def test_sending_that_was_cut_off_among_the_numbers_goes_on_where_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline_run(bench)
    whole, calls = type(bench.server).add_events, 0

    def failing(server: object, batch: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            bench.double.fault("events.add_batch", status=503)
        return whole(server, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(type(bench.server), "add_events", failing)
    first = send_run(bench.folder, bench.server)
    task = the_sent_task(bench)
    assert 0 < first.flushed < 600
    assert first.waiting == 606 - first.flushed
    assert "503" in first.error
    assert bench.double.task(task)["status"] == "in_progress"
    bench.double.clear_faults()
    second = send_run(bench.folder, bench.server)
    assert first.flushed + second.flushed == 606
    assert bench.steps(task=task) == list(range(600))
    assert bench.double.task(task)["status"] == "completed"


def test_sending_that_was_cut_off_among_the_files_doubles_no_model(bench: Bench) -> None:
    offline_run(bench, steps=5)
    bench.double.fault("tasks.add_or_update_model", status=503)
    assert send_run(bench.folder, bench.server).waiting == 1
    bench.double.clear_faults()
    assert send_run(bench.folder, bench.server).waiting == 0
    assert len(bench.double.models()) == 1
    assert set(bench.models(the_sent_task(bench))) == {"best"}


def test_what_an_outage_left_goes_to_the_runs_own_task(bench: Bench) -> None:
    bench.double.fault("*", status=503)
    delivery = bench.delivery(close_timeout=0.5)
    report_losses(delivery, range(300))
    delivery.upload(Upload("artifact", "report", str(bench.file("report.html", b"<html>"))))
    assert delivery.close().waiting == 301
    bench.double.clear_faults()
    bench.finished(status="failed", error="the disk is full")
    assert send_run(bench.folder, bench.server).flushed == 301
    assert [task["id"] for task in bench.double.tasks()] == [bench.task]
    assert bench.steps() == list(range(300))
    task = bench.double.task(bench.task)
    assert (task["status"], task["status_message"]) == ("failed", "the disk is full")


@pytest.mark.parametrize(
    ("status", "told"),
    [("completed", "completed"), ("stopped early", "completed"), ("interrupted", "stopped"), ("running", "stopped")],
)
def test_the_task_ends_as_the_run_did(bench: Bench, status: str, told: str) -> None:
    offline_run(bench, steps=1)
    bench.finished(status=status)
    send_run(bench.folder, bench.server)
    assert bench.double.task(the_sent_task(bench))["status"] == told


def test_a_file_that_its_storage_refuses_once_arrives_after_the_others(bench: Bench) -> None:
    offline_run(bench, steps=5)
    bench.double.fault("files.upload", status=500, times=1)
    assert send_run(bench.folder, bench.server).waiting == 0
    assert bench.double.artifact(the_sent_task(bench), "report").read_bytes() == b"<html>"


def test_files_wait_for_a_storage_that_takes_nothing_and_the_numbers_do_not(bench: Bench) -> None:
    offline_run(bench, steps=5)
    bench.double.fault("files.upload", status=507)
    first = send_run(bench.folder, bench.server)
    assert (first.flushed, first.dropped, first.waiting) == (5 + 3, 0, 3)
    assert "507" in first.error
    bench.double.clear_faults()
    second = send_run(bench.folder, bench.server)
    assert (second.flushed, second.dropped, second.waiting) == (3, 0, 0)


def test_a_file_that_was_removed_is_counted_as_lost(bench: Bench) -> None:
    offline_run(bench, steps=5)
    (bench.folder / "report.html").unlink()
    report = send_run(bench.folder, bench.server)
    assert (report.dropped, report.waiting) == (1, 0)
    assert "report.html" in report.error


def test_two_runs_of_one_project_share_it(bench: Bench) -> None:
    offline_run(bench, steps=1)
    send_run(bench.folder, bench.server)
    (bench.folder / "clearml" / "task.json").unlink()
    offline_run(bench, steps=1)
    send_run(bench.folder, bench.server)
    projects = bench.double.state()["project"].values()
    assert [project["name"] for project in projects].count(RECORD["project"]) == 1


def test_a_folder_without_a_record_is_refused_with_what_to_do(bench: Bench) -> None:
    with pytest.raises(UsageError, match=r"holds nothing for ClearML") as caught:
        send_run(bench.folder, bench.server)
    assert "offline" in caught.value.hint


def test_a_run_that_is_being_trained_is_not_sent(bench: Bench) -> None:
    offline_run(bench, steps=1)
    with locked(bench.folder), pytest.raises(UsageError, match="another process"):
        send_run(bench.folder, bench.server)


def test_a_task_that_was_deleted_is_said_and_nothing_is_lost(bench: Bench) -> None:
    delivery = bench.delivery(online=False)
    report_losses(delivery, range(3))
    delivery.close()
    path = bench.folder / "clearml" / "task.json"
    path.write_text(json.dumps({**RECORD, "task": "f" * 32}), encoding="utf-8")
    with pytest.raises(UsageError, match="is not on"):
        send_run(bench.folder, bench.server)
    path.write_text(json.dumps({**RECORD, "task": ""}), encoding="utf-8")
    assert send_run(bench.folder, bench.server).flushed == 3
