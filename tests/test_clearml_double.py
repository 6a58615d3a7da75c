"""The double of the ClearML server: the real SDK and the real agent work against it, and it notices mistakes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import requests

from agent_tools import ClearMLAgent, GitRepository
from clearml_tools import ClearMLServer, DoubleProcess
from double_tools import ServerRefused

INIT = """
from clearml import Logger, OutputModel, Task

task = Task.init(
    project_name="orchard/apples",
    task_name="first run",
    tags=["unit"],
    output_uri=True,
    auto_connect_frameworks=False,
    auto_connect_arg_parser=False,
    auto_resource_monitoring=False,
)
"""


# The reporting process that the SDK forks may inherit the pipe of a `git` that its detection of the repository is just
# starting; both then wait for each other for ever. A thread reports instead.
NO_FORK = "sdk { development { report_use_subprocess: false } }"


def run_sdk(server: ClearMLServer, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A script that begins with Task.init, in a process of its own."""
    file, config = folder / "script.py", folder / "clearml.conf"
    file.write_text(INIT + textwrap.dedent(script))
    config.write_text(NO_FORK)
    environ = {**os.environ, "OMP_NUM_THREADS": "1", **server.environ(CLEARML_CONFIG_FILE=str(config))}
    return subprocess.run(
        [sys.executable, file], env=environ, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def ask(server: ClearMLServer, action: str, body: object = None, timeout: float = 10) -> requests.Response:
    """A request as any client sends it: faults befall it."""
    keys = (server.double.addresses["access_key"], server.double.addresses["secret_key"])
    return requests.post(f"{server.api_url}/v2.23/{action}", json=body, auth=keys, timeout=timeout)


def send_events(server: ClearMLServer, *events: dict[str, object]) -> requests.Response:
    lines = "\n".join(json.dumps(event) for event in events)
    keys = (server.double.addresses["access_key"], server.double.addresses["secret_key"])
    return requests.post(f"{server.api_url}/events.add_batch", data=lines, auth=keys, timeout=10)


def scalar(task: str, value: float, iteration: int, **more: object) -> dict[str, object]:
    kind = {"type": "training_stats_scalar", "metric": "losses", "variant": "total"}
    return {**kind, "task": task, "value": value, "iter": iteration, **more}


@pytest.fixture
def task(clearml_server: ClearMLServer) -> str:
    project = clearml_server.call("projects.create", name="orchard", description="")["id"]
    script = {"repository": "file:///nowhere.git", "entry_point": "train.py"}
    made = clearml_server.call("tasks.create", name="a task", type="training", project=project, script=script)
    return str(made["id"])


def test_the_sdk_reports_a_run_and_enqueues_a_clone_of_it(clearml_server: ClearMLServer, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights" * 1000)
    done = run_sdk(
        clearml_server,
        """
        task.set_parameters({"training/lr": "0.01", "model/variant": "s"})
        task.get_logger().report_scalar("losses", "total", value=1.5, iteration=3)
        task.get_logger().report_text("hello")
        task.upload_artifact("summary", artifact_object={"apples": 3}, wait_on_upload=True)
        model = OutputModel(task, name="best", framework="PyTorch", label_enumeration={"apple": 0})
        model.update_weights("weights.pt", auto_delete_file=False, async_enable=False)
        task.close()
        clone = Task.clone(task, name="second run")
        clone.set_parameter("training/lr", "0.5")
        Task.enqueue(clone, queue_name="default")
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    first, second = clearml_server.tasks()
    assert (first["name"], first["status"], first["tags"]) == ("first run", "completed", ["unit"])
    assert clearml_server.parameters(first["id"])["training/lr"] == "0.01"
    (event,) = clearml_server.events(first["id"], "training_stats_scalar")
    assert (event["metric"], event["variant"], event["value"], event["iter"]) == ("losses", "total", 1.5, 3)
    assert "hello" in clearml_server.console(first["id"])
    assert "apples" in clearml_server.artifact(first["id"], "summary").read_text()
    (model,) = clearml_server.models()
    assert model["labels"] == {"apple": 0}
    assert clearml_server.file(model["uri"]).read_bytes() == weights.read_bytes()
    assert (second["name"], second["status"], second["parent"]) == ("second run", "queued", first["id"])
    parameters = clearml_server.parameters(second["id"])
    assert (parameters["training/lr"], parameters["model/variant"]) == ("0.5", "s")
    assert clearml_server.events(second["id"]) == []


def test_the_sdk_logs_in_anew_when_its_token_has_expired(clearml_server: ClearMLServer, tmp_path: Path) -> None:
    done = run_sdk(
        clearml_server,
        """
        import urllib.request
        task.close()
        session = task.session
        ask = lambda: session.send_request("tasks", "get_by_id", json={"task": task.id}).status_code
        before = ask()
        urllib.request.urlopen(urllib.request.Request(session.host + "/_expire_tokens", b"{}")).close()
        print("answers", before, ask(), ask())
        """,
        tmp_path,
    )
    # The SDK repeats the refused request with the old token; the new one serves from the next request on.
    assert "answers 200 401 200" in done.stdout, done.stdout + done.stderr
    assert clearml_server.requests("auth.login") == 2


def test_an_unknown_endpoint_and_a_wrong_body_are_violations(clearml_server: ClearMLServer, task: str) -> None:
    with pytest.raises(ServerRefused, match=r"Unable to find endpoint for name tasks\.made_up"):
        clearml_server.call("tasks.made_up", task=task)
    with pytest.raises(ServerRefused, match="unknown field 'colour'"):
        clearml_server.call("tasks.edit", task=task, colour="red")
    with pytest.raises(ServerRefused, match="is not of type"):
        clearml_server.call("tasks.edit", task=task, tags="red")
    with pytest.raises(ServerRefused, match="'task' is a required property"):
        clearml_server.call("tasks.edit", name="another name")
    violations = clearml_server.violations()
    clearml_server.reset()
    assert [text.split()[0] for text in violations] == ["unknown", *["tasks.edit"] * 3]
    assert clearml_server.violations() == []


def test_wrong_credentials_and_a_forged_token_are_refused(clearml_server: ClearMLServer) -> None:
    address = f"{clearml_server.api_url}/auth.login"
    assert requests.post(address, auth=("somebody", "else"), timeout=10).status_code == 401
    token = ask(clearml_server, "auth.login").json()["data"]["token"]
    head, body, _ = token.split(".")
    for proof, status in ((token, 200), (f"{head}.{body}.AAAA", 401), ("nonsense", 401)):
        headers = {"Authorization": f"Bearer {proof}"}
        assert requests.post(f"{clearml_server.api_url}/server.info", headers=headers, timeout=10).status_code == status


def test_a_fault_strikes_as_often_as_it_says(clearml_server: ClearMLServer, task: str) -> None:
    clearml_server.fault("tasks.get_by_id", status=503, times=2)
    answers = [ask(clearml_server, "tasks.get_by_id", {"task": task}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].json()["meta"]["result_code"] == 503
    assert clearml_server.fault_hits("tasks.get_by_id") == 2


def test_a_fault_on_everything_lasts_until_it_is_cleared_and_spares_the_test(
    clearml_server: ClearMLServer, task: str
) -> None:
    clearml_server.fault("*", status=503)
    for action in ("debug.ping", "auth.login", "server.info"):
        assert ask(clearml_server, action).status_code == 503
    assert clearml_server.call("tasks.get_by_id", task=task)["task"]["name"] == "a task"
    assert requests.get(clearml_server.files_url, timeout=10).status_code == 200
    clearml_server.clear_faults()
    assert ask(clearml_server, "debug.ping").status_code == 200


def test_a_request_hangs_until_the_fault_is_cleared(clearml_server: ClearMLServer) -> None:
    clearml_server.fault("server.info", hang=600)
    with pytest.raises(requests.exceptions.ReadTimeout):
        ask(clearml_server, "server.info", timeout=0.5)
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(ask(clearml_server, "server.info", None, 60).status_code))
    waiting.start()
    while clearml_server.fault_hits("server.info") < 2:
        time.sleep(0.01)
    assert answers == []
    clearml_server.clear_faults()
    waiting.join(60)
    assert answers == [200]


@pytest.mark.parametrize(("cut", "done"), [("before", False), ("after", True)])
def test_a_cut_connection_leaves_open_whether_the_request_was_done(
    clearml_server: ClearMLServer, task: str, cut: str, done: bool
) -> None:
    clearml_server.fault("tasks.edit", cut=cut, times=1)
    with pytest.raises(requests.exceptions.ConnectionError):
        ask(clearml_server, "tasks.edit", {"task": task, "name": "another name"})
    assert (clearml_server.task(task)["name"] == "another name") is done


def test_the_file_server_keeps_what_is_uploaded_and_fails_on_demand(clearml_server: ClearMLServer) -> None:
    upload = {"orchard/a task.1/apples.bin": b"0123456789"}
    address = f"{clearml_server.files_url}/orchard/a%20task.1/apples.bin"
    clearml_server.fault("files.upload", status=503, times=1)
    answers = [requests.post(clearml_server.files_url, files=upload, timeout=10) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [503, 200]
    assert clearml_server.file(address).read_bytes() == b"0123456789"
    assert requests.get(address, timeout=10).content == b"0123456789"
    part = requests.get(address, headers={"Range": "bytes=2-4"}, timeout=10)
    assert (part.status_code, part.content) == (206, b"234")
    clearml_server.fault("files.*", hang=600)
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(clearml_server.files_url, files=upload, timeout=0.5)
    clearml_server.clear_faults()
    assert requests.delete(address, timeout=10).status_code == 200
    assert requests.get(address, timeout=10).status_code == 404


def test_the_file_server_writes_nothing_outside_its_folder(clearml_server: ClearMLServer) -> None:
    upload = {"../outside.bin": b"0123456789"}
    assert requests.post(clearml_server.files_url, files=upload, timeout=10).status_code == 400
    assert not (clearml_server.files_dir.parent / "outside.bin").exists()


def test_an_event_sent_twice_is_kept_once(clearml_server: ClearMLServer, task: str) -> None:
    for value in (1.0, 2.0):
        assert send_events(clearml_server, scalar(task, value, 3)).status_code == 200
    send_events(clearml_server, scalar(task, 0.5, 4), scalar(task, 0.25, 4, variant="boxes"))
    values = [event["value"] for event in clearml_server.events(task, "training_stats_scalar")]
    assert values == [2.0, 0.5, 0.25]
    assert clearml_server.task(task)["last_iteration"] == 4


def test_events_of_an_unknown_task_are_left_out_and_told_of(clearml_server: ClearMLServer, task: str) -> None:
    answer = send_events(clearml_server, scalar(task, 1.0, 0), scalar("0" * 32, 1.0, 0)).json()["data"]
    assert (answer["added"], answer["errors"]) == (1, 1)
    alone = send_events(clearml_server, scalar("0" * 32, 1.0, 0))
    assert (alone.status_code, alone.json()["meta"]["result_subcode"]) == (400, 131)
    malformed = send_events(clearml_server, scalar(task, 1.0, 1), {"type": "plot", "task": task, "metric": "curves"})
    assert malformed.status_code == 400
    assert len(clearml_server.events(task)) == 1


def test_a_task_that_has_ended_takes_no_artifacts_and_no_edits(clearml_server: ClearMLServer, task: str) -> None:
    artifact = {"key": "summary", "type": "dict", "uri": "http://nowhere/summary.json"}
    clearml_server.call("tasks.started", task=task)
    clearml_server.call("tasks.add_or_update_artifacts", task=task, artifacts=[artifact])
    with pytest.raises(ServerRefused, match="expected=created"):
        item = {"section": "training", "name": "lr", "value": "0.5"}
        clearml_server.call("tasks.edit_hyper_params", task=task, hyperparams=[item])
    clearml_server.call("tasks.completed", task=task)
    with pytest.raises(ServerRefused, match="expected=created"):
        clearml_server.call("tasks.add_or_update_artifacts", task=task, artifacts=[artifact])
    with pytest.raises(ServerRefused, match="Invalid status change"):
        clearml_server.enqueue(task)
    note = {"section": "properties", "name": "note", "value": "sweet"}
    clearml_server.call("tasks.edit_hyper_params", task=task, hyperparams=[note])
    assert send_events(clearml_server, scalar(task, 1.0, 0)).status_code == 200


def test_an_abort_stops_a_users_own_process_and_asks_the_agent_of_another(
    clearml_server: ClearMLServer, task: str
) -> None:
    clearml_server.call("tasks.started", task=task)
    own = clearml_server.clone(task, "of a developer")
    clearml_server.call("tasks.edit", task=own, system_tags=["development"])
    clearml_server.call("tasks.started", task=own)
    for worker, id_ in (("tests:0", task), ("tests:1", own)):
        clearml_server.call("workers.status_report", worker=worker, task=id_, timestamp=0)
    clearml_server.stop(task)
    clearml_server.stop(own)
    found = [(clearml_server.task(id_)["status"], clearml_server.task(id_)["status_message"]) for id_ in (task, own)]
    assert found == [("in_progress", "stopping"), ("stopped", "Stopped by tests")]


def test_tasks_are_ordered_by_number_with_those_that_have_none_last(clearml_server: ClearMLServer, task: str) -> None:
    tasks = [task, *(clearml_server.clone(task, f"clone {number}") for number in range(3))]
    for id_, value in zip(tasks, (9.0, 10.0, -1.0), strict=False):
        send_events(clearml_server, scalar(id_, value, 0))
    metric, variant = (hashlib.md5(name.encode()).hexdigest() for name in ("losses", "total"))
    for sign, order in (("-", [1, 0, 2, 3]), ("", [2, 0, 1, 3])):
        order_by = [f"{sign}last_metrics.{metric}.{variant}.value"]
        found = clearml_server.call("tasks.get_all", order_by=order_by, only_fields=["id"])["tasks"]
        assert [row["id"] for row in found] == [tasks[place] for place in order]


def test_a_server_of_the_tests_own_can_be_stopped_and_shares_nothing(
    clearml_server: ClearMLServer, own_clearml_server: ClearMLServer, task: str
) -> None:
    assert own_clearml_server.tasks() == []
    own_clearml_server.double.stop()
    with pytest.raises(requests.exceptions.ConnectionError):
        ask(own_clearml_server, "debug.ping")
    assert len(clearml_server.tasks()) == 1


def test_the_double_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    double = DoubleProcess.start(tmp_path / "files")
    assert double.process.stdin is not None
    double.process.stdin.close()
    assert double.process.wait(10) == 0
    double.stop()


@pytest.mark.agent
@pytest.mark.slow
@pytest.mark.parametrize("system_site_packages", [False, True], ids=["own packages", "system packages"])
def test_the_agent_executes_a_clone_with_its_edit(
    clearml_server: ClearMLServer, clearml_agent: ClearMLAgent, tmp_path: Path, system_site_packages: bool
) -> None:
    script = """
    import numpy
    values = {"lr": "0.01"}
    task.connect(values, name="training")
    print("lr is", values["lr"], "numpy is", numpy.__file__)
    task.close()
    """
    work = tmp_path / "work"
    work.mkdir()
    (work / "script.py").write_text(INIT + textwrap.dedent(script))
    GitRepository.create(work)
    assert run_sdk(clearml_server, script, work).returncode == 0
    (task,) = clearml_server.tasks()
    clone = clearml_server.clone(task["id"], "with another rate")
    clearml_server.edit(clone, {"training/lr": "0.5"})
    run = clearml_agent.execute(clone, system_site_packages=system_site_packages, packages=["clearml", "numpy"])
    assert run.status == "completed", run.output
    assert "lr is 0.5" in clearml_server.console(clone)
    numpy_is = run.output.rpartition("numpy is ")[2].splitlines()[0]
    assert (str(clearml_agent.folder) in numpy_is) is not system_site_packages
