"""Loggers, and the front that keeps their faults away from a run."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from detloom.data.summary import log_data
from detloom.drawing import save_jpeg
from detloom.errors import PluginError
from detloom.evaluate import cells_of
from detloom.finish import log_evaluation
from detloom.logging_fanout import LoggerFanout
from detloom.specs import Logger, LoggerContext, LoggerSpec, no_settings
from detloom_plugins.loggers import console, jsonl, tensorboard
from detloom_plugins.loggers.console.printer import ConsoleLogger, duration
from detloom_schemas.run_files import DataRecord, SplitEvaluation

STEP = {
    "train/loss": 4.25, "train/box": 2.5, "train/cls": 1.75, "train/lr": 1e-3, "train/grad_norm": 9.0,
    "train/images_per_s": 52.4, "train/data_wait": 0.031, "train/memory_mb": 1228.8,
}  # fmt: skip


def context(folder: Path, *, steps: int = 100, epochs: int = 10, resume_step: int = 0) -> LoggerContext:
    return LoggerContext(folder, "a-run", steps, epochs, resume_step=resume_step)


def epoch(ap: float, ap50: float = 0.5) -> dict[str, float]:
    return {**STEP, "val/AP": ap, "val/AP50": ap50, "val/AP/cat": ap, "epoch/time_s": 7.4}


class Recorder:
    """A logger that keeps its calls and fails in the ones it is told to."""

    def __init__(self, failing: tuple[str, ...] = (), failures: float = math.inf) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.failing, self.failures = failing, failures

    def _take(self, name: str, *arguments: object) -> None:
        if name in self.failing and self.failures > 0:
            self.failures -= 1
            raise ConnectionError("no route to host")
        self.calls.append((name, *arguments))

    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        self._take("scalars", dict(values), step, epoch)

    def plot(self, name: str, series: Any, step: int) -> None:
        self._take("plot", name, series, step)

    def image(self, name: str, path: Path, step: int) -> None:
        self._take("image", name, path, step)

    def table(self, name: str, header: Any, rows: Any, step: int) -> None:
        self._take("table", name, header, rows, step)

    def artifact(self, name: str, path: Path) -> None:
        self._take("artifact", name, path)

    def model(self, name: str, path: Path, metrics: Any, labels: Any) -> None:
        self._take("model", name, path, metrics, labels)

    def close(self, status: str) -> None:
        self._take("close", status)


def make_every_call(logger: Logger, picture: Path) -> None:
    logger.scalars({"train/loss": 1.0}, 1, 0)
    logger.plot("pr/val", {"cat": [(0.0, 1.0), (1.0, 0.2)]}, 1)
    logger.image("val/good", picture, 1)
    logger.table("per class", ("class", "AP"), [("a|b", 0.25), ("c", None)], 1)
    logger.artifact("report", picture)
    logger.model("best", picture, {"AP": 0.5}, {"cat": 0})


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    save_jpeg(np.full((40, 60, 3), 90, dtype=np.uint8), tmp_path / "picture.jpg")
    return tmp_path / "picture.jpg"


# The front


def test_every_call_reaches_every_logger(picture: Path) -> None:
    first, second = Recorder(), Recorder()
    fanout = LoggerFanout([("one", first), ("two", second)])
    make_every_call(fanout, picture)
    fanout.close("completed")
    assert first.calls == second.calls
    assert [call[0] for call in first.calls] == ["scalars", "plot", "image", "table", "artifact", "model", "close"]
    assert [(s["flushed"], s["dropped"]) for s in fanout.summary()] == [(6, 0), (6, 0)]


def test_a_logger_that_raises_is_named_once_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = Recorder(failing=("scalars",)), Recorder()
    fanout = LoggerFanout([("plugins.broken", broken), ("sound", sound)])
    with caplog.at_level(logging.WARNING):
        for step in range(10):
            fanout.scalars({"train/loss": 1.0}, step, 0)
        fanout.close("completed")
    assert len(sound.calls) == 11
    assert fanout.summary()[0] == {
        "name": "plugins.broken", "flushed": 0, "dropped": 10, "error": "scalars: ConnectionError: no route to host",
    }  # fmt: skip
    failed = [r.getMessage() for r in caplog.records if "failed" in r.getMessage()]
    assert failed == ["logger plugins.broken failed in scalars: ConnectionError: no route to host; the run goes on"]
    assert any("switched off after 3 failures" in r.getMessage() for r in caplog.records)
    assert broken.calls == [("close", "completed")], "a switched-off logger is closed all the same"


def test_a_logger_that_recovers_stays_on() -> None:
    shaky = Recorder(failing=("scalars",), failures=2)
    fanout = LoggerFanout([("shaky", shaky)])
    for step in range(5):
        fanout.scalars({}, step, 0)
    assert [call[2] for call in shaky.calls] == [2, 3, 4]
    assert (fanout.summary()[0]["flushed"], fanout.summary()[0]["dropped"]) == (3, 2)


def test_a_logger_that_fails_to_close_does_not_keep_the_others_open() -> None:
    last = Recorder()
    LoggerFanout([("bad", Recorder(failing=("close",))), ("last", last)]).close("failed")
    assert last.calls == [("close", "failed")]


def test_ctrl_c_inside_a_logger_is_not_swallowed() -> None:
    class Interrupted(Recorder):
        def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LoggerFanout([("x", Interrupted())]).scalars({}, 0, 0)


def test_three_loggers_cost_less_than_a_millisecond_a_record(tmp_path: Path) -> None:
    """One record stands for `log_interval` = 10 steps: 1 ms is the goal of 0.10 ms a step, reached with room to spare
    on a quiet machine. The fastest of several rounds counts: others may be at work here."""
    out = io.StringIO()
    loggers = [
        ("console", ConsoleLogger(context(tmp_path), out)),
        ("jsonl", jsonl.build(no_settings(), context(tmp_path))),
        ("tensorboard", tensorboard.build(no_settings(), context(tmp_path))),
    ]
    fanout = LoggerFanout(loggers)
    rounds = []
    for number in range(5):
        started = time.process_time()
        for step in range(100):
            fanout.scalars(STEP, 100 * number + step, 0)
        rounds.append((time.process_time() - started) / 100)
    fanout.close("completed")
    assert min(rounds) < 1e-3


# What they are handed


def test_loggers_get_the_classes_of_the_data_and_what_the_check_found() -> None:
    record = DataRecord.model_validate(
        {
            "splits": {"train": {}, "val": {}},
            "classes": [{"id": 7, "name": "cat", "objects": {"train": 9, "val": 2}, "images": {"train": 4}}],
            "findings": [{"code": "missing-image", "severity": "error", "message": "m", "where": "a.jpg", "count": 3}],
        }
    )
    logger = Recorder()
    log_data(record, LoggerFanout([("one", logger)]), 5)
    assert logger.calls == [
        ("table", "data/classes", ["class", "id", "train objects", "train images", "val objects", "val images"],
         [["cat", 7, 9, 4, 2, 0]], 5),
        ("table", "data/findings", ["code", "severity", "count", "message", "where", "remedy"],
         [["missing-image", "error", 3, "m", "a.jpg", ""]], 5),
    ]  # fmt: skip
    clean = Recorder()
    log_data(record.model_copy(update={"findings": ()}), LoggerFanout([("one", clean)]), 0)
    assert [call[1] for call in clean.calls] == ["data/classes"], "no table where nothing was found"


def tables_of(classes: int) -> dict[str, tuple[Any, Any]]:
    """What is handed over of a split in which each class is taken once for the one before it, the last one twice."""
    counts = np.diag(np.full(classes + 1, 5)) + np.diag(np.ones(classes, dtype=int), -1)
    counts[classes - 1, classes - 2], counts[classes, classes] = 2, 0
    per_class = [{"index": i, "id": i, "name": f"c{i}"} for i in range(classes)]
    record = SplitEvaluation.model_validate({"per_class": per_class, "confusion": cells_of(counts)})
    evaluated: Any = SimpleNamespace(name="val", confusion=counts)
    logger = Recorder()
    log_evaluation(evaluated, record, LoggerFanout([("one", logger)]), 1)
    return {call[1]: (call[2], call[3]) for call in logger.calls if call[0] == "table"}


def test_loggers_get_the_whole_confusion_matrix() -> None:
    header, rows = tables_of(3)["val/confusion"]
    assert header == ["truth", "c0", "c1", "c2", "missed"]
    assert rows == [["c0", 5, 0, 0, 0], ["c1", 1, 5, 0, 0], ["c2", 0, 2, 5, 0], ["background", 0, 0, 1, 0]]


def test_of_very_many_classes_loggers_get_the_pairs_that_are_confused_most() -> None:
    tables = tables_of(300)
    assert "val/confusion" not in tables
    header, rows = tables["val/confused most"]
    assert header == ["truth", "predicted", "count"] and len(rows) == 200
    assert rows[:2] == [["c299", "c298", 2], ["c1", "c0", 1]]


# Specs


@pytest.mark.parametrize("module", [console, jsonl, tensorboard])
def test_each_plugin_hands_over_one_logger_for_the_current_contract(module: Any) -> None:
    specs = list(module.detloom_loggers())
    assert [type(spec) for spec in specs] == [LoggerSpec]
    assert specs[0].name == module.__name__.rpartition(".")[2]
    assert module.detloom_api == (0, 1)


@pytest.mark.parametrize("name", ["console", "jsonl", "tensorboard"])
def test_every_logger_takes_every_call(name: str, tmp_path: Path, picture: Path) -> None:
    spec = next(iter({"console": console, "jsonl": jsonl, "tensorboard": tensorboard}[name].detloom_loggers()))
    logger = spec.build(spec.settings(), context(tmp_path))
    fanout = LoggerFanout([(name, logger)])
    make_every_call(fanout, picture)
    fanout.close("completed")
    (state,) = fanout.states
    assert (state.dropped, state.error) == (0, "") and state.flushed >= 6


# metrics.jsonl


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_record_is_on_the_disk_before_the_next_call(tmp_path: Path) -> None:
    logger = jsonl.build(no_settings(), context(tmp_path))
    logger.scalars({"train/loss": 1.5}, 10, 0)
    assert lines(tmp_path)[0] | {"time": 0} == {"step": 10, "epoch": 0, "time": 0, "train/loss": 1.5}
    logger.close("completed")


def test_a_number_that_is_none_becomes_null(tmp_path: Path) -> None:
    logger = jsonl.build(no_settings(), context(tmp_path))
    logger.scalars({"val/AP": math.nan, "train/loss": math.inf}, 1, 0)
    logger.close("completed")
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert lines(tmp_path)[0]["val/AP"] is None


def test_after_a_resume_each_step_stands_once(tmp_path: Path) -> None:
    first = jsonl.build(no_settings(), context(tmp_path))
    for step in (10, 20, 30):
        first.scalars({"train/loss": step}, step, 0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "epo')  # the process died here
    first.close("failed")
    second = jsonl.build(no_settings(), context(tmp_path, resume_step=20))
    second.scalars({"train/loss": -30.0}, 30, 0)
    second.close("completed")
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [(10, 10), (20, 20), (30, -30)]


# Console


def console_lines(logger: ConsoleLogger, out: io.StringIO) -> list[str]:
    return out.getvalue().splitlines()


def test_an_epoch_is_one_line_with_everything_in_it(tmp_path: Path) -> None:
    out = io.StringIO()
    logger = ConsoleLogger(context(tmp_path, steps=100, epochs=10), out)
    logger.scalars(STEP, 5, 0)
    logger.scalars(epoch(0.412, 0.731), 10, 0)
    logger.scalars(epoch(0.425, 0.725), 20, 1)
    logger.scalars(epoch(0.4, 0.7), 100, 9)
    first, second, last = console_lines(logger, out)
    for part in (
        "epoch  1/10", "loss 4.25 (box 2.5, cls 1.75)", "lr 1.00e-03", "AP 0.412", "AP50 0.731", "best so far",
        "52.4 images/s", "3% waiting for data", "1.2 GB", "7 s", "ETA",
    ):  # fmt: skip
        assert part in first
    assert "AP 0.425 (+0.013)" in second
    assert "AP50 0.725 (-0.006)" in second
    assert "best so far" in second
    assert "AP 0.400 (-0.025)" in last
    assert "best 0.425 (epoch 2)" in last
    assert "ETA" not in last


def test_a_model_of_masks_is_followed_by_its_masks(tmp_path: Path) -> None:
    out = io.StringIO()
    logger = ConsoleLogger(context(tmp_path, steps=100, epochs=10), out)
    for number, (boxes, masks) in enumerate(((0.5, 0.3), (0.6, 0.2))):
        logger.scalars({**epoch(boxes, 0.8), "val/segm_AP": masks, "val/segm_AP50": 0.7}, 10 * (number + 1), number)
    first, second = out.getvalue().splitlines()
    assert "boxes AP 0.500 AP50 0.800, masks" in first and "AP 0.300" in first and "best so far" in first
    assert "AP 0.200 (-0.100)" in second and "best 0.300 (epoch 1)" in second


def test_an_epoch_without_validation_is_a_line_too(tmp_path: Path) -> None:
    out = io.StringIO()
    ConsoleLogger(context(tmp_path), out).scalars({"train/loss": 2.0, "epoch/time_s": 1.0}, 10, 0)
    assert out.getvalue().startswith("epoch  1/10  loss 2  1 s")


def test_the_time_left_is_that_of_the_steps_of_this_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 60.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    logger = ConsoleLogger(context(tmp_path, steps=100, resume_step=40), out)
    logger.scalars({"epoch/time_s": 60.0}, 50, 4)
    assert "ETA 5:00" in out.getvalue(), "10 steps took 60 s, 50 are left"


def test_a_resumed_run_remembers_its_best(tmp_path: Path) -> None:
    logger = jsonl.build(no_settings(), context(tmp_path))
    logger.scalars(epoch(0.5, 0.8), 10, 0)
    logger.scalars(epoch(0.9, 0.9), 20, 1)
    logger.close("failed")
    out = io.StringIO()
    ConsoleLogger(context(tmp_path, resume_step=10), out).scalars(epoch(0.45, 0.81), 20, 1)
    assert "AP 0.450 (-0.050)" in out.getvalue()
    assert "best 0.500 (epoch 1)" in out.getvalue()


def test_a_pipe_gets_plain_lines_and_a_terminal_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    logger = ConsoleLogger(context(tmp_path), out)
    logger.scalars(STEP, 5, 0)
    assert out.getvalue() == ""
    logger.close("completed")
    assert out.getvalue().startswith("a-run: completed after")
    assert "\x1b" not in out.getvalue()

    from rich.console import Console

    from detloom_plugins.loggers.console import bar

    screen = io.StringIO()
    live = bar.LiveBar(100, 0, Console(file=screen, force_terminal=True, width=100))
    live.advance(50, "epoch 5/10", "loss [4.25]")
    live.say("epoch 5/10 [done]")
    live.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "50%" in text
    assert "loss [4.25]" in text
    assert "epoch 5/10 [done]" in text


def test_a_table_is_aligned_and_a_long_one_is_cut(tmp_path: Path) -> None:
    out = io.StringIO()
    rows = [("cat", 0.25, 3), ("a longer name", None, 12), *((f"class {i}", 0.5, i) for i in range(40))]
    ConsoleLogger(context(tmp_path), out).table("classes", ("class", "AP", "objects"), rows, 1)
    lines = out.getvalue().splitlines()
    assert lines[:4] == [
        "classes",
        "  class          AP     objects",
        "  cat            0.250  3",
        "  a longer name  -      12",
    ]
    assert lines[-1] == "  and 22 more, in the report"
    assert len(lines) == 23


def matrix(classes: int) -> tuple[list[str], list[list[object]]]:
    names = [f"c{i}" for i in range(classes)]
    rows: list[list[object]] = [[name, *[0] * classes, 3] for name in names]
    return ["truth", *names, "missed"], [*rows, ["background", *[1] * classes, 0]]


def test_a_terminal_shows_a_confusion_matrix_that_fits_and_nothing_that_was_said_before(tmp_path: Path) -> None:
    out = io.StringIO()
    logger = ConsoleLogger(context(tmp_path), out)
    logger.table("data/classes", ("class", "id"), [("cat", 1)], 0)
    logger.table("data/findings", ("code",), [("missing-image",)], 0)
    logger.artifact("config", tmp_path / "config.yaml")
    logger.artifact("data", tmp_path / "data.json")
    logger.artifact("exports/onnx.json", tmp_path / "a.onnx.json")
    logger.model("exports/onnx", tmp_path / "a.onnx", {}, {})
    logger.table("val/confusion", *matrix(13), 1)
    assert out.getvalue() == ""
    logger.table("val/confusion", *matrix(12), 1)
    logger.artifact("report", tmp_path / "report.html")
    lines = out.getvalue().splitlines()
    assert lines[0] == "val/confusion" and len(lines) == 16
    assert lines[1].split() == ["truth", *(f"c{i}" for i in range(12)), "missed"]
    assert lines[-1] == f"report: {tmp_path / 'report.html'}"


def test_durations_are_short() -> None:
    assert [duration(s) for s in (0.2, 59, 61, 7384)] == ["0 s", "59 s", "1:01", "2:03:04"]


# TensorBoard, read back by TensorBoard's own reader


def read_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_reads_scalars_pictures_curves_and_tables(tmp_path: Path, picture: Path) -> None:
    logger = tensorboard.build(no_settings(), context(tmp_path))
    make_every_call(logger, picture)
    logger.scalars({"train/loss": 0.5, "val/AP": 0.25}, 2, 0)
    logger.close("completed")
    events = read_events(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    assert [e.value for e in events.Scalars("val/AP")] == [0.25]
    image = events.Images("val/good")[0]
    assert (image.width, image.height, image.encoded_image_string[:2]) == (60, 40, b"\xff\xd8")
    assert events.Images("pr/val")[0].width == 640
    table = events.Tensors("per class/text_summary")[0].tensor_proto.string_val[0].decode()
    assert table.splitlines()[2:] == [r"| a\|b | 0.25 |", "| c | None |"]


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    first = tensorboard.build(no_settings(), context(tmp_path))
    for step in (10, 20, 30):
        first.scalars({"train/loss": step}, step, 0)
    first.close("failed")
    second = tensorboard.build(no_settings(), context(tmp_path, resume_step=20))
    second.scalars({"train/loss": -30}, 30, 0)
    second.close("completed")
    assert [(e.step, e.value) for e in read_events(tmp_path).Scalars("train/loss")] == [(10, 10), (20, 20), (30, -30)]


def test_without_tensorboard_the_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match="pip install tensorboard"):
        tensorboard.build(no_settings(), context(tmp_path))
