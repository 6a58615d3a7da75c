"""tasks: making, reading, editing, cloning and deleting them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from . import projects, queues
from .store import USER, Action, Body, Record, Refused, Store, now

# fmt: off
TYPES = {
    "training", "testing", "inference", "data_processing", "application", "monitor", "controller", "optimizer",
    "service", "qc", "custom",
}
# fmt: on
MERGED = ("script", "execution", "output")  # an edit of these changes the fields it names; of others, the whole
EDITABLE_AT_BIRTH = (
    "script",
    "hyperparams",
    "configuration",
    "execution",
    "container",
    "models",
    "output_dest",
    "runtime",
)


def touch(task: Record, **fields: Any) -> Record:
    """Changes fields of the task; returns the answer to the request that asked for it."""
    task.update(fields)
    stamp = {"last_update": now(), "last_changed_by": USER}
    stamp["last_change"] = stamp["last_update"]
    task.update(stamp)
    return {"updated": 1, "fields": {**fields, **stamp}}


def open_for_changes(store: Store, id_: str, force: bool) -> Record:
    """The task, whose parts may change while it is a draft and, when forced, while it runs. Raises Refused later."""
    task = store.get("task", id_)
    if task["status"] not in (("created", "in_progress") if force else ("created",)):
        raise Refused(400, 110, f"Invalid task status: expected=created, status={task['status']}")
    return task


def new(store: Store, body: Mapping[str, Any]) -> Record:
    if len(body.get("name") or "") < 3:
        raise Refused(400, 800, "Data validation error: name=String value is too short")
    kind = body.get("type", "training")
    if kind not in TYPES:
        raise Refused(400, 800, f"Data validation error: type={kind}")
    if body.get("project"):
        store.get("project", body["project"])
    task = store.new("task", name=body["name"], type=kind, project=body.get("project"), **_fresh(body))
    if body.get("parent"):
        task["parent"] = body["parent"]
    apply_edit(task, {name: value for name, value in body.items() if name in EDITABLE_AT_BIRTH})
    return task


def _fresh(body: Mapping[str, Any]) -> Record:
    return {
        "status": "created",
        "comment": body.get("comment", ""),
        "report_assets": [],
        "output": {},
        "execution": {"test_split": 0, "parameters": {}, "model_desc": {}, "model_labels": {}, "artifacts": []},
        "tags": body.get("tags") or [],
        "system_tags": body.get("system_tags") or [],
        "script": {"binary": "python", "repository": "", "entry_point": "", "requirements": {}},
        "last_iteration": 0,
        "last_metrics": {},
        "unique_metrics": [],
        "metric_stats": {},
        "hyperparams": {},
        "configuration": {},
        "runtime": {},
        "models": {"input": [], "output": []},
        "container": {},
        "last_change": now(),
        "last_changed_by": USER,
    }


def check_hyper_parameters(sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Every item repeats its section and name; all it holds is text."""
    for section, items in sections.items():
        if "." in section or section.startswith("$"):
            raise Refused(400, 800, f"bad section name {section!r}")
        for name, item in items.items():
            if not isinstance(item, dict) or item.get("name") != name or item.get("section") != section:
                raise Refused(400, 12, f"hyperparams item {section}/{name} lacks matching section/name: {item!r}")
            for field in ("value", "type", "description"):
                if item.get(field) is not None and not isinstance(item[field], str):
                    found = type(item[field]).__name__
                    raise Refused(400, 12, f"hyperparams {section}/{name}.{field} must be a string, got {found}")
            for field in [field for field, value in item.items() if value is None]:
                del item[field]


def check_configuration(items: Mapping[str, Mapping[str, Any]]) -> None:
    for name, item in items.items():
        if not isinstance(item.get("value", ""), str):
            raise Refused(400, 12, f"configuration {name}.value must be a string")


def apply_edit(task: Record, body: Mapping[str, Any]) -> Record:
    """Returns what changed, in the words of the answer."""
    changed: Record = {}
    for name, value in body.items():
        if value is None or name in ("task", "force", "method"):
            continue
        if name == "output_dest":
            task.setdefault("output", {})["destination"] = changed["output.destination"] = value
            continue
        if name == "hyperparams":
            check_hyper_parameters(value)
        if name == "configuration":
            check_configuration(value)
        if name in MERGED:
            given = {field: item for field, item in value.items() if item is not None}
            value = {**(task.get(name) or {}), **given}  # noqa: PLW2901 - the merged value is what is stored
        task[name] = changed[name] = deepcopy(value)
    return changed


