"""tasks: requirements, artifacts, models, hyper-parameters and configuration objects of one task."""

from __future__ import annotations

from copy import deepcopy

from .store import Action, Body, Record, Refused, Store
from .tasks import check_configuration, check_hyper_parameters, open_for_changes, touch


def set_requirements(store: Store, body: Body) -> Record:
    task, requirements = store.get("task", body["task"]), {}
    for tool, packages in body["requirements"].items():
        if not isinstance(packages, str | list):
            raise Refused(400, 12, f"requirements.{tool} must be text or a list")
        requirements[tool] = "\n".join(packages) if isinstance(packages, list) else packages
    task["script"]["requirements"] = requirements
    touch(task)
    return {"updated": 1, "fields": {}}


def _key(artifact: Record) -> tuple[str, str]:
    return artifact["key"], artifact.get("mode", "output")


def add_or_update_artifacts(store: Store, body: Body) -> Record:
    task = open_for_changes(store, body["task"], force=True)
    by_key = {_key(artifact): artifact for artifact in task["execution"].get("artifacts", [])}
    by_key.update({_key(artifact): {"mode": "output", **artifact} for artifact in body["artifacts"]})
    task["execution"]["artifacts"] = list(by_key.values())
    touch(task)
    return {"updated": 1}


def delete_artifacts(store: Store, body: Body) -> Record:
    task = open_for_changes(store, body["task"], force=True)
    gone = {_key(artifact) for artifact in body["artifacts"]}
    kept = [artifact for artifact in task["execution"].get("artifacts", []) if _key(artifact) not in gone]
    task["execution"]["artifacts"] = kept
    touch(task)
    return {"deleted": len(gone)}


def add_or_update_model(store: Store, body: Body) -> Record:
    task = open_for_changes(store, body["task"], force=True)
    store.get("model", body["model"])
    others = [entry for entry in task["models"].get(body["type"], []) if entry["name"] != body["name"]]
    task["models"][body["type"]] = [*others, {"name": body["name"], "model": body["model"]}]
    task["last_iteration"] = max(task["last_iteration"], body.get("iteration") or 0)
    touch(task)
    return {"updated": 1}


def delete_models(store: Store, body: Body) -> Record:
    task = open_for_changes(store, body["task"], force=True)
    for gone in body["models"]:
        kept = [entry for entry in task["models"][gone["type"]] if entry["name"] != gone["name"]]
        task["models"][gone["type"]] = kept
    touch(task)
    return {"updated": 1}


def _open_for_parameters(store: Store, body: Body) -> Record:
    """The section "properties" is the user's own notes, and may change at any time."""
    if all(item["section"].lower() == "properties" for item in body["hyperparams"]):
        return store.get("task", body["task"])
    return open_for_changes(store, body["task"], bool(body.get("force")))


def edit_hyper_params(store: Store, body: Body) -> Record:
    task = _open_for_parameters(store, body)
    replace = body.get("replace_hyperparams") or "none"
    sections = {} if replace == "all" else deepcopy(task["hyperparams"])
    if replace == "section":
        for section in {item["section"] for item in body["hyperparams"]}:
            sections.pop(section, None)
    for item in body["hyperparams"]:
        sections.setdefault(item["section"], {})[item["name"]] = dict(item)
    check_hyper_parameters(sections)
    touch(task, hyperparams=sections)
    return {"updated": 1}


def delete_hyper_params(store: Store, body: Body) -> Record:
    task = _open_for_parameters(store, body)
    for item in body["hyperparams"]:
        if item.get("name"):
            task["hyperparams"].get(item["section"], {}).pop(item["name"], None)
        else:
            task["hyperparams"].pop(item["section"], None)
    touch(task)
    return {"deleted": 1}


def get_hyper_params(store: Store, body: Body) -> Record:
    def items(id_: str) -> list[Record]:
        sections = store.get("task", id_)["hyperparams"].values()
        return [item for section in sections for item in section.values()]

    return {"params": [{"task": id_, "hyperparams": items(id_)} for id_ in body["tasks"]]}


def edit_configuration(store: Store, body: Body) -> Record:
    task = open_for_changes(store, body["task"], bool(body.get("force")))
    items = {} if body.get("replace_configuration") else dict(task["configuration"])
    items.update({item["name"]: dict(item) for item in body["configuration"]})
    check_configuration(items)
    touch(task, configuration=items)
    return {"updated": 1}


def get_configurations(store: Store, body: Body) -> Record:
    def items(id_: str) -> list[Record]:
        return list(store.get("task", id_)["configuration"].values())

    return {"configurations": [{"task": id_, "configuration": items(id_)} for id_ in body["tasks"]]}


def get_configuration_names(store: Store, body: Body) -> Record:
    def names(id_: str) -> list[str]:
        return list(store.get("task", id_)["configuration"])

    return {"configurations": [{"task": id_, "names": names(id_)} for id_ in body["tasks"]]}


def delete_configuration(store: Store, body: Body) -> Record:
    task = open_for_changes(store, body["task"], bool(body.get("force")))
    for name in body["configuration"]:
        task["configuration"].pop(name, None)
    touch(task)
    return {"deleted": 1}


ACTIONS: dict[str, Action] = {
    "tasks.set_requirements": set_requirements,
    "tasks.add_or_update_artifacts": add_or_update_artifacts,
    "tasks.delete_artifacts": delete_artifacts,
    "tasks.add_or_update_model": add_or_update_model,
    "tasks.delete_models": delete_models,
    "tasks.edit_hyper_params": edit_hyper_params,
    "tasks.delete_hyper_params": delete_hyper_params,
    "tasks.get_hyper_params": get_hyper_params,
    "tasks.edit_configuration": edit_configuration,
    "tasks.get_configurations": get_configurations,
    "tasks.get_configuration_names": get_configuration_names,
    "tasks.delete_configuration": delete_configuration,
}
