"""A run and its task: what it holds, what is refused, several processes, and what each setting does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from clearml_tools import ClearMLServer
from conftest import ROOT
from processes import Place, environment
from task_tools import SMALL, place, record_of, scalars, settings, tracked

__all__ = ["place", "tracked"]


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


# ---- what is refused --------------------------------------------------------------------------------------------


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
    done = place.call(*SMALL, "--epochs", "1")
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


def test_the_checkout_that_runs_is_not_named_by_its_folder_alone(tracked: Place, clearml_server: ClearMLServer) -> None:
    """What an agent would need stands on the task of a local run too."""
    done = tracked.run(*SMALL, "--set=training.max_steps=1")
    assert done.code == 0, done.err
    script = clearml_server.tasks()[0]["script"]
    assert script["entry_point"] == "run_training.py" and "torch==" in script["requirements"]["pip"]
    assert "detloom" not in script["requirements"]["pip"] and os.fspath(ROOT) not in script["repository"]


# ---- several runs of one process --------------------------------------------------------------------------------


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
