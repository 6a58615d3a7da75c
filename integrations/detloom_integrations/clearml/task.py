"""The task of a run: opened before the run, shown the configuration, asked for edits, closed at the end.

The SDK's `Task` serves the life cycle, the heartbeat, the console and the abort; numbers, pictures and files go
through `delivery`, which knows what arrived. Whatever can block is bounded: the server is probed before the SDK is
asked anything, and the end of a run waits for `close_timeout` at most.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detloom.errors import DetloomError
from detloom.specs import LoggerContext, TrackedConfig, TrackerReply
from detloom_integrations.clearml.environment import is_agent
from detloom_integrations.clearml.naming import edited_here, moved, task_name, value_of
from detloom_integrations.clearml.parameters import configuration_of, hyperparams_of, read_edits
from detloom_integrations.clearml.refusals import (
    refuse_second_task,
    refuse_what_no_task_may_hold,
    secret_in_destination,
)

if TYPE_CHECKING:
    from detloom.specs import Logger
    from detloom_integrations.clearml.delivery import Delivery
    from detloom_integrations.clearml.server import Server
    from detloom_schemas.config import ClearMLConfig

log = logging.getLogger("detloom")

ABORT_POLL_S = 5.0
STATUS_ACTIONS = {"failed": "tasks.failed", "interrupted": "tasks.stopped", "completed": "tasks.completed"}


class _Nothing(dict[str, bool]):
    """For `auto_connect_frameworks`: false as a whole, and false for every name, the detection of the repository
    included, which Detloom does itself."""

    def get(self, key: object, default: object = None) -> Any:
        return False


class TaskTracker:
    """One run on ClearML. Without a server (mode offline, or best-effort when none answers) everything is kept in the
    run's folder, to be sent later."""

    def __init__(self, settings: ClearMLConfig) -> None:
        self.settings = settings
        self.server: Server | None = None
        self.task_id = ""
        self.remote = False
        self._task: Any = None
        self._record: dict[str, Any] = {}
        self._problems: tuple[str, ...] = ()
        self._named_by_user = True
        self._moved = ""
        self._name = ""
        self._before: Mapping[str, str] = {}
        self._baseline: Mapping[str, Any] = {}
        self._continued = False
        self._stop = threading.Event()
        self._over = threading.Event()
        self._delivery: Delivery | None = None
        self._kept: dict[str, tuple[Path, int]] = {}
        self._kept_epoch = 0

    # ---- before the run ----------------------------------------------------------------------------------------

    def connect(self, config: TrackedConfig) -> TrackerReply:
        """Open the task. Under an agent: what its parameters say, as edits of the configuration it was made with."""
        self.remote = is_agent(os.environ)
        self._named_by_user = value_of(config, "experiment.name") is not None
        self._before = dict(config.identity)
        if self.remote:
            return self._open_remote()
        refuse_what_no_task_may_hold(config)
        if self.settings.mode != "offline":
            self.server = self._reach()
        if self.server is not None:
            self._open_local(config)
        return TrackerReply()

    def _open_remote(self) -> TrackerReply:
        """The agent's task. There is nothing to go on with when the server cannot be asked."""
        from detloom_integrations.clearml.environment import task_id
        from detloom_integrations.clearml.server import Server

        self.server = Server.open()
        self.task_id = task_id(os.environ)
        document = self._fetch("hyperparams", "configuration", "models.output", "output.destination")
        self._continued = bool(document.get("models", {}).get("output"))
        reply = read_edits(document.get("hyperparams") or {}, document.get("configuration") or {})
        self._baseline = reply.document or {}
        return replace(reply, mistakes=(*reply.mistakes, *secret_in_destination(document)))

    def _reach(self) -> Server | None:
        """The server, or None when the run may go on without it and has to."""
        from detloom_integrations.clearml.server import Server

        try:
            server = Server.open()
            for action in ("projects.get_all", "tasks.get_all"):  # without an answer to these Task.init waits for ever
                server.call(action, only_fields=["id"], page=0, page_size=1)
            return server
        except DetloomError as error:
            if self.settings.mode == "required":
                raise
            log.warning("%s", error.message)
            log.warning("the run goes on without ClearML; what it reports is kept in its folder")
            return None

    def _open_local(self, config: TrackedConfig) -> None:
        """A task of its own, or the one of the run that is being continued."""
        before = config.identity.get("task", "")
        if before and self._exists(before):
            self.task_id = before
            self._continued = True
        self._init(value_of(config, "experiment.project"), task_name(config))

    def _exists(self, task_id: str) -> bool:
        from detloom_integrations.clearml.server import ServerRefusedError

        assert self.server is not None
        try:
            found = self.server.call("tasks.get_by_id", task=task_id)["task"]
        except ServerRefusedError as error:
            log.warning("the run's task %s cannot be continued (%s): a new one is made", task_id, error.reason)
            return False
        if found.get("status") == "published":
            log.warning("the run's task %s was published and may not change: a new one is made", task_id)
            return False
        return True

    def _init(self, project: str, name: str) -> None:
        """Task.init, after which the SDK pings, listens for an abort and sends what is printed."""
        from detloom_integrations.clearml.sdk import ABORT_GRACE_S, leave_signals_alone, quiet_sdk

        with quiet_sdk():
            from clearml import Task

            if not self.remote:
                refuse_second_task(Task.current_task())
            self._task = Task.init(
                project_name=project,
                task_name=name,
                reuse_last_task_id=self.task_id or False,
                continue_last_task=0 if self.task_id else False,
                output_uri=self.settings.output_uri or True,
                auto_connect_arg_parser=False,
                auto_connect_frameworks=_Nothing(),
                auto_connect_streams=self.settings.console,
                auto_resource_monitoring=self.settings.resource_monitoring,
            )
            self.task_id = str(self._task.id)
            leave_signals_alone(Task)
            limit = self.settings.close_timeout + ABORT_GRACE_S
            self._task.register_abort_callback(self._on_abort, callback_execution_timeout=limit)

    def confirm(self, config: TrackedConfig, settings: ClearMLConfig) -> None:
        """Write what will really be run: parameters, baseline and, for a task made here, the script. Edits are refused
        here, before the SDK shows or a run keeps anything of them."""
        from detloom_integrations.clearml.sdk import refresh

        refuse_what_no_task_may_hold(config)
        self.settings = settings
        self._record = {
            "project": value_of(config, "experiment.project"),
            "name": task_name(config),
            "tags": list(value_of(config, "experiment.tags")),
            "type": "training",
            "hyperparams": hyperparams_of(config),
            "configuration": configuration_of(config),
        }
        if self.remote:
            self._named_by_user = value_of(config, "experiment.name") is not None
        else:
            from detloom_integrations.clearml.script import describe_script

            script = describe_script(config, Path.cwd())
            self._record["script"] = script.section
            self._problems = script.problems
        if self.server is None:
            return
        if self.remote:
            self._init(self._record["project"], self._record["name"])
        parts = ("hyperparams", "configuration", "script")
        changes: dict[str, Any] = {key: self._record[key] for key in parts if key in self._record}
        changes |= edited_here(config, self._baseline) if self.remote else {"tags": self._record["tags"]}
        self._moved = moved(config, self._baseline) if self.remote else ""
        self.server.call("tasks.edit", task=self.task_id, force=True, **changes)
        refresh(self._task)
        log.info("task     %s", self.address)

    @property
    def address(self) -> str:
        """The task's page."""
        if self.server is None or self._task is None:
            return ""
        return self.server.web_address(self.task_id, str(self._task.project))

    def identity(self) -> Mapping[str, str]:
        """Without the server a continued run keeps the task that it had."""
        return {"task": self.task_id, "url": self.address} if self.task_id else self._before

    # ---- while the run goes on ---------------------------------------------------------------------------------

    def logger(self, context: LoggerContext) -> Logger:
        """What takes the run's numbers, pictures and files."""
        from detloom_integrations.clearml.delivery import Delivery
        from detloom_integrations.clearml.run_logger import RunLogger

        for problem in self._problems:  # said here and not before: now the run has a log
            log.info("an agent could not execute this run: %s", problem)
        if self._moved:
            log.warning("%s", self._moved)
        self._record["name"] = self._record["name"] if self._named_by_user else context.run_name
        if self.server is not None and not self._named_by_user and not self.remote:
            self._name = context.run_name
            self._rename()
        self._delivery = Delivery(
            self.server,
            self.task_id,
            context.run_dir,
            record=self._record,
            limit_bytes=int(self.settings.spool_mb * 2**20),
            close_timeout=self.settings.close_timeout,
            output_uri=self.settings.output_uri,
        )
        if context.base_weights:
            name = context.base_weights.replace("\\", "/").rpartition("/")[2]
            self._delivery.base_weights(name, context.base_weights)
        return RunLogger(self._delivery, context, self._keep_state)

    def keep_checkpoint(self, kind: Literal["last", "best"], path: Path, epoch: int, step: int) -> None:
        """The state goes up every `checkpoint_interval` epochs, with the best weights so far; and at once when the run
        is being stopped, because the next machine will have nothing else."""
        self._kept[kind] = (path, step)
        due = epoch - self._kept_epoch >= self.settings.checkpoint_interval
        if kind == "last" and (due or self._stop.is_set()):
            self._kept_epoch = epoch
            self._keep_state()

    def _keep_state(self) -> None:
        for kind in list(self._kept):
            kept = self._kept.pop(kind, None)  # the training and an abort may come at the same time
            if kept is not None and self._delivery is not None:
                self._delivery.checkpoint(kind, *kept)

    def restore_checkpoint(self, kind: Literal["last", "best"], dest: Path) -> Path | None:
        """From the task's own models, when an agent executes it once more."""
        if not self.remote or not self._continued or self.server is None:
            return None
        from detloom_integrations.clearml.restoring import fetch_model

        return fetch_model(self.server, self.task_id, kind, dest)

    def stop_requested(self) -> bool:
        return self._stop.is_set()

    def _on_abort(self) -> None:
        """Called by the SDK in a thread of its own; when it returns, the process is killed. The state so far goes up
        at once: the run may be in an evaluation or an export that takes longer than there is time. Before the first
        step there is nothing to wait for."""
        self._stop.set()
        if self._delivery is None:
            return
        self._keep_state()
        self._over.wait(self.settings.close_timeout)

    # ---- after the run -----------------------------------------------------------------------------------------

    def close(self, status: str, error: str) -> None:
        """End the task. Never takes longer than `close_timeout`, half of which the SDK may use."""
        if self.server is not None and self.task_id:
            self._end_in_time(status, error, self.settings.close_timeout / 2)
        self._over.set()

    def _end_in_time(self, status: str, error: str, seconds: float) -> None:
        """In a thread, which does not outlive the process when it hangs."""
        from detloom_integrations.clearml.sdk import abandon_sdk

        thread = threading.Thread(target=self._end, args=(status, error), name="clearml-close", daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            abandon_sdk()
            log.warning("ClearML did not take the end of the run in %.0f s; the run is whole without it", seconds)

    def _end(self, status: str, error: str) -> None:
        from detloom_integrations.clearml.sdk import close_task

        assert self.server is not None
        if self._task is not None:
            close_task(self._task, status, error)
        if self._name:
            self._rename()
        if self.remote and status == "completed":
            return  # the agent completes it when the process has ended
        action = STATUS_ACTIONS.get(status, "tasks.completed")
        try:
            self.server.call(action, task=self.task_id, force=True, status_reason=status, status_message=error)
        except DetloomError as problem:
            log.warning("the end of the run could not be told to ClearML: %s", problem.message)

    def _rename(self) -> None:
        """A local run's task is called as its folder. When the server does not answer now, at the end of the run."""
        assert self.server is not None
        try:
            self.server.call("tasks.edit", task=self.task_id, force=True, name=self._name)
        except DetloomError as problem:
            log.warning("the task could not be named %s: %s", self._name, problem.message)
        else:
            self._name = ""

    def _fetch(self, *fields: str) -> dict[str, Any]:
        assert self.server is not None
        found = self.server.call("tasks.get_all", id=[self.task_id], only_fields=["status", *fields])["tasks"]
        if not found:
            raise DetloomError(f"the ClearML server has no task {self.task_id}")
        return dict(found[0])
