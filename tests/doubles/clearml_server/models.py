"""models."""

from __future__ import annotations

from copy import deepcopy

from .store import Action, Body, Record, Refused, Store, now


def create(store: Store, body: Body) -> Record:
    fresh: Record = {
        "name": "",
        "comment": "",
        "tags": [],
        "system_tags": [],
        "uri": "",
        "framework": "",
        "design": {},
        "labels": {},
        "ready": True,
        "metadata": {},
        "last_iteration": 0,
        "last_metrics": {},
    }
    given = {name: value for name, value in body.items() if name not in ("method", "public") and value is not None}
    model = store.new("model", **{**fresh, **given})
    model["last_change"] = model["created"]
    return {"id": model["id"], "created": True}


def edit(store: Store, body: Body) -> Record:
    model = store.get("model", body["model"])
    if not all(isinstance(number, int) for number in (body.get("labels") or {}).values()):
        raise Refused(400, 12, "model labels must be name -> int")
    steering = ("model", "method", "iteration", "force")
    fields = {name: value for name, value in body.items() if name not in steering and value is not None}
    model.update(fields, last_update=now())
    task = store.records["task"].get(body.get("task", ""))
    if task and body.get("iteration") is not None:
        task["last_iteration"] = max(task["last_iteration"], body["iteration"])
    return {"updated": 1, "fields": fields}


def get_by_id(store: Store, body: Body) -> Record:
    return {"model": deepcopy(store.get("model", body["model"]))}


def set_ready(store: Store, body: Body) -> Record:
    store.get("model", body["model"])["ready"] = True
    return {"updated": 1, "published_task": {}}


def delete(store: Store, body: Body) -> Record:
    del store.records["model"][store.get("model", body["model"])["id"]]
    return {"deleted": True, "url": ""}


def add_or_update_metadata(store: Store, body: Body) -> Record:
    metadata = store.get("model", body["model"])["metadata"]
    metadata.update({item["key"]: dict(item) for item in body["metadata"]})
    return {"updated": 1}


def delete_metadata(store: Store, body: Body) -> Record:
    for key in body["keys"]:
        store.get("model", body["model"])["metadata"].pop(key, None)
    return {"updated": 1}


ACTIONS: dict[str, Action] = {
    "models.create": create,
    "models.edit": edit,
    "models.update": edit,
    "models.get_by_id": get_by_id,
    "models.get_by_id_ex": get_by_id,
    "models.set_ready": set_ready,
    "models.delete": delete,
    "models.add_or_update_metadata": add_or_update_metadata,
    "models.delete_metadata": delete_metadata,
}
