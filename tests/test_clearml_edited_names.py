"""Edits that concern the task itself: its name, its tags, its project; and secrets that were typed into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clearml_tools import ClearMLServer
from detloom.config import mapping_layer, resolve
from detloom.host import discover
from detloom.tracking import tracked as seen_by_trackers
from detloom_integrations.clearml.parameters import configuration_of, hyperparams_of
from processes import Finished, Place
from task_tools import place, record_of, tracked

__all__ = ["place", "tracked"]

SHORT: dict[str, Any] = {
    "data.local.path": "shapes",
    "data.num_workers": 0,
    "model.type": "yolox-nano",
    "model.pretrain_weights": "none",
    "training.resolution": 64,
    "training.batch_size": 2,
    "training.max_steps": 1,
    "validation.pictures": 0,
    "export.format": [],
    "experiment.name": "first run",
    "experiment.tags": ["old"],
    "experiment.project": "berries",
    "experiment.clearml.resource_monitoring": False,
}
PASSWORD = "hunter2secret"
ADDRESS = f"s3://AKIA1234567890ABCDEF:{PASSWORD}@host/b"


def a_clone(server: ClearMLServer, name: str, **more: object) -> str:
    """The clone of a task that Detloom made, tagged by hand and by the server. more: settings, `__` for the dot."""
    host = discover()
    values = {**SHORT, **{key.replace("__", "."): value for key, value in more.items()}}
    config = seen_by_trackers(resolve(host, [mapping_layer(values)]), host)
    project = server.call("projects.create", name="berries", description="")["id"]
    parameters = {"hyperparams": hyperparams_of(config), "configuration": configuration_of(config)}
    base = server.call("tasks.create", name="first run", type="training", project=project, tags=["old"], **parameters)
    clone = server.clone(base["id"], name)
    server.call("tasks.edit", task=clone, tags=["old", "by hand"], system_tags=["development"], force=True)
    return clone


def execute(place: Place, server: ClearMLServer, task: str) -> Finished:
    """As an agent does, in a process that knows nothing but its task."""
    server.call("tasks.started", task=task, force=True, status_reason="", status_message="")
    return Place(place.folder, place.cache, server.environ(CLEARML_TASK_ID=task)).run()


def everything_said(place: Place, server: ClearMLServer, task: str, done: Finished) -> str:
    """On the terminal, in every file of the place, and on the task beside its parameters."""
    record = server.task(task)
    told = {key: value for key, value in record.items() if key not in {"hyperparams", "configuration"}}
    files = [content.decode(errors="replace") for content in place.files().values()]
    return "\n".join([done.out, done.err, json.dumps(told), server.console(task), *files])


# ---- secrets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "text", "said"),
    [
        ("experiment/clearml/output_uri", ADDRESS, "holds an address with a password; a task shows it to everybody"),
        ("model/pretrain_weights", f"https://user:{PASSWORD}@host/x.pth", "holds an address with a password"),
        ("experiment/tags", f"[ghp_{PASSWORD}{PASSWORD}]", "holds an access token; a task shows it to everybody"),
        ("training/lr", f"ghp_{PASSWORD}{PASSWORD}", "found '***'"),
    ],
)
def test_a_secret_typed_into_a_task_is_refused_by_name_and_goes_nowhere(
    parameter: str, text: str, said: str, place: Place, clearml_server: ClearMLServer
) -> None:
    clone = a_clone(clearml_server, "edited")
    clearml_server.edit(clone, {parameter: text})
    done = execute(place, clearml_server, clone)
    assert done.code == 2, done.err
    told = clearml_server.task(clone)
    key = parameter.replace("/", ".")
    assert told["status"] == "failed"
    for message in (told["status_message"], done.err):
        assert f"{key} (task parameter {parameter}): {said}" in message
    assert not (place.folder / "runs").exists()
    assert PASSWORD not in everything_said(place, clearml_server, clone, done)


def test_a_secret_in_the_place_that_a_task_sends_its_files_to_is_refused_too(
    place: Place, clearml_server: ClearMLServer
) -> None:
    clone = a_clone(clearml_server, "edited")
    clearml_server.call("tasks.edit", task=clone, output_dest=ADDRESS, force=True)
    assert clearml_server.task(clone)["output"]["destination"] == ADDRESS
    done = execute(place, clearml_server, clone)
    assert done.code == 2, done.err
    refusal = "experiment.clearml.output_uri (the task's output destination): holds an address with a password"
    told = clearml_server.task(clone)["status_message"]
    assert refusal in told and refusal in done.err and PASSWORD not in told + done.out + done.err
    assert not (place.folder / "runs").exists()


# ---- name, tags, project ----------------------------------------------------------------------------------------


def test_an_edited_name_and_edited_tags_are_the_tasks_own_and_the_project_stays(
    place: Place, clearml_server: ClearMLServer
) -> None:
    clone = a_clone(clearml_server, "Clone of first run")
    before = clearml_server.task(clone)
    edits = {"experiment/name": "new name", "experiment/tags": "x, y", "experiment/project": "Other"}
    clearml_server.edit(clone, edits)
    done = execute(place, clearml_server, clone)
    assert done.code == 0, done.err
    after = clearml_server.task(clone)
    assert (after["name"], after["tags"]) == ("new name", ["x", "y"])
    assert (after["project"], after["system_tags"]) == (before["project"], ["development"])
    run = place.folder / "runs" / "new-name"
    assert record_of(run)["configuration"]["experiment.project"] == "Other"
    remark = "experiment.project was edited to Other, which names the run only: the task stays in its project"
    assert done.err.count(remark) == 1 and (run / "log.txt").read_text().count(remark) == 1
    assert json.loads((run / "clearml" / "task.json").read_text())["name"] == "new name"


@pytest.mark.parametrize("edits", [{}, {"experiment/tags": '["old"]'}, {"experiment/name": "none"}])
def test_what_nobody_edited_stays_as_it_was_named_and_tagged_by_hand(
    edits: dict[str, str], place: Place, clearml_server: ClearMLServer
) -> None:
    clone = a_clone(clearml_server, "Clone of first run", data__local__path="nowhere")
    clearml_server.edit(clone, edits)
    done = execute(place, clearml_server, clone)
    assert done.code == 3 and "nowhere does not exist" in done.err
    after = clearml_server.task(clone)
    assert after["name"] == "Clone of first run" and after["status"] == "failed"
    assert (sorted(after["tags"]), after["system_tags"]) == (["by hand", "old"], ["development"])


def test_a_name_too_short_for_the_server_is_refused_when_it_is_edited(
    place: Place, clearml_server: ClearMLServer
) -> None:
    clone = a_clone(clearml_server, "Clone of first run")
    clearml_server.edit(clone, {"experiment/name": "ab"})
    done = execute(place, clearml_server, clone)
    assert done.code == 2 and "experiment.name (task parameter experiment/name): found 'ab'" in done.err
    assert clearml_server.task(clone)["name"] == "Clone of first run" and not Path(place.folder / "runs").exists()
