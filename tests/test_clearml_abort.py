"""A run and its task when somebody stops them: abort, SIGTERM, and how they go on, here or elsewhere."""

from __future__ import annotations

import signal
import time

import torch

from clearml_tools import ClearMLServer
from data_tools import sound_data
from processes import Place, ended
from task_tools import SMALL, STOPPED_AFTER_THE_CONNECTION, place, record_of, scalars, settings, tracked, wait_for_task

__all__ = ["place", "tracked"]


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
