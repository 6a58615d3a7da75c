"""`detloom tune` with ClearML's own optimizer on the double of the server.

Trials are executed by a thread that takes them from the queue as an agent does: either for real, in a process that is
given nothing but the task, or by reporting a number that follows from the drawn values.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from clearml_tools import CONTROL_HEADER, NOWHERE, ClearMLServer
from data_tools import sound_data
from detloom.config import resolve, text_layer
from detloom.host import discover
from detloom.tracking import tracked
from detloom_integrations.clearml.parameters import configuration_of, hyperparams_of
from processes import Finished, Place, ended

QUEUE = "trials"
SCRIPT = {"repository": "https://example.com/ours.git", "version_num": "c0ffee", "entry_point": "run_training.py"}
SMALL = {
    "model.type": "yolox-nano",
    "model.pretrain_weights": "none",
    "training.resolution": "64",
    "training.batch_size": "2",
    "training.epochs": "1",
    "training.device": "cpu",
    "data.num_workers": "0",
    "export.format": "[]",
    "validation.pictures": "0",
    "experiment.clearml.resource_monitoring": "false",
}

Work = Callable[[str, Mapping[str, str]], None]


def say_scalar(server: ClearMLServer, task: str, name: str, value: float, step: int = 5) -> None:
    title, _, series = name.rpartition("/")
    event = {"type": "training_stats_scalar", "metric": title, "variant": series, "value": value, "iter": step}
    keys = (server.double.addresses["access_key"], server.double.addresses["secret_key"])
    line, headers = json.dumps({**event, "task": task}), {CONTROL_HEADER: "1"}
    address = f"{server.api_url}/events.add_batch"
    requests.post(address, data=line, auth=keys, headers=headers, timeout=10).raise_for_status()


@dataclass
class Search:
    """A server with a queue and a base task, and a place to search from. agents: threads that take trials."""

    server: ClearMLServer
    place: Place
    base: str
    over: threading.Event = field(default_factory=threading.Event)
    agents: list[threading.Thread] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)

    def hire(self, work: Work) -> None:
        """An agent that does `work` on each trial: one that raises makes the trial fail with what it says."""
        thread = threading.Thread(target=self._serve, args=(work,), daemon=True)
        self.agents.append(thread)
        thread.start()

    def _serve(self, work: Work) -> None:
        (queue,) = [row["id"] for row in self.server.call("queues.get_all")["queues"] if row["name"] == QUEUE]
        while not self.over.is_set():
            task = self.server.call("queues.get_next_task", queue=queue).get("entry", {}).get("task")
            if not task:
                time.sleep(0.1)
                continue
            self.executed.append(task)
            self.server.call("tasks.started", task=task, force=True)
            try:
                work(task, self.server.parameters(task))
            except Exception as failure:
                self.server.call("tasks.failed", task=task, status_message=str(failure), force=True)
                continue
            if self.server.task(task)["status"] == "in_progress":
                self.server.call("tasks.completed", task=task, force=True)

    def arguments(self, *more: str) -> list[str]:
        return ["tune", self.base, "--queue", QUEUE, "--poll", "1", "--paths-exist-remotely", *more]

    def tune(self, *more: str) -> Finished:
        return self.place.run(*self.arguments(*more))

    def start(self, *more: str) -> subprocess.Popen[str]:
        return self.place.start(*self.arguments(*more))

    def answer(self, *more: str) -> dict[str, Any]:
        """What a search that went well says to programs."""
        done = self.tune(*more, "--json")
        assert done.code == 0, done.err
        answer: dict[str, Any] = json.loads(done.out)
        return answer

    @property
    def optimizer(self) -> dict[str, Any]:
        (task,) = [task for task in self.server.tasks() if task["type"] == "optimizer"]
        return task

    @property
    def trials(self) -> list[dict[str, Any]]:
        """As the server has them, in the order in which they were made."""
        made = [task for task in self.server.tasks() if task["type"] == "optimizer"]
        return [task for task in self.server.tasks() if made and task.get("parent") == made[-1]["id"]]

    def wait_for_trial(self, place: int, process: subprocess.Popen[str]) -> None:
        """Until an agent has begun its trial number `place`."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if len(self.executed) >= place:
                return
            time.sleep(0.1)
        process.kill()
        raise AssertionError(f"trial {place} was never begun: {ended(process)}")


