"""Delivery to ClearML beside the training: with a server, without one, and with one that fails in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import IMPORT_ROOTS
from delivery_tools import Bench, bench, quick, report_losses, wait_for
from detloom_integrations.clearml import delivery as module
from detloom_integrations.clearml import events
from detloom_integrations.clearml.spool import Spool
from detloom_integrations.clearml.uploads import Upload

__all__ = ["bench", "quick"]


# ---- numbers ----------------------------------------------------------------------------------------------------


def test_numbers_arrive_once_and_in_their_order(bench: Bench) -> None:
    delivery = bench.delivery()
    report_losses(delivery, range(2500))
    report = delivery.close()
    assert (report.flushed, report.dropped, report.waiting, report.error) == (2500, 0, 0, "")
    assert bench.steps() == list(range(2500))
    assert [path.name for path in (bench.folder / "clearml").iterdir()] == ["task.json"]


def test_after_an_outage_everything_arrives_once_and_in_its_order(bench: Bench, quick: None) -> None:
    delivery = bench.delivery()
    report_losses(delivery, range(50))
    wait_for(lambda: len(bench.steps()) == 50)
    bench.double.fault("*", status=503)
    report_losses(delivery, range(50, 150))
    wait_for(lambda: bench.double.fault_hits("*") >= 3)
    assert bench.steps() == list(range(50))
    bench.double.clear_faults()
    report_losses(delivery, range(150, 200))
    report = delivery.close()
    assert bench.steps() == list(range(200))
    assert (report.flushed, report.dropped, report.waiting) == (200, 0, 0)


def test_a_server_that_stays_away_holds_the_end_for_the_stated_time_and_loses_nothing(
    bench: Bench, quick: None
) -> None:
    bench.double.fault("*", status=503)
    delivery = bench.delivery(close_timeout=2.0)
    report_losses(delivery, range(300))
    delivery.upload(Upload("artifact", "report", str(bench.file("report.html"))))
    start = time.monotonic()
    report = delivery.close()
    assert time.monotonic() - start < 8.0
    assert (report.flushed, report.dropped, report.waiting) == (0, 0, 301)
    assert "detloom clearml send" in report.error
    assert "503" in report.error
    assert Spool(bench.folder / "clearml" / "spool.jsonl", 1 << 30).waiting == 300


def test_the_next_process_of_the_run_delivers_what_the_last_one_could_not(bench: Bench, quick: None) -> None:
    bench.double.fault("*", status=503)
    first = bench.delivery(close_timeout=0.5)
    report_losses(first, range(100))
    first.close()
    bench.double.clear_faults()
    second = bench.delivery()
    report_losses(second, range(100, 120))
    assert second.close().flushed == 120
    assert bench.steps() == list(range(120))


def test_a_token_that_expires_in_mid_run_is_renewed(bench: Bench, quick: None) -> None:
    delivery = bench.delivery()
    report_losses(delivery, range(10))
    wait_for(lambda: len(bench.steps()) == 10)
    bench.double.expire_tokens()
    report_losses(delivery, range(10, 20))
    delivery.upload(Upload("artifact", "report", str(bench.file("report.html"))))
    assert delivery.close().flushed == 21
    assert bench.steps() == list(range(20))


def test_an_event_that_the_server_refuses_costs_itself_only(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    delivery = bench.delivery()
    for step in range(3):
        delivery.report(lambda step=step: [{"type": "nonsense", "iter": step}])
    report_losses(delivery, range(10))
    report = delivery.close()
    assert (report.flushed, report.dropped, report.waiting) == (10, 3, 0)
    assert bench.steps() == list(range(10))
    assert "nonsense" in report.error
    assert sum("nonsense" in record.message for record in caplog.records) == 1


def test_a_batch_that_is_refused_as_a_whole_is_sent_in_parts(bench: Bench) -> None:
    bench.double.fault("events.add_batch", status=413, times=3)
    delivery = bench.delivery()
    report_losses(delivery, range(64))
    assert delivery.close().flushed == 64
    assert bench.steps() == list(range(64))


def test_a_task_that_is_gone_makes_everything_wait(bench: Bench, quick: None) -> None:
    bench.double.call("tasks.delete", task=bench.task, force=True)
    delivery = bench.delivery(close_timeout=1.0)
    report_losses(delivery, range(10))
    report = delivery.close()
    assert (report.flushed, report.dropped, report.waiting) == (0, 0, 10)
    assert bench.task in report.error


def test_without_a_server_everything_waits_in_the_folder(bench: Bench) -> None:
    delivery = bench.delivery(online=False)
    report_losses(delivery, range(20))
    report = delivery.close()
    assert (report.flushed, report.dropped, report.waiting) == (0, 0, 20)
    record = json.loads((bench.folder / "clearml" / "task.json").read_text(encoding="utf-8"))
    assert (record["task"], record["name"], record["tags"]) == ("", "offline run", ["blood", "tiny"])


def test_a_run_that_goes_on_without_the_server_keeps_its_task(bench: Bench) -> None:
    bench.delivery().close()
    bench.delivery(online=False).close()
    record = json.loads((bench.folder / "clearml" / "task.json").read_text(encoding="utf-8"))
    assert record["task"] == bench.task


def test_what_does_not_fit_into_the_spool_is_counted_to_the_last(bench: Bench) -> None:
    delivery = bench.delivery(online=False, limit_bytes=20_000)
    report_losses(delivery, range(1000))
    report = delivery.close()
    spool = Spool(bench.folder / "clearml" / "spool.jsonl", 1 << 30)
    kept = [entry.record["iter"] for entry in spool.peek(2000)]
    assert 0 < len(kept) < 1000
    assert kept == list(range(len(kept)))
    assert (report.waiting, report.dropped) == (len(kept), 1000 - len(kept))
    assert (bench.folder / "clearml" / "spool.jsonl").stat().st_size <= 20_000
    assert "spool_mb" in report.error


def test_what_does_not_fit_into_memory_is_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_LENGTH", 10)
    monkeypatch.setattr(module, "WRITE_INTERVAL_S", 60.0)
    delivery = bench.delivery(online=False)
    report_losses(delivery, range(15))
    report = delivery.close()
    assert (report.waiting, report.dropped) == (10, 5)


def test_a_report_that_cannot_be_read_does_not_stop_the_others(bench: Bench) -> None:
    delivery = bench.delivery()
    delivery.report(events.scalars, {"train/loss": "much"}, 1, 0.0, records=1)
    delivery.report(lambda: [{"type": "log", "msg": object()}])
    report_losses(delivery, range(5))
    report = delivery.close()
    assert bench.steps() == list(range(5))
    assert (report.flushed, report.dropped, report.waiting) == (5, 2, 0)


def test_a_report_after_the_end_is_counted_as_lost_and_closing_twice_changes_nothing(bench: Bench) -> None:
    delivery = bench.delivery()
    report_losses(delivery, range(3))
    first = delivery.close()
    report_losses(delivery, range(3))
    assert delivery.close() == first
    assert bench.steps() == [0, 1, 2]


KILLED = """
import sys, time
from pathlib import Path
from detloom_integrations.clearml import events
from detloom_integrations.clearml.delivery import Delivery
delivery = Delivery(None, None, Path(sys.argv[1]), record={"name": "killed"})
for step in range(10**9):
    delivery.report(events.scalars, {"train/loss": 1.0}, step, time.time())
    print(step, flush=True)
    time.sleep(0.002)