def create(store: Store, body: Body) -> Record:
    return {"id": new(store, body)["id"]}


def get_by_id(store: Store, body: Body) -> Record:
    return {"task": deepcopy(store.get("task", body["task"]))}


def edit(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    if not body.get("force") and task["status"] != "created":
        raise Refused(400, 110, f"Invalid task status: expected=created, status={task['status']}")
    return update(store, body)


def update(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    changed = apply_edit(task, body)
    answer = touch(task)
    answer["fields"].update(changed)
    return answer


def update_batch(store: Store, body: Body) -> Record:
    return {"updated": sum(update(store, Body(one))["updated"] for one in body.get("tasks", []))}


def clone(store: Store, body: Body) -> Record:
    source = store.get("task", body["task"])
    copied = ("script", "hyperparams", "configuration", "container", "comment", "type", "tags", "project")
    fields = {name: deepcopy(source.get(name)) for name in copied}
    fields["execution"] = _execution_of_clone(source)
    fields["name"] = body.get("new_task_name") or source["name"]
    fields["parent"] = body.get("new_task_parent") or source["id"]
    for name in ("project", "tags", "comment", "hyperparams", "configuration", "container"):
        if body.get(f"new_task_{name}") is not None:
            fields[name] = body[f"new_task_{name}"]
    fields["system_tags"] = body.get("new_task_system_tags")
    if fields["system_tags"] is None:
        fields["system_tags"] = [tag for tag in source["system_tags"] if tag not in ("development", "archived")]
    fields["models"] = {"input": deepcopy(source["models"].get("input", [])), "output": []}
    if body.get("new_project_name"):
        fields["project"] = projects.find_or_create(store, body["new_project_name"])["id"]
    task = new(store, fields)
    if source.get("output", {}).get("destination"):
        task["output"] = {"destination": source["output"]["destination"]}
    return {"id": task["id"]}


def _execution_of_clone(source: Record) -> Record:
    execution: Record = deepcopy(source["execution"])
    execution.pop("queue", None)
    execution["artifacts"] = [item for item in execution.get("artifacts", []) if item.get("mode") == "input"]
    return execution


def delete(store: Store, body: Body) -> Record:
    task = store.get("task", body["task"])
    if task["status"] != "created" and "archived" not in task["system_tags"] and not body.get("force"):
        raise Refused(400, 123, "Task is not in created state; use force")
    queues.withdraw(store, task["id"])
    del store.records["task"][task["id"]]
    events = store.events.pop(task["id"], {})
    counts = {"deleted_models": 0, "updated_children": 0, "updated_models": 0}
    return {"deleted": True, "events_deleted": len(events), "urls": {}, **counts}


def delete_many(store: Store, body: Body) -> Record:
    for id_ in body["ids"]:
        store.records["task"].pop(id_, None)
        store.events.pop(id_, None)
    return {"succeeded": [{"id": id_, "deleted": True} for id_ in body["ids"]], "failed": []}


def archive(store: Store, body: Body) -> Record:
    for id_ in body["tasks"]:
        task = store.get("task", id_)
        task["system_tags"] = sorted({*task["system_tags"], "archived"})
    return {"archived": len(body["tasks"])}


def types(store: Store, body: Body) -> Record:
    return {"types": sorted({task["type"] for task in store.all("task")})}


def move(store: Store, body: Body) -> Record:
    project = body.get("project") or projects.find_or_create(store, body["project_name"])["id"]
    for id_ in body["ids"]:
        store.get("task", id_)["project"] = project
    return {"project_id": project, "moved": len(body["ids"])}


ACTIONS: dict[str, Action] = {
    "tasks.create": create,
    "tasks.get_by_id": get_by_id,
    "tasks.get_by_id_ex": get_by_id,
    "tasks.edit": edit,
    "tasks.update": update,
    "tasks.update_batch": update_batch,
    "tasks.clone": clone,
    "tasks.delete": delete,
    "tasks.delete_many": delete_many,
    "tasks.archive": archive,
    "tasks.get_types": types,
    "tasks.move": move,
}