@pytest.fixture
def search(clearml_server: ClearMLServer, tmp_path: Path) -> Iterator[Search]:
    host = discover()
    settings = {**SMALL, "data.local.path": str(sound_data(tmp_path / "cells"))}
    resolved = resolve(host, [text_layer([(key, text, "") for key, text in settings.items()])])
    config = tracked(resolved, host)
    base = clearml_server.call(
        "tasks.create",
        name="the base",
        type="training",
        project=clearml_server.call("projects.create", name="orchard", description="")["id"],
        script=SCRIPT,
        hyperparams=hyperparams_of(config),
        configuration=configuration_of(config),
    )["id"]
    clearml_server.call("queues.create", name=QUEUE)
    found = Search(clearml_server, Place(tmp_path, tmp_path / "cache", clearml_server.environ()), base)
    yield found
    found.over.set()
    for agent in found.agents:
        agent.join(30)


def reporting(server: ClearMLServer, name: str = "val/AP", seconds: float = 0.0) -> Work:
    """A trial that reports the product of its learning rate and batch size."""

    def work(task: str, parameters: Mapping[str, str]) -> None:
        time.sleep(seconds)
        value = float(parameters["training/lr"]) * float(parameters["training/batch_size"])
        say_scalar(server, task, name, value)

    return work


def ranks(answer: Mapping[str, Any]) -> list[str]:
    """Ids of the trials that have a rank, the best first."""
    with_rank = [trial for trial in answer["trials"] if trial["rank"] is not None]
    assert [trial["rank"] for trial in with_rank] == list(range(1, len(with_rank) + 1))
    return [trial["task"] for trial in with_rank]


# ---- the whole way ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trials_train_with_the_drawn_values_and_the_best_stands_first(search: Search) -> None:
    def train(task: str, parameters: Mapping[str, str]) -> None:
        place = Place(search.place.folder, search.place.cache, {**search.place.more, "CLEARML_TASK_ID": task})
        done = place.run()
        assert done.code == 0, done.err

    search.hire(train)
    answer = search.answer(
        *("--param", "training.lr=log:1e-4..1e-1", "--param", "augmentation/hsv/prob=0..1"),
        *("--param", "training.warmup_epochs=0,0.5", "--objective", "val/loss", "--strategy", "random"),
        *("--trials", "3", "--concurrent", "2"),
    )
    runs = {}
    for folder in (search.place.folder / "runs").iterdir():
        record = json.loads((folder / "run.json").read_text())
        runs[record["trackers"]["clearml"]["task"]] = yaml.safe_load((folder / "config.yaml").read_text())
    assert set(runs) == {trial["id"] for trial in search.trials} and len(runs) == 3
    for trial in answer["trials"]:
        config, drawn = runs[trial["task"]], trial["parameters"]
        assert config["training"]["lr"] == float(drawn["training.lr"])
        assert config["training"]["warmup_epochs"] == float(drawn["training.warmup_epochs"])
        assert config["augmentation"]["hsv"]["prob"] == float(drawn["augmentation.hsv.prob"])
        assert config["origins"]["training.lr"][0] == "tracker"
    assert len({trial["parameters"]["training.lr"] for trial in answer["trials"]}) == 3

    def least_loss(task: str) -> float:
        events = search.server.events(task, "training_stats_scalar")
        return min(e["value"] for e in events if (e["metric"], e["variant"]) == ("val", "loss"))

    assert ranks(answer) == sorted(runs, key=least_loss)
    assert [trial["objective"] for trial in answer["trials"]] == sorted(map(least_loss, runs))
    assert search.optimizer["status"] == "completed"
    assert search.optimizer["hyperparams"]["space"]["training/lr"]["value"] == "log:1e-4..1e-1"