"""


def test_a_process_that_is_killed_leaves_a_whole_spool_and_loses_about_a_second(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(IMPORT_ROOTS)}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    times: list[float] = []
    while len(times) < 2 or times[-1] - times[0] < 3.5:
        assert process.stdout.readline()
        times.append(time.monotonic())
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait(10)
    spool = Spool(tmp_path / "clearml" / "spool.jsonl", 1 << 30)
    steps = [entry.record["iter"] for entry in spool.peek(1 << 20, 1 << 30)]
    assert steps == list(range(len(steps)))
    missing = [moment for moment in times[len(steps) :] if moment < times[-1] - 2.5]
    assert missing == []


def test_an_outage_costs_the_training_thread_less_than_a_hundredth_of_its_time(bench: Bench) -> None:
    bench.double.fault("*", status=503)
    delivery = bench.delivery(close_timeout=1.0)
    logger = bench.logger(delivery)
    picture = bench.file("picture.jpg")
    values = {f"train/{name}": 0.5 for name in ("loss", "box", "obj", "cls", "l1", "lr", "grad_norm", "images_per_s")}
    spent, start = 0.0, time.perf_counter()
    for step in range(100):
        time.sleep(0.03)  # a training step is longer than that
        before = time.perf_counter()
        logger.scalars(values, step, 0)
        if step % 25 == 0:
            logger.image(f"val/{step}.jpg", picture, step)
            delivery.checkpoint("last", picture, step)
        spent += time.perf_counter() - before
    share = spent / (time.perf_counter() - start)
    delivery.close()
    assert share < 0.01


# ---- the logger -------------------------------------------------------------------------------------------------


def test_the_logger_says_what_really_arrived(bench: Bench) -> None:
    logger = bench.logger(bench.delivery())
    logger.scalars({"train/loss": 1.0, "val/AP": 0.5, "val/AP/RBC": 0.25}, 10, 0)
    logger.plot("val/PR", {"RBC": [(0.0, 1.0)]}, 10)
    logger.table("val/classes", ["class"], [["RBC"]], 10)
    logger.close("completed")
    assert logger.delivered() == (6, 0, "")
    assert bench.steps("val/AP", "RBC") == [10]
    assert bench.steps("Summary", "val/AP") == [-2147483648]
    assert [event["variant"] for event in bench.double.events(bench.task, "plot")] == ["PR", "classes"]
