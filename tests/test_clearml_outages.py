"""A run whose ClearML server is absent from the start, fails in between, or is away at the end."""

from __future__ import annotations

import json
import time

import pytest

from clearml_tools import ClearMLServer
from processes import Place, ended
from task_tools import (
    SMALL,
    STOPPED_AFTER_THE_CONNECTION,
    no_server,
    place,
    record_of,
    scalars,
    settings,
    tracked,
    wait_for_task,
)

__all__ = ["place", "tracked"]


def test_an_absent_server_stops_a_run_that_requires_it_before_any_work(place: Place) -> None:
    place.more = no_server(place)
    done = place.run(*SMALL, "--epochs", "1", *settings(mode="required"))
    assert done.code == 5 and "cannot be used" in done.err and "mode=offline" in done.err
    assert not (place.folder / "runs").exists()


@pytest.mark.parametrize("mode", ["auto", "best-effort", "offline"])
def test_without_the_server_a_run_goes_on_and_is_sent_later(
    mode: str, place: Place, clearml_server: ClearMLServer
) -> None:
    place.more = no_server(place)
    done = place.run(*SMALL, "--epochs", "1", "--tags", "kept", "--name", "later", *settings(mode=mode))
    assert done.code == 0, done.err
    assert ("goes on without ClearML" in done.err) is (mode != "offline")
    run = place.folder / "runs" / "later"
    assert record_of(run)["status"] == "completed"

    place.more = clearml_server.environ()
    sent = place.run("clearml", "send", run)
    assert sent.code == 0, sent.err
    (task,) = clearml_server.tasks()
    assert (task["name"], task["status"], task["tags"]) == ("later", "completed", ["kept"])
    assert clearml_server.parameters(task["id"])["training/epochs"] == "1"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row and "epoch/time_s" not in row]
    assert expected and scalars(clearml_server, task["id"], "train", "loss") == expected
    assert clearml_server.artifact(task["id"], "report").is_file()
    assert [entry["name"] for entry in task["models"]["output"]] == ["best"]


def test_a_server_that_answers_the_probe_and_nothing_else_counts_as_absent(
    tracked: Place, clearml_server: ClearMLServer
) -> None:
    clearml_server.fault("projects.get_all", status=503)
    done = tracked.run(*SMALL, "--set=training.max_steps=1")
    assert done.code == 0 and "goes on without ClearML" in done.err
    done = tracked.run(*SMALL, "--set=training.max_steps=1", *settings(mode="required"))
    assert done.code == 5 and "503" in done.err


def test_the_end_waits_no_longer_than_it_is_told_and_the_spool_holds_no_more(
    tracked: Place, clearml_server: ClearMLServer
) -> None:
    clearml_server.fault("events.add_batch", status=503)
    clearml_server.fault("files.*", hang=600)
    began = time.monotonic()
    done = tracked.run(*SMALL, "--epochs", "2", "--name", "cut", *settings(close_timeout=3, spool_mb=0.002))
    assert done.code == 0, done.err
    assert time.monotonic() - began < 60
    told = next(row for row in record_of(tracked.folder / "runs" / "cut")["loggers"] if row["name"] == "clearml")
    assert told["dropped"] > 0 and "wait" in told["error"]
    assert (tracked.folder / "runs" / "cut" / "clearml" / "spool.jsonl").stat().st_size <= 0.002 * 2**20 + 4096
    clearml_server.clear_faults()


@pytest.mark.parametrize("trouble", ["503 to the end", "gone", "tokens expired"])
def test_a_run_ends_well_whatever_becomes_of_its_server(
    trouble: str, place: Place, own_clearml_server: ClearMLServer
) -> None:
    server = own_clearml_server
    place.more = server.environ()
    process = place.start(*SMALL, "--epochs", "8", "--name", "troubled", *settings(close_timeout=6))
    task = wait_for_task(server, process, "troubled")
    if trouble == "gone":
        server.double.stop()
    elif trouble == "503 to the end":
        server.fault("*", status=503)
    else:
        server.expire_tokens()
    run = place.folder / "runs" / "troubled"
    while not (run / "report.html").exists() and process.poll() is None:
        time.sleep(0.1)
    began = time.monotonic()
    done = ended(process)
    assert done.code == 0, done.err
    assert record_of(run)["status"] == "completed"
    assert time.monotonic() - began < 40, "closing is bounded by 6 s for the reports and half of it for the task"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row and "epoch/time_s" not in row]
    assert [step for step, _ in expected] == list(range(1, 17))
    if trouble == "gone":
        assert "detloom clearml send" in done.err
        return
    if trouble == "503 to the end":
        assert "detloom clearml send" in done.err
        server.clear_faults()
        sent = place.run("clearml", "send", run)
        assert sent.code == 0, sent.err
    assert scalars(server, task, "train", "loss") == expected, "each number once, in order"
    assert server.task(task)["status"] == "completed"


