"""tasks: the way from created over queued and in_progress to an end."""

from __future__ import annotations

from typing import Any

from . import queues
from .store import Action, Body, Record, Refused, Store, now
from .tasks import touch

# From each state, where a request that is not forced may lead. Staying where one is counts as allowed.
TRANSITIONS = {
    "created": {"queued", "in_progress"},
    "queued": {"created", "in_progress", "stopped"},
    "in_progress": {"created", "completed", "failed", "stopped"},
    "stopped": {"created", "queued", "in_progress", "completed", "failed", "closed", "published"},
    "completed": {"created", "in_progress", "published"},
    "failed": {"created", "queued", "stopped", "published"},
    "closed": {"created", "failed", "stopped", "published"},
    "published": set[str](),
}


def change(task: Record, status: str, body: Body, **fields: Any) -> Record:
    """Raises Refused when the task cannot go from its state to the new one and the request does not force it."""
    old = task["status"]
    if status != old and status not in TRANSITIONS[old] and not body.get("force"):
        states = f"task={task['id']}, current_status={old}, new_status={status}"
        raise Refused(400, 110, f"Invalid task status (Invalid status change): {states}")
    reasons = {name: body.get(name) or "" for name in ("status_reason", "status_message")}
    return touch(task, status=status, status_changed=now(), **reasons, **fields)


def started(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    return {**change(task, "in_progress", body, started=task.get("started") or now()), "started": 1}


def stop(store: Store, body: Body) -> Record:
    """A user asks. A task that a worker executes is told to stop; one of a developer's own process is stopped."""
    task = store.get("task", body["task"])
    queues.withdraw(store, task["id"])
    held = any(worker.get("task") == task["id"] for worker in store.all("worker"))
    if held and task["status"] != "queued" and "development" not in task["system_tags"]:
        return change(task, task["status"], Body(body, status_message="stopping"))
    return change(task, "stopped", Body(body, status_message="Stopped by tests"), completed=now())


def stopped(store: Store, body: Body) -> Record:
    return change(store.get("task", body["task"]), "stopped", body, completed=now())


def completed(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    answer = change(task, "completed", body, completed=now())
    if body.get("publish"):
        publish(store, Body(task=task["id"], force=True))
    return {**answer, "published": int(bool(body.get("publish")))}


def failed(store: Store, body: Body) -> Record:
    return change(store.get("task", body["task"]), "failed", body, completed=now())


def publish(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    answer = change(task, "published", body, published=now())
    if body.get("publish_model", True):
        for entry in task["models"]["output"]:
            if entry["model"] in store.records["model"]:
                store.get("model", entry["model"])["ready"] = True
    return {**answer, "committed_versions_results": []}


def reset(store: Store, body: Body) -> Record:
    """A draft again: without results, with its parameters; with clear_all also without its script."""
    task = store.get("task", body["task"])
    asked = Body(body, status_reason="reset", status_message="reset")
    answer = change(task, "created", asked)
    store.events.pop(task["id"], None)
    artifacts = task["execution"].get("artifacts", [])
    task["execution"]["artifacts"] = [artifact for artifact in artifacts if artifact.get("mode") == "input"]
    task["execution"].pop("queue", None)
    task["models"]["output"] = []
    task.update(last_iteration=0, last_metrics={}, unique_metrics=[], metric_stats={}, runtime={}, enqueue_status=None)
    for name in ("started", "completed", "published"):
        task.pop(name, None)
    if body.get("clear_all"):
        task.update(script={}, execution={"artifacts": []})
    queues.withdraw(store, task["id"])
    return {**answer, "dequeued": {}, "deleted_models": 0, "events": {}, "urls": {}}


def enqueue(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    if task["status"] == "queued" and not body.get("force"):
        raise Refused(400, 110, f"Invalid task status (Task already in requested status): task={task['id']}")
    script = task.get("script") or {}
    if not (script.get("repository") or script.get("diff")) or not script.get("entry_point"):
        raise Refused(400, 112, f"Task execution requires script.repository/diff and entry_point: {script}")
    answer = change(task, "queued", body, enqueue_status=task["status"])
    queue = queues.chosen(store, body)
    task["system_tags"] = [tag for tag in task["system_tags"] if tag != "development"]
    task["execution"]["queue"] = queue["id"]
    queue["entries"].append({"task": task["id"], "added": now()})
    if body.get("verify_watched_queue"):
        answer["queue_watched"] = any(queue["id"] in worker["queues"] for worker in store.all("worker"))
    return {**answer, "queued": 1}


def dequeue(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    queues.withdraw(store, task["id"])
    if task["status"] not in ("queued", "in_progress"):
        return {"dequeued": 1, "updated": 0}
    status = body.get("new_status") or task.get("enqueue_status") or "created"
    return {**change(task, status, Body(body, force=True), enqueue_status=None), "dequeued": 1}


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