# ---- what is drawn, how often, and who wins --------------------------------------------------------------------


def test_a_grid_tries_every_combination_once_and_ranks_them(search: Search) -> None:
    search.hire(reporting(search.server))
    answer = search.answer(
        *("--param", "training.lr=0.1,1e-3", "--param", "training.batch_size=2,5"),
        *("--strategy", "grid", "--concurrent", "4"),
    )
    drawn = {trial["task"]: trial["parameters"] for trial in answer["trials"]}
    combinations = list(product(("0.1", "1e-3"), ("2", "5")))
    assert sorted((p["training.lr"], p["training.batch_size"]) for p in drawn.values()) == sorted(combinations)

    def value(task: str) -> float:
        return float(drawn[task]["training.lr"]) * float(drawn[task]["training.batch_size"])

    assert ranks(answer) == sorted(drawn, key=value, reverse=True)
    assert all(trial["objective"] == pytest.approx(value(trial["task"])) for trial in answer["trials"])
    assert sorted(search.executed) == sorted(drawn)


def test_no_trial_more_than_asked_is_made_and_failures_are_named(search: Search) -> None:
    """ClearML's own strategies would make six here: two rounds of three."""
    taken = iter(range(100))

    def work(task: str, parameters: Mapping[str, str]) -> None:
        if next(taken) == 1:
            raise RuntimeError("the disk is full")
        say_scalar(search.server, task, "val/loss", float(parameters["training/lr"]))

    for _ in range(3):
        search.hire(work)
    done = search.tune(
        *("--param", "training.lr=log:1e-4..1e-1", "--objective", "val/loss", "--strategy", "random"),
        *("--trials", "4", "--concurrent", "3", "--seed", "7"),
    )
    assert done.code == 0, done.err
    assert len(search.trials) == 4
    (failed,) = [trial for trial in search.trials if trial["status"] == "failed"]
    lines = done.out.splitlines()
    assert lines[0] == "3 of 4 trials reported val/loss; best by least val/loss"
    assert lines[1].split() == ["rank", "val/loss", "training.lr", "state", "task", "address"]
    rates = {
        t["id"]: float(t["hyperparams"]["training"]["lr"]["value"]) for t in search.trials if t["id"] != failed["id"]
    }
    by_rate = sorted(rates, key=lambda task: rates[task])
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "3"]
    assert [line.split()[4] for line in lines[2:5]] == by_rate
    assert all(f"/{task}/" in line.split()[5] for task, line in zip(by_rate, lines[2:5], strict=True))
    assert lines[5] == f"failed: {failed['name']} ({failed['id']}): the disk is full"
    assert "seed 7" in lines[6]
    assert "4 of 4 trials over (" in done.err and "1 failed" in done.err


def test_trials_are_judged_by_their_best_value_or_by_their_last(search: Search) -> None:
    def work(task: str, parameters: Mapping[str, str]) -> None:
        rises = parameters["training/batch_size"] == "2"
        for step, value in enumerate((0.2, 0.3) if rises else (0.9, 0.1)):
            say_scalar(search.server, task, "val/AP/red cell", value, step)

    search.hire(work)
    search.hire(work)
    common = ["--param", "training.batch_size=2,4", "--strategy", "grid", "--objective", "val/AP/red cell"]
    best = {t["parameters"]["training.batch_size"]: t["objective"] for t in search.answer(*common)["trials"]}
    last = {
        t["parameters"]["training.batch_size"]: t["objective"]
        for t in search.answer(*common, "--judge", "last")["trials"]
    }
    assert list(best.items()) == [("4", 0.9), ("2", 0.3)]
    assert list(last.items()) == [("2", 0.3), ("4", 0.1)]


