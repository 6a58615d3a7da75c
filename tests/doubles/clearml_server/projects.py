"""projects."""

from __future__ import annotations

from .store import COMPANY, Action, Body, Record, Refused, Store


def find(store: Store, name: str) -> Record | None:
    return next((project for project in store.all("project") if project["name"] == name), None)


def find_or_create(store: Store, name: str) -> Record:
    """With every project above it: "a/b" lies in "a"."""
    found = find(store, name)
    if found:
        return found
    above, _, basename = name.rpartition("/")
    place: Record = {"path": []}
    if above:
        parent = find_or_create(store, above)
        place = {"parent": parent["id"], "path": [*parent["path"], parent["id"]]}
    texts = {"name": name, "basename": basename, "description": ""}
    return store.new("project", **texts, tags=[], system_tags=[], featured=9999, **place)


def create(store: Store, body: Body) -> Record:
    name = (body.get("name") or "").strip("/ ")
    if len(name) < 3:
        raise Refused(400, 12, "Validation error (Project name cannot be blank)")
    if find(store, name):
        raise Refused(400, 801, f"Project with the same name already exists: name={name}, company={COMPANY}")
    project = find_or_create(store, name)
    for field in ("description", "tags", "system_tags", "default_output_destination"):
        if body.get(field) is not None:
            project[field] = body[field]
    return {"id": project["id"]}


def get_by_id(store: Store, body: Body) -> Record:
    return {"project": store.get("project", body["project"])}


def update(store: Store, body: Body) -> Record:
    fields = {name: value for name, value in body.items() if name not in ("project", "method")}
    store.get("project", body["project"]).update(fields)
    return {"updated": 1, "fields": fields}


def delete(store: Store, body: Body) -> Record:
    del store.records["project"][store.get("project", body["project"])["id"]]
    return {"deleted": 1, "disassociated_tasks": 0, "urls": {}}


def unique_metric_variants(store: Store, body: Body) -> Record:
    return {"metrics": []}


def hyper_parameters(store: Store, body: Body) -> Record:
    return {"parameters": [], "total": 0, "remaining": 0}


ACTIONS: dict[str, Action] = {
    "projects.create": create,
    "projects.get_by_id": get_by_id,
    "projects.update": update,
    "projects.delete": delete,
    "projects.get_unique_metric_variants": unique_metric_variants,
    "projects.get_hyper_parameters": hyper_parameters,
}
