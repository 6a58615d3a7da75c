"""A run and its task: modes, abort, resume, another machine, several processes, and what each setting does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from clearml_tools import ClearMLServer
from conftest import ROOT
from data_tools import sound_data
from processes import Place, ended, environment

SMALL = [
    *("train", "shapes", "--model", "yolox-nano", "--weights", "none", "--resolution", "64", "--batch-size", "2"),
    *("--set", "data.num_workers=0", "--set", "export.format=[]", "--set", "validation.pictures=0"),
    *("--set", "experiment.clearml.resource_monitoring=false", "--set", "experiment.logging.log_interval=1"),
]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    sound_data(tmp_path / "shapes")
    return Place(tmp_path, tmp_path / "cache")


@pytest.fixture
def tracked(place: Place, clearml_server: ClearMLServer) -> Place:
    place.more = clearml_server.environ()
    return place


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


def settings(**values: object) -> list[str]:
    return [f"--set=experiment.clearml.{name}={value}" for name, value in values.items()]


def scalars(server: ClearMLServer, task: str, metric: str, variant: str) -> list[tuple[int, float]]:
    events = server.events(task, "training_stats_scalar")
    return [(e["iter"], e["value"]) for e in events if (e["metric"], e["variant"]) == (metric, variant)]


def wait_for_task(server: ClearMLServer, process: subprocess.Popen[str], name: str) -> str:
    """Until the run of this name reports numbers."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for task in server.tasks():
            if task["name"] == name and server.events(task["id"], "training_stats_scalar"):
                return str(task["id"])
        time.sleep(0.2)
    raise AssertionError("the run reported nothing: " + "".join(process.communicate()))


# ---- what a task holds ------------------------------------------------------------------------------------------


def test_a_run_stands_on_the_server_with_all_that_it_reported(tracked: Place, clearml_server: ClearMLServer) -> None:
    done = tracked.run(
        *SMALL,
        "--epochs",
        "2",
        "--tags",
        "one",
        "two",
        "--set=validation.pictures=2",
        "--set=export.format=onnx",
        "--set=export.tolerance=1",
    )
    assert done.code == 0, done.err
    (task,) = clearml_server.tasks()
    run = next((tracked.folder / "runs").iterdir())
    record = record_of(run)
    assert (task["name"], task["status"], task["type"]) == (run.name, "completed", "training")
    assert set(task["tags"]) == {"one", "two"}
    assert record["trackers"]["clearml"]["task"] == task["id"] and task["id"] in record["trackers"]["clearml"]["url"]
    told = next(row for row in record["loggers"] if row["name"] == "clearml")
    assert told["dropped"] == 0 and told["error"] == ""

    # Every number of the run's own record, at the steps where it was taken.
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "epoch/time_s" not in row]
    for name, told_in in (("train/loss", steps), ("train/lr", steps), ("val/AP50", rows), ("val/AP/cat", rows)):
        title, _, series = name.rpartition("/")
        expected = [(row["step"], row[name]) for row in told_in if name in row]
        assert expected and scalars(clearml_server, task["id"], title, series) == expected, name
    plots = {event["metric"] for event in clearml_server.events(task["id"], "plot")}
    assert {"val"} <= plots
    pictures = clearml_server.events(task["id"], "training_debug_image")
    assert len(pictures) == 2
    assert all(clearml_server.file(event["url"]).read_bytes()[:2] == b"\xff\xd8" for event in pictures)
    assert clearml_server.artifact(task["id"], "report").read_bytes() == (run / "report.html").read_bytes()

    models = {entry["name"]: entry["model"] for entry in task["models"]["output"]}
    assert set(models) == {"best", "onnx"} and clearml_server.artifact(task["id"], "exports/onnx.json").is_file()
    best = clearml_server.state()["model"][models["best"]]
    assert clearml_server.file(best["uri"]).read_bytes() == (run / "checkpoints" / "best.pt").read_bytes()
    assert best["labels"] == {"cat": 0, "dog": 1} and best["ready"] is False
    assert "epoch 2/2" in clearml_server.console(task["id"])