def test_a_seed_says_which_values_are_drawn(search: Search) -> None:
    search.hire(reporting(search.server))
    search.answer(*("--param", "training.lr=log:1e-4..1e-1", "--strategy", "random", "--trials", "2", "--seed", "11"))
    expected = random.Random(11)
    drawn = [float(trial["hyperparams"]["training"]["lr"]["value"]) for trial in search.trials]
    assert drawn == pytest.approx([10 ** expected.uniform(-4, -1) for _ in range(2)])


def test_optuna_makes_the_trials_asked_for(search: Search) -> None:
    pytest.importorskip("optuna")
    search.hire(reporting(search.server))
    answer = search.answer(
        *("--param", "training.lr=log:1e-4..1e-1", "--param", "training.batch_size=1..8"),
        *("--trials", "4", "--concurrent", "2"),
    )
    assert answer["strategy"] == "optuna"
    values = [trial["objective"] for trial in answer["trials"]]
    assert len(values) == 4 and values == sorted(values, reverse=True)
    assert all(1 <= int(trial["parameters"]["training.batch_size"]) <= 8 for trial in answer["trials"])


# ---- refused before anything starts ----------------------------------------------------------------------------


def test_every_mistake_is_named_at_once_and_nothing_is_started(search: Search) -> None:
    say_scalar(search.server, search.base, "val/AP50", 0.5)
    before = search.server.state()["task"]
    done = search.place.run(
        *("tune", search.base, "--queue", "trails", "--objective", "val/AP", "--strategy", "random"),
        *("--param", "training.lrr=1", "--param", "training.batch_size=4,x", "--param", "training.lr=2..1"),
    )
    assert (done.code, done.out) == (2, "")
    for said in (
        "6 mistakes in the search; nothing was started",
        "training.lr (--param): found '2..1': the first number must be less than the second",
        "training.lrr (--param): there is no such key",
        "training.batch_size (--param): found 'x'; allowed: a whole number of at least 1",
        "--objective: the base run has reported no scalar 'val/AP'",
        "it has reported, for example: val/AP50",
        f"base task ({search.base}): data.local.path names a path of its machine, {search.place.folder / 'cells'}",
        "--queue: the ClearML server has no queue trails",
        "did you mean trials?",
    ):
        assert said in done.err
    assert search.server.state()["task"] == before


def test_a_task_that_was_executed_from_a_queue_needs_no_word_for_its_paths(search: Search) -> None:
    search.server.enqueue(search.base, QUEUE)
    search.hire(reporting(search.server))
    search.server.wait_for_status(search.base)
    done = search.place.run(
        *("tune", search.base, "--queue", QUEUE, "--param", "training.lr=0.5", "--strategy", "grid", "--poll", "1")
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"repository": "", "diff": "raise SystemExit('no remote')"}, "its code is in no repository"),
        ({"requirements": {"pip": "# lab 1.0 exists only in /here"}}, "lab 1.0 exists only in /here"),
    ],
)
def test_what_only_the_base_runs_machine_has_is_refused(search: Search, change: dict[str, Any], said: str) -> None:
    search.server.call("tasks.edit", task=search.base, force=True, script={**SCRIPT, **change})
    done = search.tune("--param", "training.lr=0.1,0.2")
    assert done.code == 2 and said in done.err, done.err


def test_a_base_that_is_none_is_refused(search: Search) -> None:
    nobody = search.place.run("tune", "0" * 32, "--queue", QUEUE, "--param", "training.lr=0.1")
    assert nobody.code == 2 and f"has no task '{'0' * 32}'" in nobody.err
    folder = search.place.run("tune", "cells", "--queue", QUEUE, "--param", "training.lr=0.1")
    assert folder.code == 2 and "cells is not the folder of a run that stands on a ClearML server" in folder.err
    made = search.server.call("tasks.create", name="foreign", type="training")["id"]
    foreign = search.place.run("tune", made, "--queue", QUEUE, "--param", "training.lr=0.1")
    assert foreign.code == 1 and "has no configuration object `detloom`" in foreign.err


