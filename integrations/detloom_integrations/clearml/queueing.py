"""`detloom train --queue NAME`: everything that stands against executing a run elsewhere, and else its task."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.config.advice import looks_like_secret
from detloom.errors import DetloomError, UsageError
from detloom.repository import RepositoryError, find_repository, is_in_commit, shorten
from detloom.specs import Submission, TrackedConfig
from detloom_integrations.clearml.naming import short_names, task_name, value_of
from detloom_integrations.clearml.parameters import configuration_of, hyperparams_of
from detloom_integrations.clearml.refusals import secrets_held
from detloom_integrations.clearml.script import Script, describe_script

if TYPE_CHECKING:
    from detloom_integrations.clearml.server import Server
    from detloom_schemas.config import ClearMLConfig

_NOTHING = {"", "none", "null", "auto", '""'}

QUEUES_AT_MOST = 500
"""The largest page that the server hands out."""


def submit(settings: ClearMLConfig, submission: Submission) -> str:
    """Make the run's task and put it into the queue. Returns a sentence with its id and its page.

    Raises UsageError with everything that stands against it, before the server is asked anything; UsageError for a
    queue that does not exist; UnreachableError. Whatever fails, no half-made task stays behind.
    """
    from detloom_integrations.clearml.server import Server

    script = describe_script(submission.config, Path.cwd())
    problems = refusals(submission, script)
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise UsageError(f"an agent of queue {submission.queue} could not execute this run:\n{lines}")
    server = Server.open()
    queue = find_queue(server, submission.queue)
    project = _project(server, str(value_of(submission.config, "experiment.project")))
    task = server.call("tasks.create", **_task(settings, submission.config, script), project=project)["id"]
    try:
        server.call("tasks.enqueue", task=task, queue=queue)
    except BaseException:
        with contextlib.suppress(DetloomError):
            server.call("tasks.delete", task=task, force=True)
        raise
    said = f"task     {task} is in queue {submission.queue}  {server.web_address(task, project)}".rstrip()
    return "\n".join(filter(None, (said, idle_note(server, queue, submission.queue))))


def refusals(submission: Submission, script: Script) -> list[str]:
    """Why the run cannot be executed elsewhere: a sentence each, with its remedy."""
    found = [
        *script.problems,
        *(f"{key}: {message}" for key, message in short_names(submission.config)),
        *_secrets(submission.config),
    ]
    if submission.paths_exist_remotely:
        return found
    vouch = "or vouch for it with --paths-exist-remotely"
    if script.repository.startswith("file:"):
        found.append(
            f"the repository's remote {script.repository} is a folder of this machine: push to a remote that agents "
            f"reach, {vouch}"
        )
    found += [
        f"{line} names a folder of this machine: install it from a place that agents reach, {vouch}"
        for line in script.requirements
        if re.search(r"(?:^|@ )(?:git\+)?file:", line)
    ]
    for key, path in submission.local_paths.items():
        if not _comes_with_repository(path, script):
            found.append(f"{key} names a path of this machine, {path}: {_remedy(key)}, {vouch}")
    return found


def _secrets(config: TrackedConfig) -> Iterator[str]:
    """Never shows the value."""
    remedy = "a task shows it to everybody: give it to the agents' machines through their environment"
    for key, text in config.values.items():
        if looks_like_secret(key) and text.strip().lower() not in _NOTHING:
            yield f"{key} looks like a secret; {remedy}"
    for key, what in secrets_held(config):
        yield f"{key} holds {what}; {remedy}"


def _comes_with_repository(path: str, script: Script) -> bool:
    """Whether the agent's clone has this path at the same place below the folder that the run is started in."""
    here = Path.cwd()
    if Path(path).is_absolute() or not script.repository:
        return False
    try:
        repository = find_repository(here)
        if repository is None or (repository.url, repository.commit) != (script.repository, script.version_num):
            return False
        place = (here / path).resolve()
        starts_at = (repository.root / script.working_dir).resolve()
        return (
            starts_at == here.resolve()
            and place.is_relative_to(repository.root)
            and is_in_commit(repository.root, place)
        )
    except RepositoryError:
        return False


def _remedy(key: str) -> str:
    if key.startswith("data."):
        return "take the data from a source that agents reach"
    return "name something that agents reach"


def find_queue(server: Server, name: str) -> str:
    """The id of a queue. Raises UsageError: says which there are and which was probably meant."""
    rows = server.call("queues.get_all", only_fields=["id", "name", "display_name"], page=0, page_size=QUEUES_AT_MOST)[
        "queues"
    ]
    names = {str(label): str(row["id"]) for row in rows for label in (row.get("display_name"), row["name"]) if label}
    if name in names:
        return names[name]
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    there = f"the queues: {shorten(sorted(names), 10)}" if names else "there is none yet: make one in the web interface"
    raise UsageError(
        f"the ClearML server has no queue {name}",
        hint=f"did you mean {near[0]}? {there}" if near else there,
    )


def _project(server: Server, name: str) -> str:
    """The id of a project, which is made when there is none."""
    # The server reads the name as a regular expression.
    found = server.call("projects.get_all", name=f"^{re.escape(name)}$", only_fields=["id", "name"])["projects"]
    for row in found:
        if row["name"] == name:
            return str(row["id"])
    return str(server.call("projects.create", name=name, description="")["id"])


def _task(settings: ClearMLConfig, config: TrackedConfig, script: Script) -> dict[str, Any]:
    """The body of `tasks.create`."""
    return {
        "name": task_name(config),
        "type": "training",
        "tags": list(value_of(config, "experiment.tags")),
        "comment": config.command,
        "script": script.section,
        "hyperparams": hyperparams_of(config),
        "configuration": configuration_of(config),
        **({"output_dest": settings.output_uri} if settings.output_uri else {}),
    }


def idle_note(server: Server, queue: str, name: str) -> str:
    """A sentence when no agent takes runs from the queue; empty when one does, or nobody can tell."""
    try:
        workers = server.call("workers.get_all")["workers"]
    except (DetloomError, KeyError):
        return ""
    if any(str(entry.get("id")) == queue for worker in workers for entry in worker.get("queues") or []):
        return ""
    return f"no agent listens to this queue now; one is started with: clearml-agent daemon --queue {name}"
