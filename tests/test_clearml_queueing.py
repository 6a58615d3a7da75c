"""A run that goes to a queue: what is said against executing it elsewhere, and the task that waits there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from clearml_tools import ClearMLServer
from detloom.errors import UnreachableError, UsageError
from detloom.specs import Submission, TrackedConfig
from detloom_integrations.clearml.queueing import refusals, submit
from detloom_integrations.clearml.script import NO_REPOSITORY, Script, describe_script
from detloom_schemas.config import ClearMLConfig
from git_tools import commit, write
from script_tools import DETLOOM, LOCAL, installed, own, tracked

__all__ = ["installed", "own"]

# The SDK reads its configuration with a parser that its own dependency finds outdated.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated(,| -) use:DeprecationWarning")


# --- refusals ---

PUSHED = Script("-m detloom", (), "https://git.example/fruit.git", "main", "1f1f")


def asked(config: TrackedConfig, paths: Mapping[str, str] | None = None, *, vouched: bool = False) -> Submission:
    return Submission("gpu", config, paths or {}, vouched)


def test_nothing_stands_against_a_pushed_repository_and_data_from_afar() -> None:
    assert refusals(asked(tracked({"data.source": "s3", "training.tokens": "3"})), PUSHED) == []


@pytest.mark.parametrize(
    ("key", "text", "what"),
    [
        ("data.cvat.password", "hunter2", "data.cvat.password looks like a secret"),
        ("data.cvat.url", "https://bob:hunter2@cvat.example/", "an address with a password"),
        ("data.s3.url", "https://s3.example/x?X-Amz-Signature=hunter2", "an address with a token"),
        ("data.s3.url", '["s3://a", "https://x.example/?token=hunter2"]', "an address with a token"),
        ("model.hub", "hf_hunter2hunter2hunter2hunter2", "an access token"),
        ("model.hub", "ghp_hunter2hunter2hunter2hunter2", "an access token"),
        ("model.note", "-----BEGIN RSA PRIVATE KEY----- hunter2", "a private key"),
    ],
)
def test_a_secret_is_refused_and_not_shown(key: str, text: str, what: str) -> None:
    (sentence,) = refusals(asked(tracked({key: text})), PUSHED)
    assert key in sentence and what in sentence and "hunter2" not in sentence


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("data.cvat.password_env", "CVAT_PASSWORD"),
        ("data.cvat.password", "none"),
        ("data.s3.url", "s3://bucket/a:b@c"),
        ("data.cvat.url", "https://cvat.example:8080/api?page=2"),
    ],
)
def test_what_is_no_secret_is_not_refused(key: str, text: str) -> None:
    assert refusals(asked(tracked({key: text})), PUSHED) == []


def test_data_and_weights_at_local_paths_are_refused_unless_vouched_for(tmp_path: Path) -> None:
    paths = {"data.local.path": str(tmp_path), "model.pretrain_weights": "best.pt"}
    data, weights = refusals(asked(tracked(), paths), PUSHED)
    assert f"data.local.path names a path of this machine, {tmp_path}" in data and "a source that agents reach" in data
    assert "model.pretrain_weights" in weights and "--paths-exist-remotely" in weights
    assert refusals(asked(tracked(), paths, vouched=True), PUSHED) == []


def test_a_relative_path_that_is_in_the_commit_comes_with_the_clone(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    script = describe_script(tracked(), own)
    here = [line for line in refusals(asked(tracked(), {"data.local.path": "data"}), script) if "data.local" in line]
    assert here == []
    absolute = refusals(asked(tracked(), {"data.local.path": str(own / "data")}), script)
    assert any("data.local.path" in line for line in absolute)
    write(own, {"data/train/new.txt": ""})
    more = refusals(asked(tracked(), {"data.local.path": "data"}), script)
    assert any("data.local.path" in line for line in more)


def test_remotes_that_are_folders_of_this_machine_are_refused_unless_vouched_for() -> None:
    script = replace(
        PUSHED, repository="file:///srv/fruit.git", requirements=("git+file:///srv/pear.git@1f", "torch==2.6.0")
    )
    remote, requirement = refusals(asked(tracked()), script)
    assert "file:///srv/fruit.git is a folder of this machine" in remote
    assert requirement.startswith("git+file:///srv/pear.git@1f names a folder of this machine")
    assert refusals(asked(tracked(), vouched=True), script) == []


def test_everything_that_stands_against_a_run_is_said_at_once_and_no_server_is_asked(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(own, {"README.md": "changed\n"})
    commit(own, {"a": ""})
    write(own, {"README.md": "changed again\n"})
    monkeypatch.chdir(own)
    config = tracked({"data.cvat.password": "hunter2"}, DETLOOM, LOCAL, name="ab")
    with pytest.raises(UsageError) as caught:
        submit(ClearMLConfig(), asked(config, {"data.local.path": "/data"}))
    lines = caught.value.message.splitlines()
    assert lines[0] == "an agent of queue gpu could not execute this run:"
    clues = ("not pushed", "uncommitted", "pear-tools", "'ab'", "password", "folder of this machine", "data.local.path")
    assert [clue for clue, line in zip(clues, lines[1:], strict=True) if clue not in line] == []


# --- the queue ---


@pytest.fixture
def connected(clearml_server: ClearMLServer, monkeypatch: pytest.MonkeyPatch) -> ClearMLServer:
    for name, value in clearml_server.environ().items():
        monkeypatch.setenv(name, value)
    return clearml_server


@pytest.fixture
def queue(connected: ClearMLServer) -> str:
    """The id of the queue `gpu`."""
    return str(connected.call("queues.create", name="gpu")["id"])


@pytest.fixture
def plain(tmp_path: Path, installed: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Submits from a folder that is in no repository."""
    folder = tmp_path / "plain"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return lambda config=None: submit(ClearMLConfig(), asked(config or tracked()))