@pytest.mark.slow
def test_a_server_in_maintenance_for_45_seconds_costs_nothing_but_patience(
    place: Place, own_clearml_server: ClearMLServer
) -> None:
    server = own_clearml_server
    place.more = server.environ()
    process = place.start(*SMALL, "--epochs", "8", "--name", "patient", *settings(close_timeout=100))
    task = wait_for_task(server, process, "patient")
    server.fault("*", status=503)
    time.sleep(45)
    assert process.poll() is None, "the end of the run waits for what it reported"
    server.clear_faults()
    done = ended(process)
    assert done.code == 0 and "takes numbers again" in done.err, done.err
    rows = [json.loads(line) for line in (place.folder / "runs/patient/metrics.jsonl").read_text().splitlines()]
    expected = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row and "epoch/time_s" not in row]
    assert len(expected) == 16 and scalars(server, task, "train", "loss") == expected
    assert server.task(task)["status"] == "completed"
    told = next(row for row in record_of(place.folder / "runs/patient")["loggers"] if row["name"] == "clearml")
    assert told["dropped"] == 0 and told["error"] == ""


def test_a_server_that_fails_right_after_the_connection_costs_no_number_and_holds_up_nothing(
    place: Place, own_clearml_server: ClearMLServer
) -> None:
    server = own_clearml_server
    place.more = server.environ()
    script = place.folder / "stopped.py"
    script.write_text(STOPPED_AFTER_THE_CONNECTION)
    process = place.start(*SMALL, "--epochs", "2", *settings(close_timeout=4), script=script)
    while not (place.folder / "connected").exists() and process.poll() is None:
        time.sleep(0.1)
    server.fault("*", status=503)
    (place.folder / "go").touch()
    done = ended(process)
    assert done.code == 0, done.err
    (run,) = (place.folder / "runs").iterdir()
    told = next(row for row in record_of(run)["loggers"] if row["name"] == "clearml")
    assert told["flushed"] == told["dropped"] == 0 and "wait" in told["error"]
    server.clear_faults()
    sent = place.run("clearml", "send", run)
    assert sent.code == 0, sent.err
    (task,) = server.tasks()
    assert [step for step, _ in scalars(server, task["id"], "train", "loss")] == [1, 2, 3, 4]
    assert task["status"] == "completed"


def test_a_resumed_run_keeps_its_task_through_times_without_the_server_and_through_sending(
    tracked: Place, clearml_server: ClearMLServer
) -> None:
    """Three lives of one run: without a server and sent afterwards, without one again, and with it."""
    elsewhere = no_server(tracked)
    online = tracked.more
    tracked.more = elsewhere
    first = tracked.run(*SMALL, "--name", "lives", "--set=training.max_steps=2")
    assert first.code == 0, first.err
    run = tracked.folder / "runs" / "lives"
    tracked.more = online
    assert tracked.run("clearml", "send", run).code == 0
    (task,) = clearml_server.tasks()
    for more, steps in ((elsewhere, 4), (online, 6)):
        tracked.more = more
        again = tracked.run("train", "--resume", run, f"--set=training.max_steps={steps}")
        assert again.code == 0, again.err
        assert record_of(run)["trackers"]["clearml"]["task"] == task["id"]
    assert [one["id"] for one in clearml_server.tasks()] == [task["id"]]
    assert [step for step, _ in scalars(clearml_server, task["id"], "train", "loss")] == [1, 2, 3, 4, 5, 6]