def test_without_clearml_configured_nothing_of_it_is_imported(place: Place) -> None:
    probe = (
        "import sys; from detloom.cli import main; code = main(sys.argv[1:]); "
        "print('IMPORTED', sorted(n for n in sys.modules if n.partition('.')[0] == 'clearml')); sys.exit(code)"
    )
    command = [sys.executable, "-c", probe, *SMALL, "--set", "training.max_steps=1"]
    done = subprocess.run(
        command, cwd=place.folder, env=environment(place.cache), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "IMPORTED []" in done.stdout
    assert not list((place.folder / "runs").glob("*/clearml"))


def test_the_task_knows_the_weights_it_began_with_and_the_models_descend_from_them(
    tracked: Place, clearml_server: ClearMLServer
) -> None:
    first = tracked.run(*SMALL, "--set=training.max_steps=1", "--name", "first")
    assert first.code == 0, first.err
    weights = tracked.folder / "runs" / "first" / "checkpoints" / "best.pt"
    for name in ("second", "third"):
        done = tracked.run(*SMALL, "--set=training.max_steps=1", "--weights", weights, "--name", name)
        assert done.code == 0, done.err
    state = clearml_server.state()
    inputs = [[entry["model"] for entry in task["models"]["input"]] for task in clearml_server.tasks()]
    assert inputs[0] == [] and len(inputs[1]) == 1 and inputs[1] == inputs[2]
    assert state["model"][inputs[1][0]]["uri"] == weights.as_uri()
    outputs = [task["models"]["output"][0]["model"] for task in clearml_server.tasks()]
    assert [state["model"][model].get("parent") for model in outputs[1:]] == [inputs[1][0]] * 2


# ---- modes ------------------------------------------------------------------------------------------------------


def no_server(place: Place) -> dict[str, str]:
    """Configured, but nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "CLEARML_API_HOST": f"http://127.0.0.1:{port}",
        "CLEARML_API_ACCESS_KEY": "key",
        "CLEARML_API_SECRET_KEY": "secret",
        "HOME": str(place.folder),
    }


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


def test_names_that_the_server_would_refuse_are_refused_first(tracked: Place, clearml_server: ClearMLServer) -> None:
    done = tracked.run(*SMALL, "--epochs", "1", "--name", "ab", "--project-name", "x")
    assert done.code == 2 and "experiment.name" in done.err and "experiment.project" in done.err
    assert clearml_server.tasks() == [] and not (tracked.folder / "runs").exists()


@pytest.mark.parametrize("mode", ["required", "offline"])
def test_a_secret_in_a_value_is_refused_and_neither_shown_nor_kept(
    mode: str, tracked: Place, clearml_server: ClearMLServer
) -> None:
    done = tracked.run(*SMALL, *settings(mode=mode, output_uri="https://me:hunter2@127.0.0.1:1/store"))
    assert done.code == 2
    assert "experiment.clearml.output_uri: holds an address with a password" in done.err
    assert "hunter2" not in done.err and clearml_server.tasks() == [] and not (tracked.folder / "runs").exists()


# ---- abort, resume, another machine -----------------------------------------------------------------------------


def test_an_aborted_run_leaves_its_state_and_goes_on_anywhere_as_if_nothing_had_happened(
    tracked: Place, clearml_server: ClearMLServer
) -> None:
    length = ["--epochs", "12", "--set", "validation.interval=6"]
    alone = tracked.run(*SMALL, *length, "--no-clearml", "--name", "undisturbed")
    assert alone.code == 0, alone.err

    process = tracked.start(*SMALL, *length, "--name", "aborted")
    task = wait_for_task(clearml_server, process, "aborted")
    clearml_server.stop(task)
    ended(process)
    run = tracked.folder / "runs" / "aborted"
    stopped = clearml_server.task(task)
    assert stopped["status"] == "stopped"
    record = record_of(run)
    assert record["status"] == "interrupted" and 0 < torch.load(run / "checkpoints" / "last.pt")["step"] < 24
    kept = {entry["name"]: clearml_server.state()["model"][entry["model"]] for entry in stopped["models"]["output"]}
    last = (run / "checkpoints" / "last.pt").read_bytes()
    assert clearml_server.file(kept["last"]["uri"]).read_bytes() == last

    # The same task once more, by an agent on a machine that has nothing of it but the data.
    elsewhere = Place(tracked.folder / "elsewhere", tracked.cache, clearml_server.environ(CLEARML_TASK_ID=task))
    sound_data(elsewhere.folder / "shapes")
    clearml_server.enqueue(task)
    continued = elsewhere.run()
    assert continued.code == 0, continued.err
    other = elsewhere.folder / "runs" / "aborted"
    steps = [step for step, _ in scalars(clearml_server, task, "train", "loss")]
    assert sorted(set(steps)) == list(range(1, 25)), "an offset, or a gap, or steps again"

    # And on the first machine, by hand.
    tracked.more = clearml_server.environ()
    resumed = tracked.run("train", "--resume", run)
    assert resumed.code == 0, resumed.err
    assert [one["id"] for one in clearml_server.tasks()] == [task], "a resumed run continues its own task"

    weights = [
        torch.load(folder / "checkpoints" / "last.pt")["training"]["model"]
        for folder in (tracked.folder / "runs" / "undisturbed", other, run)
    ]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]) and torch.equal(tensor, weights[2][name]), name


def test_an_edit_that_would_make_a_requeued_task_another_run_is_refused(
    tracked: Place, clearml_server: ClearMLServer
) -> None:
    process = tracked.start(*SMALL, "--epochs", "2000", "--name", "changed")
    task = wait_for_task(clearml_server, process, "changed")
    clearml_server.stop(task)
    ended(process)
    clearml_server.edit(task, {"training/batch_size": "4"})
    clearml_server.enqueue(task)
    tracked.more = clearml_server.environ(CLEARML_TASK_ID=task)
    again = tracked.run()
    assert again.code == 2
    told = clearml_server.task(task)
    assert (
        told["status"] == "failed"
        and "training.batch_size (task parameter training/batch_size)" in told["status_message"]
    )
    assert "4 would make it another run; it was 2" in told["status_message"]


# ---- several processes ------------------------------------------------------------------------------------------

RANKS = """
import sys
from pathlib import Path

import torch
from torch import distributed

from detloom.config import mapping_layer, resolve
from detloom.distributed import rank
from detloom.host import discover
from detloom.specs import LoggerContext, LoggerSpec
from detloom.tracking import chosen_loggers, connected, opened, settings_of_logger

distributed.init_process_group("gloo")
host = discover()
values = {"training.lr": 0.5 if rank() == 0 else 0.1, "experiment.name": "in two", "data.local.path": "shapes"}
resolved = resolve(host, [mapping_layer({**values, "experiment.clearml.resource_monitoring": False})])
with opened(resolved, host) as trackers:
    resolved = connected(resolved, trackers, host, identities={}, command="test")
    assert resolved.config.training.lr == 0.5, "every process has what rank 0 settled"
    if rank() == 0:
        run = Path("run")
        run.mkdir()
        torch.save({"weight": torch.zeros(1)}, run / "best.pt")
        (tracker,) = trackers.values()
        context = LoggerContext(run, "in two", 1, 1, tracker=tracker)
        (spec,) = [spec for spec in chosen_loggers(resolved, host) if spec.name == "clearml"]
        logger = spec.build(settings_of_logger(spec, resolved, host), context)
        logger.scalars({"train/loss": 1.0}, 1, 0)
        logger.model("best", run / "best.pt", {"val/AP": 0.5}, {"cat": 0})
        logger.close("completed")
    else:
        assert not trackers and "clearml" not in sys.modules
    distributed.barrier()
distributed.destroy_process_group()
"""


def test_of_two_processes_one_talks_and_both_know_what_was_settled(
    tracked: Place, clearml_server: ClearMLServer
) -> None:
    script = tracked.folder / "ranks.py"
    script.write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        command,
        cwd=tracked.folder,
        env=environment(tracked.cache, tracked.more),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (task,) = clearml_server.tasks()
    assert task["name"] == "in two" and task["status"] == "completed"
    assert len(clearml_server.models()) == 1 and scalars(clearml_server, task["id"], "train", "loss") == [(1, 1.0)]
    assert clearml_server.parameters(task["id"])["training/lr"] == "0.5"


def test_a_training_of_several_processes_is_refused_before_any_work(place: Place) -> None:
    place.more = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    done = place.run(*SMALL, "--epochs", "1")
    assert done.code == 2 and "process 1 of 2" in done.err and not (place.folder / "runs").exists()


# ---- settings ---------------------------------------------------------------------------------------------------


def test_files_go_where_output_uri_says_and_the_console_only_when_wanted(
    tracked: Place, clearml_server: ClearMLServer
) -> None:
    store = tracked.folder / "store"
    store.mkdir()
    done = tracked.run(*SMALL, "--set=training.max_steps=1", *settings(output_uri=store, console="false"))
    assert done.code == 0, done.err
    (task,) = clearml_server.tasks()
    (model,) = clearml_server.models()
    assert str(store) in model["uri"] and list(store.rglob("best.pt")) and list(store.rglob("report.html"))
    assert not list(clearml_server.files_dir.rglob("best*.pt"))
    assert "epoch 1/1" not in clearml_server.console(task["id"])


def test_the_use_of_the_machine_is_reported_when_wanted(tracked: Place, clearml_server: ClearMLServer) -> None:
    (clearml_server.home / "empty.conf").write_text("sdk.development.worker.report_period_sec: 1")
    for wanted in ("true", "false"):
        done = tracked.run(*SMALL[:-4], *SMALL[-2:], "--epochs", "3", *settings(resource_monitoring=wanted))
        assert done.code == 0, done.err
    said = ["ClearML Monitor" in clearml_server.console(task["id"]) for task in clearml_server.tasks()]
    assert said == [True, False]


def test_the_state_goes_up_every_so_many_epochs(tracked: Place, clearml_server: ClearMLServer) -> None:
    done = tracked.run(*SMALL, "--epochs", "4", *settings(checkpoint_interval=2))
    assert done.code == 0, done.err
    (task,) = clearml_server.tasks()
    assert {entry["name"] for entry in task["models"]["output"]} == {"best", "last"}
    done = tracked.run(*SMALL, "--epochs", "4", *settings(checkpoint_interval=9))
    assert {entry["name"] for entry in clearml_server.tasks()[-1]["models"]["output"]} == {"best"}


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


def test_the_checkout_that_runs_is_not_named_by_its_folder_alone(tracked: Place, clearml_server: ClearMLServer) -> None:
    """What an agent would need stands on the task of a local run too."""
    done = tracked.run(*SMALL, "--set=training.max_steps=1")
    assert done.code == 0, done.err
    script = clearml_server.tasks()[0]["script"]
    assert script["entry_point"] == "run_training.py" and "torch==" in script["requirements"]["pip"]
    assert "detloom" not in script["requirements"]["pip"] and os.fspath(ROOT) not in script["repository"]


# ---- outages ----------------------------------------------------------------------------------------------------


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


STOPPED_AFTER_THE_CONNECTION = """
import sys, time
from pathlib import Path

from detloom.cli import main
from detloom_integrations.clearml.server import Server

call = Server.call


def until_told(self, action, /, **body):
    answer = call(self, action, **body)
    if "hyperparams" in body and not Path("connected").exists():
        Path("connected").touch()
        while not Path("go").exists():
            time.sleep(0.05)
    return answer


Server.call = until_told
sys.exit(main(sys.argv[1:]))
"""


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


LONG_END = """
import sys, time

import detloom.run
from detloom.cli import main

detloom.run.finish_run = lambda *arguments: time.sleep(600)
sys.exit(main(sys.argv[1:]))
"""


def test_an_abort_in_a_final_evaluation_that_takes_too_long_leaves_the_state_on_the_server(
    tracked: Place, clearml_server: ClearMLServer
) -> None:
    script = tracked.folder / "long.py"
    script.write_text(LONG_END)
    process = tracked.start(*SMALL, "--epochs", "1", "--name", "long", *settings(close_timeout=4), script=script)
    last = tracked.folder / "runs" / "long" / "checkpoints" / "last.pt"
    while not last.exists() and process.poll() is None:
        time.sleep(0.1)
    task = wait_for_task(clearml_server, process, "long")
    clearml_server.stop(task)
    done = ended(process)
    assert done.code == -signal.SIGKILL and "Traceback" not in done.err
    stopped = clearml_server.task(task)
    kept = {entry["name"]: clearml_server.state()["model"][entry["model"]] for entry in stopped["models"]["output"]}
    assert stopped["status"] == "stopped"
    assert clearml_server.file(kept["last"]["uri"]).read_bytes() == last.read_bytes()


def test_sigterm_before_the_first_step_ends_the_task_too(tracked: Place, clearml_server: ClearMLServer) -> None:
    script = tracked.folder / "stopped.py"
    script.write_text(STOPPED_AFTER_THE_CONNECTION)
    process = tracked.start(*SMALL, "--epochs", "1", script=script)
    while not (tracked.folder / "connected").exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert done.code == 130, done.err
    (task,) = clearml_server.tasks()
    assert (task["status"], task["status_message"]) == ("stopped", "interrupted")


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


TWO_RUNS = """
import sys

from clearml import Task

from detloom.config import mapping_layer, resolve
from detloom.errors import DetloomError
from detloom.host import discover
from detloom.run import train_run

host = discover()
values = {
    "data.local.path": "shapes", "model.type": "yolox-nano", "model.pretrain_weights": "none",
    "training.resolution": 64, "training.batch_size": 2, "training.max_steps": 1, "data.num_workers": 2,
    "export.format": [], "validation.pictures": 0, "experiment.clearml.resource_monitoring": False,
}


def go(name, **more):
    try:
        train_run(resolve(host, [mapping_layer({**values, "experiment.name": name, **more})]), host)
    except DetloomError as error:
        print("REFUSED", error.message)


own = Task.init("mine", "my own notebook", auto_connect_frameworks=False)
go("too soon")
assert Task.current_task() is own
own.close()
go("broken", **{"data.local.path": "nowhere"})
go("first run")
go("second run")
"""


def test_runs_of_one_process_have_a_task_each_and_never_that_of_their_program(
    tracked: Place, clearml_server: ClearMLServer
) -> None:
    script = tracked.folder / "two.py"
    script.write_text(TWO_RUNS)
    done = tracked.run(script=script)
    assert done.code == 0, done.err
    assert "REFUSED this process has a ClearML task of its own already: my own notebook" in done.out
    ends = {task["name"]: (task["status"], task["status_message"]) for task in clearml_server.tasks()}
    assert ends.pop("my own notebook")[0] == "completed"
    assert ends == {
        "broken": ("failed", "nowhere does not exist"),
        "first run": ("completed", ""),
        "second run": ("completed", ""),
    }
