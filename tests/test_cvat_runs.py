"""Commands on data in CVAT, as people type them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from cvat_tools import PASSWORD, CVATServer, task
from processes import RUN_TRAINING, Place

LINE = '--cvat-task-ids 123 456 789 --project-name "MyProject" --model-type yolox-nano --epochs 150'
TINY = "--set training.max_steps=1 --resolution 64 --batch-size 2 --set export.format=[] --set validation.pictures=0"


@pytest.fixture
def place(cvat: CVATServer, tmp_path: Path) -> Place:
    """A folder whose .env says where CVAT is and who asks."""
    cvat.hold(
        task(123, names=tuple(f"{n}.jpg" for n in range(4)), subset="Train"),
        task(456, names=("0.jpg", "1.jpg"), subset="Validation"),
        task(789, names=("0.png",), subset="Test"),
    )
    (tmp_path / "here").mkdir()
    lines = [f"{name}={value}" for name, value in cvat.environ().items() if name.startswith("CVAT_")]
    (tmp_path / "here/.env").write_text("\n".join(lines))
    return Place(tmp_path / "here", tmp_path / "cache", {"no_proxy": "127.0.0.1", "CLEARML_CONFIG_FILE": "/dev/null"})


@pytest.fixture(autouse=True)
def only_the_file_names_the_server(cvat: CVATServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cvat.environ():
        if name.startswith("CVAT_"):
            monkeypatch.delenv(name, raising=False)


def test_tasks_are_checked(place: Place) -> None:
    finished = place.run("check", *shlex.split("--cvat-task-ids 123 456 789 --json"))
    assert finished.code == 0, finished
    answer = json.loads(finished.out)
    assert answer["ok"] and answer["inspection"]["splits"] == {"train": 4, "val": 2, "test": 1}
    assert {one["name"]: one["objects"] for one in answer["inspection"]["classes"]} == {"car": 7, "dog": 7}
    assert answer["next"].startswith("detloom train --cvat-task-ids 123 456 789 ")
    assert PASSWORD not in finished.out + finished.err


def test_tasks_are_trained_on_and_the_run_remembers_which(place: Place, cvat: CVATServer) -> None:
    finished = place.run(*shlex.split(f"{LINE} {TINY} --no-clearml"), script=RUN_TRAINING)
    assert finished.code == 0, finished
    (run,) = (place.folder / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["data"]["name"] == "cvat-123-456-789"
    assert record["data"]["source"] == f"{cvat.url}/tasks/123,456,789" and record["data"]["revision"]
    for path in place.folder.rglob("*"):
        if path.is_file() and path.name != ".env":
            assert PASSWORD.encode() not in path.read_bytes(), path
    assert PASSWORD not in finished.out + finished.err

    # Evaluated again, after the server has gone: the cache holds what the run was trained on.
    cvat.hold()
    again = place.call("evaluate", str(run), "--json")
    assert again.code == 0, again


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"CVAT_PASSWORD": "hunter2"}, 5, ["does not take the credentials of CVAT_USERNAME and CVAT_PASSWORD"]),
        ({"CVAT_URL": "http://127.0.0.1:9"}, 5, ["CVAT at http://127.0.0.1:9: Connection refused"]),
        ({"CVAT_URL": "ftp://x"}, 2, ["is no address of a CVAT server"]),
    ],
)
def test_what_keeps_the_tasks_away_is_told_with_its_exit_code(
    place: Place, change: dict[str, str], code: int, words: list[str]
) -> None:
    place.more.update(change)
    finished = place.run("check", "--cvat-task-ids", "123")
    assert finished.code == code, finished
    assert all(word in finished.err for word in words) and "Traceback" not in finished.err
    assert "hunter2" not in finished.err


def test_tasks_that_do_not_exist_are_refused_with_those_that_do(place: Place) -> None:
    finished = place.run("check", "--cvat-task-ids", "123", "4567", "9")
    assert finished.code == 3
    assert "has no tasks 4567, 9" in finished.err and "456 'task 456'" in finished.err


def test_without_credentials_the_variables_are_named(place: Place, cvat: CVATServer) -> None:
    (place.folder / ".env").write_text(f"CVAT_URL={cvat.url}\n")
    finished = place.run("check", "--cvat-task-ids", "123")
    assert finished.code == 5 and "CVAT_ACCESS_TOKEN" in finished.err


def test_a_silent_server_ends_with_the_deadline_of_the_configuration(place: Place, cvat: CVATServer) -> None:
    cvat.fault("never_finish")
    finished = place.run("check", "--cvat-task-ids", "123", "--set", "data.fetch_deadline=3")
    assert finished.code == 5 and "data.fetch_deadline" in finished.err, finished
