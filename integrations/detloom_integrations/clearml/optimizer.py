"""A search that is going on: ClearML's optimizer over clones of a run. Nothing of our own schedules anything.

The optimizer is a task of its own, whose children are the trials. It lives in this process; the trials live in a queue
and on agents. The server is asked through `Server`, so that this process always comes back; what ClearML's optimizer
asks, it asks in threads that do not outlive the process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.errors import DetloomError, UnreachableError
from detloom_integrations.clearml.server import Server
from detloom_integrations.clearml.space import Dimension
from detloom_integrations.clearml.space_check import Base
from detloom_integrations.clearml.trials import FIELDS, PAGE, Objective, Trial, progress_line, ranked, trial_of

if TYPE_CHECKING:
    from detloom_integrations.clearml.strategies import Exact

log = logging.getLogger("detloom")

END_S = 60.0
"""So long may ClearML's optimizer take to end, its last report included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRequest:
    """What was asked for. base: a task's id or a run's folder. trials: at most; None: 20, or the whole grid.

    hours: for the search; trial_minutes: for each trial; None: no limit. poll_s: seconds between two looks.
    """

    base: str
    queue: str
    params: Sequence[str] = ()
    spaces: Sequence[Path] = ()
    objective: str = "val/AP"
    direction: str = "auto"
    judge: str = "best"
    strategy: str = "auto"
    trials: int | None = None
    concurrent: int = 2
    hours: float | None = None
    trial_minutes: float | None = None
    seed: int | None = None
    poll_s: int = 30
    paths_exist_remotely: bool = False
    command: str = ""


@dataclass(frozen=True, slots=True)
class Search:
    """A search that may start: everything was checked."""

    base: Base
    space: tuple[Dimension, ...]
    objective: Objective
    queue: str
    strategy: str
    trials: int
    seed: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """task, url: of the optimizer. trials: the best first, then those without a number. stopped: by hand or on the
    server. failure: why the optimizer broke, or empty."""

    task: str
    url: str
    objective: Objective
    strategy: str
    seed: int
    trials: tuple[Trial, ...]
    stopped: bool
    failure: str

    @property
    def best(self) -> list[Trial]:
        return ranked(self.trials, self.objective)

    @property
    def exit_code(self) -> int:
        """130 when it was stopped; 1 when no trial reported the objective or the optimizer broke."""
        if self.stopped:
            return 130
        return 0 if self.best and not self.failure else 1

    def to_json(self) -> dict[str, Any]:
        places = {trial.id: rank for rank, trial in enumerate(self.best, start=1)}
        return {
            "task": self.task,
            "url": self.url,
            "objective": {"scalar": self.objective.name, "means": str(self.objective)},
            "strategy": self.strategy,
            "seed": self.seed,
            "stopped": self.stopped,
            "failure": self.failure,
            "trials": [{"rank": places.get(trial.id), **trial.to_json()} for trial in self.trials],
        }


