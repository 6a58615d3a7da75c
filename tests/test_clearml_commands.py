"""`detloom clearml send` and `detloom clearml status`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clearml_tools import NOWHERE, WEB_URL, ClearMLServer
from delivery_tools import RECORD
from detloom.specs import LoggerContext
from detloom_integrations.clearml.delivery import Delivery
from detloom_integrations.clearml.logger import ClearMLLogger
from processes import Place


@pytest.fixture
def place(tmp_path: Path, clearml_server: ClearMLServer) -> Place:
    return Place(tmp_path, tmp_path / "cache", clearml_server.environ())


def offline_run(folder: Path, numbers: int) -> Path:
    """What a run without a server leaves: so many numbers and one file."""
    (folder / "clearml").mkdir(parents=True)
    (folder / "report.html").write_text("<html>")
    (folder / "run.json").write_text(json.dumps({"name": folder.name, "status": "completed"}))
    context = LoggerContext(folder, folder.name, total_steps=numbers, total_epochs=1)
    logger = ClearMLLogger(Delivery(None, None, folder, record={**RECORD, "name": folder.name}), context)
    for step in range(numbers):
        logger.scalars({"train/loss": 1.0}, step, 0)
    logger.artifact("report", folder / "report.html")
    logger.close("completed")
    return folder


# ---- send ------------------------------------------------------------------------------------------------------


def test_what_waits_is_sent_once_and_counted(place: Place, clearml_server: ClearMLServer) -> None:
    for name in ("first", "second"):
        offline_run(place.folder / "runs" / name, 20)
    done = place.run("clearml", "send", "runs/first", "runs/second")
    assert done.code == 0, done.err
    tasks = {task["name"]: task["id"] for task in clearml_server.tasks()}
    assert done.out.splitlines() == [
        f"runs/{name}: 21 sent, 0 waiting, 0 lost; its task is {tasks[name]}" for name in ("first", "second")
    ]
    assert all(len(clearml_server.events(task, "training_stats_scalar")) == 20 for task in tasks.values())
    again = place.run("clearml", "send", "runs/first")
    assert (again.code, again.out) == (0, f"runs/first: nothing waits; its task is {tasks['first']}\n")
    assert len(clearml_server.events(tasks["first"], "training_stats_scalar")) == 20


def test_what_cannot_be_sent_stays_and_the_command_says_so(place: Place, clearml_server: ClearMLServer) -> None:
    offline_run(place.folder / "first", 5)
    clearml_server.fault("events.add_batch", status=503)
    done = place.run("clearml", "send", "first", "--json")
    assert done.code == 5
    (row,) = json.loads(done.out)
    assert (row["run"], row["sent"], row["waiting"], row["lost"]) == ("first", 0, 6, 0) and "503" in row["error"]
    clearml_server.clear_faults()
    done = place.run("clearml", "send", "first")
    assert done.code == 0 and "6 sent, 0 waiting, 0 lost" in done.out


def test_one_folder_that_holds_nothing_does_not_keep_the_others_back(place: Place) -> None:
    (place.folder / "empty").mkdir()
    offline_run(place.folder / "first", 5)
    done = place.run("clearml", "send", "empty", "nowhere", "first")
    assert done.code == 2 and "first: 6 sent" in done.out
    assert "empty holds nothing for ClearML" in done.err and "there is no folder nowhere" in done.err


def test_without_a_server_nothing_is_sent_and_nothing_lost(place: Place, clearml_server: ClearMLServer) -> None:
    folder = offline_run(place.folder / "first", 5)
    before = {path.name: path.read_bytes() for path in (folder / "clearml").iterdir()}
    place.more = clearml_server.environ(CLEARML_API_HOST=NOWHERE)
    done = place.run("clearml", "send", "first")
    assert done.code == 5 and f"the ClearML server {NOWHERE} cannot be used" in done.err
    assert {path.name: path.read_bytes() for path in (folder / "clearml").iterdir()} == before


# ---- status ----------------------------------------------------------------------------------------------------


def test_a_server_that_takes_the_credentials(place: Place, clearml_server: ClearMLServer) -> None:
    done = place.run("clearml", "status")
    assert done.code == 0 and done.err == ""
    rows = dict(line.split("  ", 1) for line in done.out.splitlines()[1:])
    assert {name: value.strip() for name, value in rows.items()} == {
        "configured by": "the environment",
        "API server": f"{clearml_server.api_url} (answers)",
        "web server": WEB_URL,
        "file server": clearml_server.files_url,
        "credentials": "accepted",
        "version": "2.3.0 (API 2.34)",
    }
    answer = json.loads(place.run("clearml", "status", "--json").out)
    assert (answer["api"], answer["answers"], answer["accepted"]) == (clearml_server.api_url, True, True)
    assert (answer["server_version"], answer["error"]) == ("2.3.0", "")


@pytest.mark.parametrize(
    ("changed", "code", "credentials", "said"),
    [
        ({"CLEARML_API_SECRET_KEY": "wrong"}, 1, "refused", "does not take these credentials"),
        ({"CLEARML_API_HOST": NOWHERE}, 5, "not tried", f"the ClearML server {NOWHERE} cannot be used"),
        ({"CLEARML_API_SECRET_KEY": ""}, 1, None, "ClearML is not configured on this machine"),
    ],
)
def test_what_is_wrong_is_said_as_a_run_would_say_it(
    place: Place, clearml_server: ClearMLServer, changed: dict[str, str], code: int, credentials: str | None, said: str
) -> None:
    place.more = clearml_server.environ(**changed)
    done = place.run("clearml", "status")
    assert done.code == code and said in done.err
    shown = [line.split("  ", 1)[1].strip() for line in done.out.splitlines() if line.startswith("credentials")]
    assert shown == ([credentials] if credentials else [])
    answer = json.loads(place.run("clearml", "status", "--json").out)
    assert not answer["accepted"] and said in f"{answer['error']} {answer['hint']}"


def test_a_configuration_file_is_named(place: Place, clearml_server: ClearMLServer) -> None:
    keys = clearml_server.double.addresses
    file = place.folder / "mine.conf"
    file.write_text(
        f'api {{ api_server: "{clearml_server.api_url}", web_server: "{WEB_URL}", '
        f'files_server: "{clearml_server.files_url}", credentials {{ access_key: "{keys["access_key"]}", '
        f'secret_key: "{keys["secret_key"]}" }} }}'
    )
    kept = {name: value for name, value in clearml_server.environ().items() if not name.startswith("CLEARML_")}
    place.more = {**kept, "CLEARML_CONFIG_FILE": str(file)}
    done = place.run("clearml", "status")
    assert done.code == 0, done.err
    assert f"configured by  {file}" in done.out and "accepted" in done.out
    assert keys["secret_key"] not in done.out + done.err
