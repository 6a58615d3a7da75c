"""Files on their way to ClearML beside the training: artifacts, models, checkpoints, pictures."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from delivery_tools import Bench, bench, quick, report_losses, wait_for
from detloom_integrations.clearml import delivery as module
from detloom_integrations.clearml.uploads import Upload

__all__ = ["bench", "quick"]


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


def test_a_storage_that_fails_is_said_without_the_password_in_its_address(
    bench: Bench, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as one that stands on the task as its destination, or in clearml.conf."""
    address = "s3://somebody:hunter2secret@127.0.0.1:9/bucket"
    delivery = module.Delivery(bench.server, bench.task, bench.folder, output_uri=address, close_timeout=1.0)
    delivery.upload(Upload("artifact", "notes", str(bench.file("notes.txt"))))
    wait_for(lambda: "notes.txt could not be stored at s3://***@127.0.0.1:9/bucket" in caplog.text)
    report = delivery.close()
    assert report.waiting == 1 and "s3://***@127.0.0.1:9/bucket" in report.error
    said = [record.getMessage() for record in caplog.records if record.name == "detloom"]
    assert not any("hunter2secret" in text for text in [*said, report.error])


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
