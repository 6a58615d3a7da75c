"""queues and workers."""

from __future__ import annotations

from .store import COMPANY, USER, Action, Body, Record, Refused, Store, now


def named(store: Store, name: str) -> Record | None:
    return next((queue for queue in store.all("queue") if queue["name"] == name), None)


def default(store: Store) -> Record:
    return next(queue for queue in store.all("queue") if "default" in queue["system_tags"])


def chosen(store: Store, body: Body) -> Record:
    """The queue that an enqueue request means. One that is only named is made when it does not exist."""
    if body.get("queue"):
        return store.get("queue", body["queue"])
    name = body.get("queue_name")
    if not name:
        return default(store)
    return named(store, name) or store.new("queue", name=name, entries=[], tags=[], system_tags=[])


def withdraw(store: Store, task: str) -> int:
    """Takes a task out of every queue; returns from how many."""
    removed = 0
    for queue in store.all("queue"):
        kept = [entry for entry in queue["entries"] if entry["task"] != task]
        removed += len(queue["entries"]) - len(kept)
        queue["entries"] = kept
    return removed


def create(store: Store, body: Body) -> Record:
    if named(store, body["name"]):
        raise Refused(400, 703, f"Queue with the same name already exists: {body['name']}")
    labels = {name: body.get(name) or [] for name in ("tags", "system_tags")}
    return {"id": store.new("queue", name=body["name"], entries=[], **labels)["id"]}


def get_by_id(store: Store, body: Body) -> Record:
    return {"queue": store.get("queue", body["queue"])}


def get_default(store: Store, body: Body) -> Record:
    queue = default(store)
    return {"id": queue["id"], "name": queue["name"]}


def get_next_task(store: Store, body: Body) -> Record:
    entries = store.get("queue", body["queue"])["entries"]
    return {"entry": entries.pop(0)} if entries else {}


def get_num_entries(store: Store, body: Body) -> Record:
    return {"num": len(store.get("queue", body["queue"])["entries"])}


def remove_task(store: Store, body: Body) -> Record:
    return {"removed": withdraw(store, body["task"])}


def delete(store: Store, body: Body) -> Record:
    del store.records["queue"][store.get("queue", body["queue"])["id"]]
    return {"deleted": 1}


def register(store: Store, body: Body) -> Record:
    labels = {name: body.get(name) or [] for name in ("queues", "tags")}
    store.records["worker"][body["worker"]] = {"id": body["worker"], "register_time": now(), **labels}
    return {}


def unregister(store: Store, body: Body) -> Record:
    store.records["worker"].pop(body["worker"], None)
    return {}


def status_report(store: Store, body: Body) -> Record:
    fresh = {"id": body["worker"], "queues": [], "register_time": now()}
    worker = store.records["worker"].setdefault(body["worker"], fresh)
    queues = body.get("queues") or worker["queues"]
    stats = body.get("machine_stats")
    worker.update(task=body.get("task"), queues=queues, last_activity_time=now(), machine_stats=stats)
    return {}


def get_all_workers(store: Store, body: Body) -> Record:
    return {"workers": [_described(store, worker) for worker in store.all("worker")]}


def _described(store: Store, worker: Record) -> Record:
    task = store.records["task"].get(worker.get("task") or "")
    queues = [store.get("queue", id_) for id_ in worker["queues"] if id_ in store.records["queue"]]
    return {
        **worker,
        "user": {"id": USER, "name": "tests"},
        "company": {"id": COMPANY, "name": "acceptance"},
        "ip": "127.0.0.1",
        "tags": worker.get("tags") or [],
        "queues": [
            {"id": queue["id"], "name": queue["name"], "next_task": None, "num_tasks": len(queue["entries"])}
            for queue in queues
        ],
        "task": task
        and {"id": task["id"], "name": task["name"], "running_time": 0, "last_iteration": task["last_iteration"]},
    }


def get_runtime_properties(store: Store, body: Body) -> Record:
    """The agent asks and lives without: the open-source server does not have this endpoint."""
    raise Refused(404, 0, "Unable to find endpoint for name workers.get_runtime_properties")


ACTIONS: dict[str, Action] = {
    "queues.create": create,
    "queues.get_by_id": get_by_id,
    "queues.get_default": get_default,
    "queues.get_next_task": get_next_task,
    "queues.get_num_entries": get_num_entries,
    "queues.remove_task": remove_task,
    "queues.delete": delete,
    "workers.register": register,
    "workers.unregister": unregister,
    "workers.status_report": status_report,
    "workers.get_all": get_all_workers,
    "workers.get_runtime_properties": get_runtime_properties,
}
