"""Delivery to ClearML beside the training: with a server, without one, and with one that fails in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import IMPORT_ROOTS
from delivery_tools import Bench, bench, report_losses
from detloom.errors import UnreachableError
from detloom_integrations.clearml import delivery as module
from detloom_integrations.clearml import events
from detloom_integrations.clearml.server import Server, ServerRefusedError
from detloom_integrations.clearml.spool import Spool
from detloom_integrations.clearml.storage import Storage, StorageError, fetch, plain_key
from detloom_integrations.clearml.uploads import Upload

__all__ = ["bench"]


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.02)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, so that an outage of a second is a long one."""
    monkeypatch.setattr(module, "WRITE_INTERVAL_S", 0.1)
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.5)
    monkeypatch.setattr(module, "CLOSING_PAUSE_S", 0.2)


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


# ---- files ------------------------------------------------------------------------------------------------------


def test_an_artifact_carries_its_size_its_hash_and_a_preview(bench: Bench) -> None:
    import hashlib

    delivery = bench.delivery()
    content = b'{"classes": ["RBC"]}'
    delivery.upload(Upload("artifact", "data manifest", str(bench.file("data.json", content))))
    delivery.upload(Upload("artifact", "predictions/val", str(bench.file("predictions/val.json", b"[]"))))
    assert delivery.close().flushed == 2
    artifacts = {one["key"]: one for one in bench.double.task(bench.task)["execution"]["artifacts"]}
    manifest = artifacts["data manifest"]
    assert manifest["content_size"] == len(content)
    assert manifest["hash"] == hashlib.sha256(content).hexdigest()
    assert manifest["type_data"] == {"content_type": "application/json", "preview": content.decode()}
    assert bench.double.artifact(bench.task, "data manifest").read_bytes() == content
    assert bench.double.artifact(bench.task, "predictions/val").read_bytes() == b"[]"


def test_a_folder_is_uploaded_as_a_zip(bench: Bench) -> None:
    import zipfile

    bench.file("export/model.xml", b"xml")
    bench.file("export/model.bin", b"bin")
    delivery = bench.delivery()
    delivery.upload(Upload("artifact", "openvino", str(bench.folder / "export")))
    assert delivery.close().flushed == 1
    with zipfile.ZipFile(bench.double.artifact(bench.task, "openvino")) as archive:
        assert sorted(archive.namelist()) == ["model.bin", "model.xml"]


def test_the_models_of_a_run_say_their_classes_numbers_tags_and_descent(bench: Bench) -> None:
    delivery = bench.delivery()
    logger = bench.logger(delivery)
    delivery.base_weights("yolox-s", "https://example.org/yolox_s.pth")
    logger.scalars({"train/loss": 1.0}, 40, 1)
    labels = {"RBC": 0, "WBC": 1}
    logger.model("exports/onnx", bench.file("exports/model.onnx", b"onnx"), {"val/AP": 0.5}, labels)
    logger.artifact("exports/onnx.json", bench.file("exports/model.onnx.json", b"{}"))
    logger.model("best", bench.file("checkpoints/best.pt", b"weights"), {"val/AP": 0.5}, labels)
    logger.close("completed")
    assert bench.double.artifact(bench.task, "exports/onnx.json").read_bytes() == b"{}"
    models = bench.models()
    assert set(models) == {"best", "onnx"}
    best, onnx = models["best"], models["onnx"]
    assert (best["framework"], onnx["framework"]) == ("PyTorch", "ONNX")
    assert best["labels"] == onnx["labels"] == {"RBC": 0, "WBC": 1}
    assert (best["tags"], onnx["tags"]) == (["best"], ["export", "onnx"])
    facts = {item["key"]: item["value"] for item in best["metadata"]}
    assert (facts["val/AP"], facts["step"], facts["bytes"]) == ("0.5", "40", "7")
    assert not best["ready"]
    assert bench.double.file(best["uri"]).read_bytes() == b"weights"
    [base] = bench.double.task(bench.task)["models"]["input"]
    assert best["parent"] == base["model"]
    known = {model["id"]: model for model in bench.double.models()}
    assert known[base["model"]]["uri"] == "https://example.org/yolox_s.pth"


def test_runs_that_began_with_the_same_weights_share_one_input_model(bench: Bench) -> None:
    for _ in range(2):
        delivery = bench.delivery()
        delivery.base_weights("yolox-s", "https://example.org/yolox_s.pth")
        delivery.close()
    assert len(bench.double.models()) == 1


def test_of_the_checkpoints_that_wait_only_the_newest_is_sent(bench: Bench, quick: None) -> None:
    bench.double.fault("*", status=503)
    delivery = bench.delivery()
    for step in range(1, 6):
        delivery.checkpoint("last", bench.file("last.pt", b"state %d" % step), step)
    wait_for(lambda: bench.double.fault_hits("*") >= 2)
    bench.double.clear_faults()
    report = delivery.close()
    assert (report.flushed, report.dropped, report.waiting) == (1, 0, 0)
    assert bench.double.requests("models.create") == 1
    assert bench.double.file(bench.models()["last"]["uri"]).read_bytes() == b"state 5"


