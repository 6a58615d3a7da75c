"""What is to be fetched: tasks, and jobs that were named alone; and what says that they have changed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from detloom.errors import DataError
from detloom.transfer import AccessError, NotThereError
from detloom_integrations.cvat.server import RefusedError, Server

if TYPE_CHECKING:
    from detloom_schemas.data_config import CVATDataSource

log = logging.getLogger("detloom")

FORMAT = "CVAT for images 1.1"
"""How the server is asked to write annotations.

Of its formats the one that loses least: class names, attributes, rotation, groups, masks to the pixel, and each
image under its whole name. "COCO 1.0" tells images apart by name without suffix, so that `a.jpg` and `a.png` become
one, numbers classes and objects anew, forgets rotation in its boxes, and merges grouped shapes.
"""
_SHOWN = 8
_OTHER_KINDS = {"tasks": ("projects", "jobs"), "projects": ("tasks", "jobs"), "jobs": ("tasks", "projects")}
_SINGULAR = {"tasks": "task", "projects": "project", "jobs": "job"}


@dataclass(frozen=True, slots=True)
class JobPart:
    """A job of a task. first, last: its frames, both included, as the task numbers them."""

    id: int
    first: int
    last: int
    updated: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A task, or a job that was named alone. frames: how many; first: the task's number of the first. subset: as CVAT
    has it. updated: when the task changed. labels: names of its classes. jobs: of a task, those that people annotate.
    """

    kind: Literal["task", "job"]
    id: int
    name: str
    frames: int
    subset: str
    updated: str
    labels: tuple[str, ...]
    jobs: tuple[JobPart, ...] = ()
    first: int = 0
    video: bool = False

    @property
    def path(self) -> str:
        return f"/api/{self.kind}s/{self.id}"

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.kind} {self.id} ({self.name})" if self.name else f"{self.kind} {self.id}"

    @property
    def folder(self) -> str:
        """What its images are put into."""
        return f"{self.kind}-{self.id}"

    def key(self, address: str) -> str:
        """Changes when its content does."""
        jobs = [(job.id, job.first, job.last, job.updated) for job in self.jobs]
        facts = [FORMAT, address, self.kind, self.id, self.frames, self.subset, self.updated, self.labels, jobs]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def find_units(server: Server, settings: CVATDataSource) -> list[Unit]:
    """In the order in which they were named, each once. Raises DataError that names everything that is not there."""
    if not (settings.task_ids or settings.project_ids or settings.job_ids):
        raise DataError("no CVAT tasks were named", hint="--cvat-task-ids 123 456, or data.cvat.project_ids, job_ids")
    _check_organization(server)
    search = _Search(server)
    tasks = search.found("tasks", settings.task_ids)
    projects = search.found("projects", settings.project_ids)
    jobs = search.found("jobs", settings.job_ids)
    search.report()
    chosen = {task["id"]: task for task in tasks}
    units = [
        _task_unit(task, _jobs(server, "task_id", task["id"]), _labels(server, "task_id", task["id"])) for task in tasks
    ]
    for project in projects:
        found = _with_frames(server.pages("/api/tasks", {"project_id": project["id"]}), project)
        jobs_of, labels = _jobs(server, "project_id", project["id"]), _labels(server, "project_id", project["id"])
        units += [_task_unit(task, jobs_of, labels) for task in found if task["id"] not in chosen]
        chosen |= {task["id"]: task for task in found}
    for job in {job["id"]: job for job in jobs}.values():
        if job.get("task_id") in chosen:
            log.info("CVAT: job %s is part of task %s, which is fetched whole", job["id"], job["task_id"])
        else:
            units.append(_job_unit(server, job, _labels(server, "job_id", job["id"])))
    _check_kind(units, [*chosen.values(), *jobs])
    return units


def _with_frames(tasks: Sequence[dict[str, Any]], project: dict[str, Any]) -> list[dict[str, Any]]:
    empty = [task["id"] for task in tasks if not task.get("size")]
    if empty:
        log.warning("CVAT: tasks without frames are left out of project %s: %s", project["id"], _listed(empty))
    kept = [task for task in tasks if task.get("size")]
    if not kept:
        raise DataError(f"project {project['id']} ({project.get('name', '')}) holds no task with frames")
    return kept


def _check_kind(units: Sequence[Unit], raw: Sequence[dict[str, Any]]) -> None:
    empty = [unit.label for unit in units if unit.frames <= 0]
    if empty:
        raise DataError(f"without frames: {'; '.join(empty)}", hint="upload data to them in CVAT, or leave them out")
    solid = [str(one["id"]) for one in raw if one.get("dimension") == "3d"]
    if solid:
        raise DataError(f"point clouds cannot be trained on: {', '.join(solid)}", hint="name tasks of images")


def _check_organization(server: Server) -> None:
    slug = server.access.organization
    if not slug:
        return
    try:
        server.json("/api/users/self")
    except RefusedError as refusal:
        if refusal.status != 404:
            raise server.denied(refusal, f"the organisation {slug!r}") from None
    else:
        return
    known = [str(one.get("slug")) for one in server.without_organization().pages("/api/organizations", {}, 100)]
    near = get_close_matches(slug, known, 1, 0.5)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise NotThereError(
        f"CVAT at {server.access.address} knows no organisation {slug!r} (data.cvat.organization)",
        hint=f"{meant}yours: {', '.join(known) or 'none'}",
    )


