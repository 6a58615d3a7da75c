"""The state of a run that an agent executes once more: the checkpoints that its task kept."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.errors import CheckpointError
from detloom.files import sha256_of
from detloom.redaction import redacted
from detloom_integrations.clearml.storage import fetch

if TYPE_CHECKING:
    from detloom_integrations.clearml.server import Server

log = logging.getLogger("detloom")


def fetch_model(server: Server, task_id: str, name: str, dest: Path) -> Path | None:
    """The task's output model of this name, written to `dest` and verified by the hash that it was uploaded with.

    None: the task has none. Raises StorageError or UnreachableError when it cannot be fetched, and CheckpointError
    when what came is not what was uploaded: a run must not begin anew in silence.
    """
    task = server.call("tasks.get_all", id=[task_id], only_fields=["models.output"])["tasks"][0]
    linked = [entry["model"] for entry in (task.get("models") or {}).get("output") or [] if entry.get("name") == name]
    if not linked:
        return None
    model = server.call("models.get_all", id=linked[-1:], only_fields=["uri", "metadata"])["models"][0]
    log.info("fetching the checkpoint `%s` of the task from %s", name, redacted(model["uri"]))
    fetch(server, model["uri"], dest)
    expected = _metadata(model).get("sha256", "")
    if expected and sha256_of(dest) != expected:
        raise CheckpointError(
            f"{redacted(model['uri'])} is not the checkpoint that was uploaded (its hash differs)",
            hint="reset the task in the web interface to start it anew",
        )
    return dest


def _metadata(model: dict[str, Any]) -> dict[str, str]:
    """key to value; servers have answered with a list and with a dictionary of entries."""
    entries = model.get("metadata") or {}
    rows = entries.values() if isinstance(entries, dict) else entries
    return {str(row["key"]): str(row.get("value") or "") for row in rows}