def test_without_a_server_nothing_is_searched(search: Search) -> None:
    search.place.more = search.server.environ(CLEARML_API_HOST=NOWHERE)
    done = search.tune("--param", "training.lr=0.1")
    assert done.code == 5 and f"the ClearML server {NOWHERE} cannot be used" in done.err


# ---- stopped ---------------------------------------------------------------------------------------------------


def stuck_from_the_second_on(search: Search) -> Work:
    """The first trial ends, later ones run until somebody stops them."""

    def work(task: str, parameters: Mapping[str, str]) -> None:
        say_scalar(search.server, task, "val/AP", 0.5)
        while search.executed[0] != task and search.server.task(task)["status"] == "in_progress":
            if search.over.wait(0.1):
                return

    return work


@pytest.mark.parametrize("strategy", ["random", "optuna"])
def test_ctrl_c_ends_the_search_and_keeps_what_is_finished(search: Search, strategy: str) -> None:
    if strategy == "optuna":
        pytest.importorskip("optuna")
    search.hire(stuck_from_the_second_on(search))
    process = search.start(
        *("--param", "training.lr=log:1e-4..1e-1", "--strategy", strategy, "--trials", "9", "--concurrent", "2")
    )
    search.wait_for_trial(2, process)
    time.sleep(2)  # the optimizer has seen that the first one ended, and put another into the queue
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert done.code == 130, done.err
    states = {trial["id"]: trial["status"] for trial in search.trials}
    assert [states.pop(task) for task in search.executed] == ["completed", "stopped"]
    assert set(states.values()) == {"created"}
    assert not any(queue["entries"] for queue in search.server.state()["queue"].values())
    assert search.optimizer["status"] == "stopped"
    assert f" {search.executed[0]} " in done.out
    assert "Traceback" not in done.err


def test_an_abort_of_the_optimizers_task_ends_the_search(search: Search) -> None:
    search.hire(stuck_from_the_second_on(search))
    process = search.start("--param", "training.lr=0.1,0.2,0.3", "--strategy", "grid", "--concurrent", "2")
    search.wait_for_trial(2, process)
    search.server.stop(search.optimizer["id"])
    done = ended(process)
    assert done.code == 130 and "the search was aborted on the server" in done.err
    assert not any(trial["status"] in {"in_progress", "queued"} for trial in search.trials)


def test_a_trial_that_takes_too_long_is_aborted_and_the_search_goes_on(search: Search) -> None:
    search.hire(stuck_from_the_second_on(search))
    answer = search.answer(
        *("--param", "training.lr=0.1,0.2,0.3", "--strategy", "grid", "--concurrent", "1", "--trial-minutes", "0.02")
    )
    assert [trial["state"] for trial in answer["trials"]].count("aborted") == 2
    assert len(answer["trials"]) == 3


@pytest.mark.slow
def test_a_search_ends_when_its_time_is_up(search: Search) -> None:
    search.hire(stuck_from_the_second_on(search))
    done = search.tune(*("--param", "training.lr=log:1e-4..1e-1", "--strategy", "random", "--hours", "0.001"))
    assert done.code == 0 and "stopped after 0.001 hours, as asked" in done.err, done.err
    assert not any(trial["status"] in {"in_progress", "queued"} for trial in search.trials)


@pytest.mark.slow
def test_a_search_outlives_a_server_that_does_not_answer_for_a_while(search: Search) -> None:
    search.hire(reporting(search.server, seconds=1))
    process = search.start("--param", "training.lr=0.1,0.2,0.3,0.4", "--strategy", "grid", "--concurrent", "1")
    search.wait_for_trial(2, process)
    search.server.fault("*", status=503)
    time.sleep(8)
    search.server.clear_faults()
    done = ended(process)
    assert done.code == 0, done.err
    assert "the search goes on when it is back" in done.err
    assert [trial["status"] for trial in search.trials] == ["completed"] * 4