class Controller:
    """A search that is going on."""

    def __init__(self, server: Server, search: Search, request: TuneRequest, say: Callable[[str], None]) -> None:
        self.server, self.search, self.request, self.say = server, search, request, say
        self.task_id = ""
        self.stopped = False
        self._project = str(search.base.record.get("project") or "")
        self._trials: list[Trial] = []
        self._parameters = {dimension.key: dimension.parameter for dimension in search.space}

    def run(self) -> SearchResult:
        self._create()
        status, failure = "tasks.failed", "the search broke"
        try:
            with _quiet():
                optimizer, strategy = self._optimizer()
                try:
                    optimizer.start()
                    self._watch(strategy)
                except KeyboardInterrupt:
                    self.stopped = True
                    self.say("stopping: trials that wait are taken from the queue, running ones are aborted")
                finally:
                    _end(optimizer)
            failure = f"{type(strategy.failure).__name__}: {strategy.failure}" if strategy.failure else ""
            status = "tasks.failed" if failure else "tasks.stopped" if self.stopped else "tasks.completed"
            return self._result(failure)
        finally:
            with contextlib.suppress(DetloomError):
                self.server.call(status, task=self.task_id, force=True, status_reason="", status_message=failure)

    def _create(self) -> None:
        """The optimizer's own task, which says what is searched."""
        search, request = self.search, self.request
        asked = {
            "base": search.base.id,
            "queue": search.queue,
            "objective": str(search.objective),
            "strategy": search.strategy,
            "trials": str(search.trials),
            "concurrent": str(request.concurrent),
            "seed": str(search.seed),
        }
        space = {dimension.parameter: dimension.notation for dimension in search.space}
        self.task_id = self.server.call(
            "tasks.create",
            name=f"tune {search.base.name}",
            type="optimizer",
            **({"project": self._project} if self._project else {}),
            parent=search.base.id,
            comment=request.command,
            hyperparams={"search": _items("search", asked), "space": _items("space", space)},
        )["id"]
        self.server.call("tasks.started", task=self.task_id, status_reason="", status_message="")
        self.say(f"search   {self.server.web_address(self.task_id, self._project)}")

    def _optimizer(self) -> tuple[Any, Exact]:
        from clearml import Task
        from clearml.automation import HyperParameterOptimizer
        from clearml.automation.parameters import RandomSeed

        from detloom_integrations.clearml import strategies
        from detloom_integrations.clearml.events import title_and_series

        search, request = self.search, self.request
        RandomSeed.set_random_seed(search.seed)
        kinds = {"random": strategies.Random, "grid": strategies.Grid}
        title, series = title_and_series(search.objective.name)
        optimizer = HyperParameterOptimizer(
            base_task_id=search.base.id,
            hyper_parameters=[strategies.parameter_of(dimension) for dimension in search.space],
            objective_metric_title=title,
            objective_metric_series=series,
            objective_metric_sign=search.objective.sign,
            optimizer_class=kinds.get(search.strategy) or strategies.optuna_strategy(),
            max_number_of_concurrent_tasks=request.concurrent,
            execution_queue=search.queue,
            optimization_time_limit=request.hours * 60 if request.hours else None,
            auto_connect_task=Task.get_task(task_id=self.task_id),
            pool_period_min=request.poll_s / 60,
            time_limit_per_job=request.trial_minutes,
            max_iteration_per_job=None,
            total_max_jobs=search.trials,
            **(strategies.optuna_settings(search.seed) if search.strategy == "optuna" else {}),
        )
        optimizer.set_report_period(max(request.poll_s / 60, 0.5))
        strategy = optimizer.get_optimizer()
        assert isinstance(strategy, strategies.Exact)
        return optimizer, strategy

    def _watch(self, strategy: Exact) -> None:
        """Until the strategy has finished: say what happens, tell the server that this process lives."""
        said, reachable, started = "", True, time.monotonic()
        while not strategy.finished.wait(self.request.poll_s):
            try:
                self._look()
                reachable = True
            except UnreachableError as error:
                if reachable:
                    self.say(f"{error.message}; the search goes on when it is back")
                reachable = False
                continue
            line = progress_line(self._trials, self.search.objective, self.search.trials, self.request.concurrent)
            # The time left changes at every look; what is worth a line is what happened.
            if line.partition("; about")[0] != said:
                said = line.partition("; about")[0]
                self.say(line)
            if self.stopped:
                self.say("the search was aborted on the server")
                return
        if self.request.hours and time.monotonic() - started > self.request.hours * 3600:
            self.say(f"the search was stopped after {self.request.hours:g} hours, as asked")

    def _look(self) -> None:
        self.server.call("tasks.ping", task=self.task_id)
        own = self.server.call("tasks.get_all", id=[self.task_id], only_fields=["status"])["tasks"]
        self.stopped = not own or own[0].get("status") != "in_progress"
        self._trials = self._children(FIELDS)

    def _children(self, fields: Sequence[str]) -> list[Trial]:
        """In the order in which they were made."""
        rows: list[dict[str, Any]] = []
        while len(rows) % PAGE == 0:
            page = self.server.call(
                "tasks.get_all",
                parent=self.task_id,
                only_fields=list(fields),
                order_by=["created"],
                page=len(rows) // PAGE,
                page_size=PAGE,
            )["tasks"]
            rows += page
            if not page:
                break
        return [
            trial_of(
                row, self.search.objective, self._parameters, self.server.web_address(row["id"], row.get("project", ""))
            )
            for row in rows
        ]

    def _result(self, failure: str) -> SearchResult:
        trials = self._children([*FIELDS, "hyperparams"])
        best = ranked(trials, self.search.objective)
        places = {trial.id: place for place, trial in enumerate(best)}
        return SearchResult(
            task=self.task_id,
            url=self.server.web_address(self.task_id, self._project),
            objective=self.search.objective,
            strategy=self.search.strategy,
            seed=self.search.seed,
            trials=tuple(sorted(trials, key=lambda trial: places.get(trial.id, len(places)))),
            stopped=self.stopped,
            failure=failure,
        )


def _items(section: str, values: dict[str, str]) -> dict[str, dict[str, str]]:
    return {name: {"section": section, "name": name, "value": value} for name, value in values.items()}


def _end(optimizer: Any) -> None:
    """Stop the optimizer, let it write its last report, and wait for `END_S` at most."""

    def stop() -> None:
        # Its reporter sleeps for minutes and would be waited for; it looks at this event alone.
        if optimizer._stop_event is not None:
            optimizer._stop_event.set()
        optimizer.stop(timeout=END_S / 2 / 60)
        optimizer._task.flush(wait_for_uploads=True)

    thread = threading.Thread(target=stop, name="clearml-optimizer-end", daemon=True)
    thread.start()
    deadline = time.monotonic() + END_S
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(0.5)
    if thread.is_alive():
        log.warning("ClearML's optimizer did not end in %.0f s; trials may still wait in the queue", END_S)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ClearML's optimizer prints and warns about itself; what matters is said here."""
    from detloom_integrations.clearml.sdk import quiet_sdk

    logger = logging.getLogger("clearml")
    level = logger.level
    with quiet_sdk(), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
            sys.stdout.flush()