def test_a_queued_task_has_script_parameters_project_and_tags(
    connected: ClearMLServer, queue: str, plain: Callable[..., str]
) -> None:
    sentence = plain()
    (task,) = connected.tasks()
    assert task["id"] in sentence and "gpu" in sentence and "http://clearml.test/projects/" in sentence
    assert (task["name"], task["status"], task["tags"]) == ("apples", "queued", ["red"])
    assert task["script"]["entry_point"] == "-m detloom" and task["script"]["diff"] == NO_REPOSITORY
    assert "detloom==0.1.0" in task["script"]["requirements"]["pip"].splitlines()
    assert connected.parameters(task["id"])["training/lr"] == "0.01"
    assert "detloom" in task["configuration"]
    (project,) = connected.state()["project"].values()
    assert (project["name"], task["project"]) == ("orchard", project["id"])
    assert connected.state()["queue"][queue]["entries"][0]["task"] == task["id"]


def test_a_project_that_is_there_is_used_again(connected: ClearMLServer, queue: str, plain: Callable[..., str]) -> None:
    names = ("orchard (old)", "orchard old")
    for _ in range(2):
        for name in names:
            plain(tracked(project=name))
    projects = {project["id"]: project["name"] for project in connected.state()["project"].values()}
    assert sorted(projects.values()) == sorted(names)
    assert [projects[task["project"]] for task in connected.tasks()] == [*names, *names]


def test_a_queue_that_does_not_exist_is_refused_with_those_that_do(
    connected: ClearMLServer, plain: Callable[..., str]
) -> None:
    for name in ("gpus", "services"):
        connected.call("queues.create", name=name)
    with pytest.raises(UsageError, match="has no queue gpu") as caught:
        plain()
    assert caught.value.hint == "did you mean gpus? the queues: default, gpus, services"
    assert connected.tasks() == []


def test_a_queue_that_no_agent_listens_to_is_said(
    connected: ClearMLServer, queue: str, plain: Callable[..., str]
) -> None:
    assert "no agent listens to this queue now" in plain()
    connected.call("workers.register", worker="host:0", queues=[queue], timeout=600)
    connected.call("workers.status_report", worker="host:0", queues=[queue], timestamp=0)
    assert "no agent listens" not in plain()


def test_a_task_that_could_not_be_enqueued_does_not_stay(
    connected: ClearMLServer, queue: str, plain: Callable[..., str]
) -> None:
    connected.fault("tasks.enqueue", status=503)
    with pytest.raises(UnreachableError):
        plain()
    assert connected.requests("tasks.create") == 1 and connected.tasks() == []
