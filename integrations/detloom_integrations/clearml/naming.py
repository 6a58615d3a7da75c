"""What a run is called on the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from detloom.specs import TrackedConfig

SHORTEST_NAME = 3
"""The server refuses shorter names of projects and tasks."""


def value_of(config: TrackedConfig, key: str) -> Any:
    """The value at a dotted key, as JSON holds it."""
    node: Any = config.document
    for part in key.split("."):
        node = node[part]
    return node


def task_name(config: TrackedConfig) -> str:
    """As the user says, else the model; a local run's task is renamed when its folder has a name."""
    return str(value_of(config, "experiment.name") or value_of(config, "model.type"))


def place_on_task(config: TrackedConfig, key: str) -> str:
    """Where a value was edited on a task; empty when it was not."""
    kind, *rest = config.document["origins"].get(key) or [""]
    return str(rest[0]) if kind == "tracker" and rest else ""


def edited_here(config: TrackedConfig, before: Mapping[str, Any]) -> dict[str, Any]:
    """What edits say of the task itself, in the form of `tasks.edit`. What was not edited is left out: it was perhaps
    changed by hand, where the task stands. before: the configuration that the edits were made to."""
    had = before.get("experiment") or {}
    name, tags = value_of(config, "experiment.name"), list(value_of(config, "experiment.tags"))
    changes: dict[str, Any] = {}
    if name and name != had.get("name"):
        changes["name"] = str(name)
    if tags != list(had.get("tags", tags)):
        changes["tags"] = tags
    return changes


def moved(config: TrackedConfig, before: Mapping[str, Any]) -> str:
    """A remark for a project that was edited; empty when it was not. A run does not move the task that it belongs to:
    who looks for it looks where it was enqueued."""
    project = value_of(config, "experiment.project")
    if project == (before.get("experiment") or {}).get("project", project):
        return ""
    return (
        f"experiment.project was edited to {project}, which names the run only: the task stays in its project "
        "(it can be moved in the web interface)"
    )


def short_names(config: TrackedConfig) -> Iterator[tuple[str, str]]:
    """Keys whose names the server would refuse, each with what is wrong."""
    for key in ("experiment.project", "experiment.name"):
        text = value_of(config, key)
        if text is not None and len(str(text).strip()) < SHORTEST_NAME:
            yield key, f"found {text!r}; ClearML takes names of at least {SHORTEST_NAME} characters"
