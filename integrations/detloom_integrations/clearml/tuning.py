"""`detloom tune`: what is asked for, checked as a whole before ClearML's optimizer starts anything."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from detloom.errors import Mistake, PluginError, UsageError
from detloom_integrations.clearml.optimizer import Controller, Search, SearchResult, TuneRequest
from detloom_integrations.clearml.queueing import find_queue, idle_note
from detloom_integrations.clearml.sending import sent_task
from detloom_integrations.clearml.server import Server, ServerRefusedError
from detloom_integrations.clearml.space import Dimension, read_space
from detloom_integrations.clearml.space_check import (
    Base,
    SearchError,
    base_configuration,
    checked_space,
    objective_mistakes,
    script_mistakes,
)
from detloom_integrations.clearml.trials import Objective

RANDOM_TRIALS = 20


def tune(request: TuneRequest, say: Callable[[str], None]) -> SearchResult:
    """Search until all trials are over, the time is up, or somebody stops it. say: takes lines of progress.

    Raises SearchError with every mistake, before anything is started; UnreachableError; DetloomError.
    """
    server = Server.open()
    search = plan(request, server, say)
    controller = Controller(server, search, request, say)
    return controller.run()


def plan(request: TuneRequest, server: Server, say: Callable[[str], None]) -> Search:
    """Check everything that can be known beforehand. Raises SearchError, DetloomError or UnreachableError."""
    from detloom.host import discover

    strategy = chosen_strategy(request.strategy, say)
    space, mistakes = read_space(request.params, request.spaces)
    base = _base(server, request.base)
    resolved = base_configuration(base, discover())
    checked, found = checked_space(space, base, resolved, grid=strategy == "grid")
    mistakes += [*found, *objective_mistakes(request.objective, base)]
    mistakes += script_mistakes(base, resolved, request.paths_exist_remotely)
    queue = ""
    try:
        queue = find_queue(server, request.queue)
    except UsageError as error:
        mistakes.append(Mistake("--queue", "", error.message, error.hint))
    if mistakes:
        raise SearchError(mistakes)
    if not base.reported:
        say(f"the base run has reported nothing yet: whether it will report {request.objective} is not known")
    note = idle_note(server, queue, request.queue)
    if note:
        say(note)
    maximise = "loss" not in request.objective.lower() if request.direction == "auto" else request.direction == "max"
    objective = Objective(request.objective, maximise, best=request.judge == "best")
    seed = random.SystemRandom().randrange(2**31) if request.seed is None else request.seed
    trials = _trials(request.trials, strategy, checked)
    return Search(base, tuple(checked), objective, request.queue, strategy, trials, seed)


def chosen_strategy(asked: str, say: Callable[[str], None]) -> str:
    """random, grid or optuna. Raises PluginError when Optuna is asked for by name and not installed."""
    if asked not in {"auto", "optuna"}:
        return asked
    if importlib.util.find_spec("optuna") is not None:
        return "optuna"
    if asked == "optuna":
        raise PluginError(
            "the strategy optuna needs the package optuna, which is not installed",
            hint="install it with: pip install optuna, or take --strategy random",
        )
    say("optuna is not installed: values are drawn at random")
    return "random"


def _trials(asked: int | None, strategy: str, space: Sequence[Dimension]) -> int:
    """How many trials at most: never more than there are combinations."""
    combinations = 1
    for dimension in space:
        if dimension.size is None:
            return asked or RANDOM_TRIALS
        combinations *= dimension.size
    return min(combinations, asked or (combinations if strategy == "grid" else RANDOM_TRIALS))


def _base(server: Server, named: str) -> Base:
    """The task of this id, or of the run in this folder."""
    task = _task_of_run(Path(named)) if Path(named).is_dir() else named
    fields = ["name", "status", "project", "script", "hyperparams", "configuration", "last_metrics", "execution.queue"]
    hint = "give the id of a task that Detloom made (the web interface shows it), or a run's folder"
    try:
        found = server.call("tasks.get_all", id=[task], only_fields=["id", *fields])["tasks"]
    except ServerRefusedError as error:
        raise UsageError(f"the ClearML server cannot look up the task {task!r}: {error.reason}", hint=hint) from None
    if not found:
        raise UsageError(f"the ClearML server has no task {task!r}", hint=hint)
    return Base(found[0])


def _task_of_run(folder: Path) -> str:
    from detloom.run_folder import tracker_identities

    for name, identity in tracker_identities(folder).items():
        if name.rpartition(":")[2] == "clearml" and identity.get("task"):
            return identity["task"]
    sent = sent_task(folder)  # of a run that was made offline
    if sent:
        return sent
    raise UsageError(
        f"{folder} is not the folder of a run that stands on a ClearML server",
        hint="a run that was made offline gets there with: detloom clearml send RUN",
    )
