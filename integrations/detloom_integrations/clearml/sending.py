"""Sends later what a run left in its folder: a run without a server, or what an outage held back.

May be interrupted and repeated: a task is made once, and what the server has acknowledged is not sent again.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.errors import UnreachableError, UsageError
from detloom.files import write_json
from detloom_integrations.clearml.delivery import (
    EVENT_SPOOL,
    TASK_FILE,
    UPLOAD_SPOOL,
    CloseReport,
)
from detloom_integrations.clearml.senders import Counts, EventSender, Sender, UploadSender
from detloom_integrations.clearml.server import ServerRefusedError
from detloom_integrations.clearml.spool import Spool
from detloom_integrations.clearml.storage import StorageError
from detloom_integrations.clearml.uploads import FOLDER

if TYPE_CHECKING:
    from detloom_integrations.clearml.server import Server

ATTEMPTS = 3
"""In a row without an answer, before sending is given up until the next time."""

TRACKER = "clearml"
"""What run.json calls this tracker."""

_NAME_TAKEN = 801

_ENDINGS = {
    "completed": ("tasks.completed", "completed"),
    "stopped early": ("tasks.completed", "completed"),
    "failed": ("tasks.failed", "failed"),
}
_INTERRUPTED = ("tasks.stopped", "stopped")


def send_run(run_dir: Path, server: Server) -> CloseReport:
    """Deliver everything that waits in `run_dir`; the report's `waiting` says whether a next time is needed.

    Raises UsageError when the folder holds no ClearML record, is being trained or belongs to a task that is gone,
    UnreachableError when the task cannot be made.
    """
    from detloom.run_folder import locked

    start = time.monotonic()
    path = run_dir / FOLDER / TASK_FILE
    record = _read(path)
    if record is None:
        raise UsageError(
            f"{run_dir} holds nothing for ClearML ({path} is missing or damaged)",
            hint="give the folder of a run that was tracked: experiment.clearml.mode offline or best-effort",
        )
    with locked(run_dir):
        run = _read(run_dir / "run.json") or {}
        task = _find_task(server, record) or _make_task(server, record, run, path)
        counts, waiting = _deliver(server, task, run_dir, record)
        _remember(run_dir / "run.json", run, task, server)
        if not waiting:
            _end(server, task, run)
    error = "; ".join(filter(None, (counts.loss, counts.problem if waiting else "")))
    return CloseReport(counts.flushed, counts.dropped, waiting, time.monotonic() - start, error)


def sent_task(run_dir: Path) -> str:
    """The task that the run has on the server; empty before it was sent."""
    return str((_read(run_dir / FOLDER / TASK_FILE) or {}).get("task") or "")


def _deliver(server: Server, task: str, run_dir: Path, record: Mapping[str, Any]) -> tuple[Counts, int]:
    """Numbers, then files. Returns what became of them, and how many still wait."""
    counts = Counts()
    folder = run_dir / FOLDER
    # No limit: nothing is added but a file that goes back to the end of its queue.
    events, files = Spool(folder / EVENT_SPOOL, 1 << 62), Spool(folder / UPLOAD_SPOOL, 1 << 62)
    try:
        senders: list[tuple[Sender, Spool]] = [
            (EventSender(server, task, events, counts), events),
            (UploadSender(server, task, run_dir, files, counts, record.get("output_uri")), files),
        ]
        for sender, spool in senders:
            if not _drain(sender, spool, counts):
                break
        return counts, events.waiting + files.waiting
    finally:
        events.close()
        files.close()


def _drain(sender: Sender, spool: Spool, counts: Counts) -> bool:
    """Until nothing waits; false when the server stopped answering. A file that its storage refuses is tried once."""
    silent, refused = 0, 0
    while True:
        try:
            if not sender.send_some():
                return True
            silent = 0
        except StorageError as error:
            counts.hold_up(sender.name, error.message)
            refused += 1
            if refused >= spool.waiting:
                return True
        except UnreachableError as error:
            counts.hold_up(sender.name, error.message)
            silent += 1
            if silent >= ATTEMPTS:
                return False
            time.sleep(silent)


def _find_task(server: Server, record: Mapping[str, Any]) -> str:
    """The task that the run has already; empty when it has none. Raises UsageError when it is gone."""
    task = str(record.get("task") or "")
    if task and not server.call("tasks.get_all", id=[task], only_fields=["id"])["tasks"]:
        raise UsageError(
            f"the run's task {task} is not on {server.access.api}",
            hint=f'was it deleted, or is this another server? For a new task, empty "task" in {FOLDER}/{TASK_FILE}',
        )
    return task


def _make_task(server: Server, record: dict[str, Any], run: Mapping[str, Any], path: Path) -> str:
    """A new task, begun. Its mark is on the disk before the server is asked, and stands in the task's comment: when
    sending was cut off in between, the task is found by it."""
    project = _project(server, str(record["project"]))
    mark = record.get("mark")
    task = _marked_task(server, project, str(record["name"]), str(mark)) if mark else ""
    if not task:
        mark = uuid.uuid4().hex
        record["mark"] = mark
        write_json(path, record)
        about = {key: record[key] for key in ("hyperparams", "configuration", "script") if record.get(key)}
        if record.get("output_uri"):
            about["output_dest"] = record["output_uri"]
        task = server.call(
            "tasks.create",
            name=record["name"],
            type=record.get("type", "training"),
            project=project,
            tags=list(record.get("tags") or []),
            comment=_comment(run, mark),
            **about,
        )["id"]
    server.call("tasks.started", task=task, force=True, status_reason="sent by detloom clearml send")
    record["task"] = task
    write_json(path, record)
    return str(task)


def _comment(run: Mapping[str, Any], mark: str) -> str:
    """The server keeps the times of its own: those of the run are said in words."""
    times = f"started {run.get('started') or 'at an unknown time'}, finished {run.get('finished') or 'never'}"
    return f"run {run.get('name', '')}: {times}, sent later [{mark}]"


def _marked_task(server: Server, project: str, name: str, mark: str) -> str:
    found = server.call(
        "tasks.get_all",
        project=[project],
        name=f"^{re.escape(name)}$",
        only_fields=["id", "comment"],
        search_hidden=True,
    )["tasks"]
    return next((str(task["id"]) for task in found if f"[{mark}]" in str(task.get("comment"))), "")


def _project(server: Server, name: str) -> str:
    """Found by its exact name or made."""

    def find() -> str:
        pattern = f"^{re.escape(name)}$"
        found = server.call("projects.get_all", name=pattern, only_fields=["id", "name"], search_hidden=True)[
            "projects"
        ]
        return next((str(one["id"]) for one in found if one["name"] == name), "")

    project = find()
    if project:
        return project
    try:
        return str(server.call("projects.create", name=name, description="")["id"])
    except ServerRefusedError as error:
        if error.subcode == _NAME_TAKEN and (project := find()):  # somebody was faster
            return project
        raise


def _end(server: Server, task: str, run: Mapping[str, Any]) -> None:
    """The task ends as the run did. A run that did not say how it ended was killed."""
    status = str(run.get("status") or "")
    action, reached = _ENDINGS.get(status, _INTERRUPTED)
    found = server.call("tasks.get_all", id=[task], only_fields=["status"])["tasks"]
    if found and found[0].get("status") not in {reached, "published"}:
        reason = str(run.get("error") or "") or (status if status in _ENDINGS else "interrupted or killed")
        server.call(action, task=task, force=True, status_reason=status, status_message=reason)


def _remember(path: Path, run: Mapping[str, Any], task: str, server: Server) -> None:
    """In run.json, so that the run, when it is resumed, continues this task."""
    trackers = dict(run.get("trackers") or {})
    if not run or dict(trackers.get(TRACKER) or {}).get("task") == task:
        return
    found = server.call("tasks.get_all", id=[task], only_fields=["project"])["tasks"]
    project = str(found[0].get("project") or "") if found else ""
    trackers[TRACKER] = {"task": task, "url": server.web_address(task, project)}
    write_json(path, {**run, "trackers": trackers})


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