class _Search:
    """Looks up what was named, and tells of everything at once that cannot be had."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._absent: list[tuple[str, int]] = []
        self._denied: list[tuple[str, int]] = []

    def found(self, kind: str, ids: Sequence[int]) -> list[dict[str, Any]]:
        """kind: tasks, projects or jobs."""
        entries = []
        for id_ in dict.fromkeys(ids):
            try:
                entries.append(self._server.json(f"/api/{kind}/{id_}"))
            except RefusedError as refusal:
                if refusal.status not in (403, 404):
                    raise self._server.denied(refusal, f"{_SINGULAR[kind]} {id_}") from None
                (self._absent if refusal.status == 404 else self._denied).append((kind, id_))
        return entries

    def report(self) -> None:
        """Raises NotThereError, or AccessError when everything exists and something may not be seen."""
        if not self._absent and not self._denied:
            return
        absent, denied = _named(self._absent), _named(self._denied)
        parts = [f"has no {absent}" if absent else "", f"does not let you see {denied}" if denied else ""]
        text = f"CVAT at {self._server.access.address} {' and '.join(part for part in parts if part)}"
        hints = [self._hint(kind) for kind in dict.fromkeys(kind for kind, _ in self._absent)]
        if self._denied:
            hints.append("ask whoever owns them for the right to see and export them")
        error = NotThereError if self._absent else AccessError
        raise error(self._server.clean(text), hint=self._server.clean("; ".join(hint for hint in hints if hint)))

    def _hint(self, kind: str) -> str:
        """What there is of this kind, and what was perhaps meant."""
        missing = [id_ for of, id_ in self._absent if of == kind]
        there = {one["id"]: str(one.get("name") or "") for one in self._quietly(lambda: self._list(kind))}
        meant = []
        for id_ in missing[:_SHOWN]:
            near = get_close_matches(str(id_), [str(known) for known in there], 1, 0.6)
            other = [_SINGULAR[of] for of in _OTHER_KINDS[kind] if self._exists(of, id_)]
            if near:
                meant.append(f"for {id_} did you mean {near[0]}?")
            elif other:
                meant.append(f"{id_} is a {other[0]} (data.cvat.{other[0]}_ids)")
        shown = [f"{id_} {name!r}" if name else str(id_) for id_, name in list(there.items())[:_SHOWN]]
        more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
        listed = f"{kind} that you can see: {', '.join(shown)}{more}" if there else f"you can see no {kind} there"
        return "; ".join([*meant, listed])

    def _list(self, kind: str) -> list[dict[str, Any]]:
        return self._server.pages(f"/api/{kind}", {}, 300)

    def _exists(self, kind: str, id_: int) -> bool:
        return bool(self._quietly(lambda: [self._server.json(f"/api/{kind}/{id_}")]))

    def _quietly(self, ask: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """A hint that cannot be had must not hide the message."""
        try:
            return ask()
        except RefusedError:
            return []


def _named(missing: Sequence[tuple[str, int]]) -> str:
    """`tasks 4, 5 and project 6`."""
    parts = []
    for kind in dict.fromkeys(kind for kind, _ in missing):
        ids = [id_ for of, id_ in missing if of == kind]
        parts.append(f"{kind if len(ids) > 1 else _SINGULAR[kind]} {', '.join(map(str, ids))}")
    return " and ".join(parts)


def _listed(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:_SHOWN]))
    return f"{shown} and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else shown


def _task_unit(task: dict[str, Any], jobs: Sequence[dict[str, Any]], labels: tuple[str, ...]) -> Unit:
    """jobs: of this task and perhaps of others. Those count that hold the task's own annotations: not the ground
    truth, not replicas for a consensus."""
    parts = [
        JobPart(job["id"], int(job["start_frame"]), int(job["stop_frame"]), str(job.get("updated_date") or ""))
        for job in jobs
        if job.get("task_id") == task["id"] and job.get("type", "annotation") == "annotation"
    ]
    return Unit(
        kind="task",
        id=task["id"],
        name=str(task.get("name") or ""),
        frames=int(task.get("size") or 0),
        subset=str(task.get("subset") or ""),
        updated=str(task.get("updated_date") or ""),
        labels=labels,
        jobs=tuple(sorted(parts, key=lambda job: (job.first, job.id))),
        video=task.get("mode") == "interpolation",
    )


def _job_unit(server: Server, job: dict[str, Any], labels: tuple[str, ...]) -> Unit:
    try:
        task = server.json(f"/api/tasks/{job['task_id']}")
    except RefusedError:  # whoever annotates one job need not see the task
        task = {}
    first, last = int(job["start_frame"]), int(job["stop_frame"])
    return Unit(
        kind="job",
        id=job["id"],
        name=str(task.get("name") or ""),
        frames=last - first + 1,
        subset=str(task.get("subset") or ""),
        updated=f"{job.get('updated_date') or ''} {task.get('updated_date') or ''}",
        labels=labels,
        first=first,
        video=job.get("mode") == "interpolation",
    )


def _jobs(server: Server, of: str, id_: int) -> list[dict[str, Any]]:
    """of: task_id or project_id."""
    try:
        return server.pages("/api/jobs", {of: id_})
    except RefusedError:  # a server that is too old to list them
        return []


def _labels(server: Server, of: str, id_: int) -> tuple[str, ...]:
    try:
        return tuple(str(label.get("name")) for label in server.pages("/api/labels", {of: id_}))
    except RefusedError:  # a server that is too old to list them: the export names them
        return ()
