"""What a run is called on the server."""

from __future__ import annotations

from collections.abc import Iterator
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


def short_names(config: TrackedConfig) -> Iterator[tuple[str, str]]:
    """Keys whose names the server would refuse, each with what is wrong."""
    for key in ("experiment.project", "experiment.name"):
        text = value_of(config, key)
        if text is not None and len(str(text).strip()) < SHORTEST_NAME:
            yield key, f"found {text!r}; ClearML takes names of at least {SHORTEST_NAME} characters"
