"""tasks: the way from created over queued and in_progress to an end."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from . import queues
from .store import Action, Body, Record, Refused, Store, now
from .tasks import touch

ENDED = ("completed", "failed", "stopped", "published", "closed")
UNFINISHED = ("in_progress", "queued", "created")


def change(task: Record, status: str, body: Body, allowed: Collection[str], **fields: Any) -> Record:
    """Raises Refused unless the task is in one of the allowed states or the request forces it."""
    if task["status"] not in allowed and not body.get("force"):
        states = f"task={task['id']}, current_status={task['status']}, new_status={status}"
        raise Refused(400, 110, f"Invalid task status: {states}")
    reasons = {name: body.get(name) or "" for name in ("status_reason", "status_message")}
    return touch(task, status=status, status_changed=now(), **reasons, **fields)


def started(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    begun = task.get("started") or now()
    return {
        **change(task, "in_progress", body, ("created", "queued", "in_progress", "stopped"), started=begun),
        "started": 1,
    }


def stop(store: Store, body: Body) -> Record:
    """A user asks: a task that a worker holds is told to stop, any other is stopped."""
    task = store.get("task", body["task"])
    queues.withdraw(store, task["id"])
    held = any(worker.get("task") == task["id"] for worker in store.all("worker"))
    if task["status"] == "in_progress" and held and not body.get("force"):
        reason = body.get("status_reason") or ""
        return touch(task, status_reason=reason, status_message="stopping", status_changed=now())
    asked = Body(body, status_message=body.get("status_message") or "Stopped by tests")
    return change(task, "stopped", asked, UNFINISHED, completed=now())


def stopped(store: Store, body: Body) -> Record:
    return change(store.get("task", body["task"]), "stopped", body, (*UNFINISHED, "stopped"), completed=now())


def completed(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    answer = change(task, "completed", body, ("in_progress", "stopped", "completed"), completed=now())
    if body.get("publish"):
        publish(store, Body(task=task["id"], force=True))
    return {**answer, "published": int(bool(body.get("publish")))}


def failed(store: Store, body: Body) -> Record:
    allowed = (*UNFINISHED, "stopped", "failed")
    return change(store.get("task", body["task"]), "failed", body, allowed, completed=now())


def publish(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    answer = change(task, "published", body, ("stopped", "completed", "failed"), published=now())
    if body.get("publish_model", True):
        for entry in task["models"]["output"]:
            if entry["model"] in store.records["model"]:
                store.get("model", entry["model"])["ready"] = True
    return {**answer, "committed_versions_results": []}


def reset(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    if task["status"] == "published" and not body.get("force"):
        raise Refused(400, 110, "Invalid task status")
    store.events.pop(task["id"], None)
    task["execution"]["artifacts"] = []
    task["models"]["output"] = []
    task.update(last_iteration=0, last_metrics={}, runtime={})
    task.pop("started", None)
    task.pop("completed", None)
    if body.get("clear_all"):
        task.update(hyperparams={}, configuration={})
    queues.withdraw(store, task["id"])
    answer = change(task, "created", Body(body, force=True), ())
    return {**answer, "dequeued": {}, "deleted_models": 0, "events": {}, "urls": {}}


def enqueue(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    queue = queues.chosen(store, body)
    script = task.get("script") or {}
    if not (script.get("repository") or script.get("diff")) or not script.get("entry_point"):
        raise Refused(400, 112, f"Task execution requires script.repository/diff and entry_point: {script}")
    allowed = (*ENDED, "created", "queued") if body.get("force") else ("created", "stopped")
    answer = change(task, "queued", body, allowed, enqueue_status="created")
    task["execution"]["queue"] = queue["id"]
    queue["entries"].append({"task": task["id"], "added": now()})
    if body.get("verify_watched_queue"):
        answer["queue_watched"] = any(queue["id"] in worker["queues"] for worker in store.all("worker"))
    return {**answer, "queued": 1}


def dequeue(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    queues.withdraw(store, task["id"])
    status = body.get("new_status") or "created"
    return {**touch(task, status=status, status_changed=now(), enqueue_status=None), "dequeued": 1}


def ping(store: Store, body: Body) -> Record:
    touch(store.get("task", body["task"]))
    return {}


ACTIONS: dict[str, Action] = {
    "tasks.started": started,
    "tasks.stop": stop,
    "tasks.stopped": stopped,
    "tasks.completed": completed,
    "tasks.failed": failed,
    "tasks.publish": publish,
    "tasks.reset": reset,
    "tasks.enqueue": enqueue,
    "tasks.dequeue": dequeue,
    "tasks.ping": ping,
}