def test_a_new_state_is_never_written_over_the_one_that_counts(bench: Bench, quick: None) -> None:
    delivery = bench.delivery()
    addresses = []
    for step in range(1, 4):
        delivery.checkpoint("last", bench.file("last.pt", b"state %d" % step), step)
        wait_for(lambda step=step: f"state {step}" in _content(bench))  # type: ignore[misc]
        addresses.append(bench.models()["last"]["uri"])
    delivery.close()
    assert addresses[0] != addresses[1]
    assert addresses[2] == addresses[0]
    assert len(bench.double.models()) == 1


def _content(bench: Bench) -> str:
    model = bench.models().get("last")
    return bench.double.file(model["uri"]).read_text() if model else ""


def test_a_debug_image_stands_with_its_title_series_and_step(bench: Bench) -> None:
    delivery = bench.delivery()
    bench.logger(delivery).image("val/cells 1.jpg", bench.file("pictures/a.jpg", b"jpeg"), 40)
    assert delivery.close().flushed == 1
    [event] = bench.double.events(bench.task, "training_debug_image")
    assert (event["metric"], event["variant"], event["iter"]) == ("val", "cells 1.jpg", 40)
    assert bench.double.file(event["url"]).read_bytes() == b"jpeg"


def test_a_file_that_is_gone_is_said_and_the_others_arrive(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    delivery = bench.delivery()
    delivery.upload(Upload("artifact", "gone", str(bench.folder / "gone.json")))
    delivery.upload(Upload("artifact", "there", str(bench.file("there.json"))))
    report = delivery.close()
    assert (report.flushed, report.dropped, report.waiting) == (1, 1, 0)
    assert "gone.json" in caplog.text


def test_a_file_that_changed_before_its_upload_is_said(
    bench: Bench, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    bench.double.fault("*", status=503)
    delivery = bench.delivery()
    delivery.upload(Upload("artifact", "notes", str(bench.file("notes.txt", b"first"))))
    wait_for(lambda: bench.double.fault_hits("*") >= 1)
    bench.file("notes.txt", b"second version")
    bench.double.clear_faults()
    assert delivery.close().flushed == 1
    assert bench.double.artifact(bench.task, "notes").read_bytes() == b"second version"
    assert "notes.txt has changed since it was reported" in caplog.text


def test_an_upload_that_hangs_does_not_hold_the_numbers_or_the_end(bench: Bench, quick: None) -> None:
    bench.double.fault("files.upload", hang=60.0)
    delivery = bench.delivery(close_timeout=2.0)
    delivery.upload(Upload("artifact", "slow", str(bench.file("slow.bin"))))
    report_losses(delivery, range(20))
    wait_for(lambda: bench.steps() == list(range(20)))
    start = time.monotonic()
    report = delivery.close()
    assert time.monotonic() - start < 8.0
    assert (report.flushed, report.dropped, report.waiting) == (20, 0, 1)


def test_a_storage_that_refuses_for_a_while_gets_the_file_in_the_end(bench: Bench, quick: None) -> None:
    bench.double.fault("files.upload", status=500, times=2)
    delivery = bench.delivery()
    for name in ("one", "two", "three"):
        delivery.upload(Upload("artifact", name, str(bench.file(f"{name}.txt", name.encode()))))
    report = delivery.close()
    assert (report.flushed, report.dropped, report.waiting) == (3, 0, 0)
    for name in ("one", "two", "three"):
        assert bench.double.artifact(bench.task, name).read_bytes() == name.encode()


def test_a_file_goes_where_output_uri_says(bench: Bench, tmp_path: Path) -> None:
    place = tmp_path / "bucket"
    place.mkdir()
    delivery = module.Delivery(bench.server, bench.task, bench.folder, record={}, output_uri=str(place))
    delivery.upload(Upload("artifact", "notes", str(bench.file("notes.txt", b"notes"))))
    assert delivery.close().flushed == 1
    [stored] = [path for path in place.rglob("*") if path.is_file()]
    assert stored.read_bytes() == b"notes"
    [artifact] = bench.double.task(bench.task)["execution"]["artifacts"]
    assert artifact["uri"].endswith(str(stored))


def test_files_that_are_held_up_are_said_once_while_the_numbers_go_on(
    bench: Bench, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    bench.double.fault("files.upload", status=500)
    delivery = bench.delivery()
    delivery.upload(Upload("artifact", "notes", str(bench.file("notes.txt"))))
    for step in range(20):
        report_losses(delivery, range(step, step + 1))
        time.sleep(0.1)
    assert bench.double.fault_hits("files.upload") >= 3
    bench.double.clear_faults()
    assert delivery.close().flushed == 21
    assert sum("files wait" in record.message for record in caplog.records) == 1
    assert sum("takes files again" in record.message for record in caplog.records) == 1
    assert "numbers wait" not in caplog.text


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
