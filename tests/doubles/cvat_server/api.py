"""One request: fault, endpoint, credentials, organisation, action."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from . import endpoints
from .accounts import Accounts, Refused
from .answers import Answers
from .exports import archive, frame_bytes
from .faults import Faults
from .pictures import picture
from .world import Job, Project, Task, World

JSON = "application/vnd.cvat+json"
HTML = "text/html; charset=utf-8"
Target = Task | Job | Project


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    content: bytes

    @property
    def kind(self) -> str:
        """What faults call this request."""
        for word, pattern in (
            ("login", "/auth/login$"),
            ("export", "/dataset/export$"),
            ("download", "/dataset/download$"),
            ("request", "/api/requests/"),
            ("frame", "/data/?$"),
        ):
            if re.search(pattern, self.path):
                return word
        old = self.path.endswith("/dataset") or "format" in self.query
        return ("download" if self.query.get("action") else "export") if old else "other"


@dataclass(frozen=True)
class Reply:
    status: int
    value: Any
    kind: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    cookies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Archive:
    content: bytes
    name: str


@dataclass
class Export:
    """A request to export. polls: how often it was asked after."""

    id: str
    target: Target
    format: str
    images: bool
    polls: int = 0


class Api:
    """Holds what the server knows; answers requests from several threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.faults = Faults()
        self.reset({})

    def reset(self, description: Mapping[str, Any]) -> None:
        with self.lock:
            self.faults.clear()
            self.world = World(description)
            self.accounts = Accounts()
            self.exports: dict[str, Export] = {}
            self.requests: list[str] = []
            self.violations: list[str] = []

    def state(self) -> dict[str, Any]:
        """requests: "VERB path" of each, in order; frames: SHA-256 of the pictures, by task and name."""
        with self.lock:
            frames = {
                str(task.id): {
                    task.file_name(number): hashlib.sha256(frame_bytes(task, number)).hexdigest()
                    for number in range(len(task.frames))
                }
                for task in self.world.tasks.values()
            }
            return {
                "requests": list(self.requests), "violations": list(self.violations), "fault_hits": self.faults.hits(),
                "frames": frames,
            }  # fmt: skip

    def answer(self, asked: Asked, address: str) -> Reply | Archive:
        """Raises Refused."""
        with self.lock:
            self.requests.append(f"{asked.method} {asked.path}")
            for status in (500, 503, 429):
                if self.faults.take(f"http{status}", asked.kind):
                    raise Refused(status, {"detail": "injected"})
            if self.faults.take("html", asked.kind):
                return Reply(200, "<html><title>Sign in</title></html>", HTML)
            wrong = endpoints.mistake(asked.method, asked.path, set(asked.query))
            if wrong:
                self.violations.append(wrong)
                raise Refused(404, "<h1>Not Found</h1>", HTML)
            return self._routed(asked, address)

    def _routed(self, asked: Asked, address: str) -> Reply | Archive:
        if asked.path == "/api/server/about":
            return Reply(200, Answers(self.world, address, "").about())
        if asked.path == "/api/auth/login":
            return self._log_in(asked)
        if self.faults.countdown("expire_auth"):
            raise Refused(401, {"detail": "Invalid token."})
        user = self.accounts.user(asked.method, asked.headers)
        self._check_organization(asked)
        answers = Answers(self.world, address, user)
        fixed = {
            "/api/users/self": answers.self_,
            "/api/server/annotation/formats": answers.formats,
        }
        if asked.path in fixed:
            return Reply(200, fixed[asked.path]())
        if found := re.fullmatch(r"/api/requests/(.+)", asked.path):
            return self._request(unquote(found[1]), answers)
        if found := re.fullmatch(r"/api/(tasks|projects|jobs)/(\d+)(/.*)?", asked.path):
            rest = (found[3] or "").rstrip("/")
            return self._about_one(asked, answers, self._target(found[1], int(found[2]), user), found[1], rest)
        return self._listed(asked, answers)

    def _log_in(self, asked: Asked) -> Reply:
        try:
            given = json.loads(asked.content or b"{}")
        except ValueError:
            raise Refused(400, {"detail": "JSON parse error"}) from None
        session, csrf, token = self.accounts.log_in(given.get("username"), given.get("password"))
        cookies = (
            f"csrftoken={csrf}; Path=/; SameSite=Lax",
            f"sessionid={session}; HttpOnly; Path=/; SameSite=Lax",
        )
        return Reply(200, {"key": token}, cookies=() if self.faults.take("no_cookies") else cookies)

    def _organization(self, asked: Asked) -> str | None:
        return asked.query.get("org", asked.headers.get("X-Organization"))

    def _check_organization(self, asked: Asked) -> None:
        slug = self._organization(asked)
        if slug and slug not in self.world.organizations:
            raise Refused(404, {"detail": f"{slug} organization does not exist."})

    def _target(self, kind: str, id_: int, user: str) -> Target:
        known: Mapping[int, Target] = getattr(self.world, kind)
        if id_ not in known:
            raise Refused(404, {"detail": f"No {kind[:-1].capitalize()} matches the given query."})
        target = known[id_]
        readers = (self.world.tasks[target.task] if isinstance(target, Job) else target).readers
        if readers and user not in readers:
            raise Refused(403, {"detail": "You do not have permission to perform this action."})
        return target

    # ---- reading ----------------------------------------------------------------------------------------------

    def _listed(self, asked: Asked, answers: Answers) -> Reply:
        """Pages of ten unless the client says otherwise, at most a hundred."""
        of = {name: int(asked.query[name]) for name in ("project_id", "task_id", "job_id") if name in asked.query}
        if asked.path == "/api/organizations":
            found = answers.organizations()
        elif asked.path == "/api/projects":
            found = [answers.project(one) for one in self._visible(self.world.projects, asked, answers)]
        elif asked.path == "/api/tasks":
            tasks = self._visible(self.world.tasks, asked, answers)
            found = [answers.task(one) for one in tasks if of.get("project_id") in (None, one.project)]
        elif asked.path == "/api/jobs":
            tasks = [one for one in self.world.tasks.values() if of.get("project_id") in (None, one.project)]
            jobs = [job for task in tasks for job in task.jobs if of.get("task_id") in (None, task.id)]
            found = [answers.job(job) for job in jobs]
        elif asked.path == "/api/labels":
            found = self._labels(of, answers)
        else:
            raise Refused(404, {"detail": "Not found."})
        size = min(100, int(asked.query.get("page_size", 10)))
        page = int(asked.query.get("page", 1))
        part = found[(page - 1) * size : page * size]
        if page > 1 and not part:
            raise Refused(404, {"detail": "Invalid page."})
        more = f"{answers.address}{asked.path}?page={page + 1}" if len(found) > page * size else None
        return Reply(200, {"count": len(found), "next": more, "previous": None, "results": part})

    def _visible(self, known: Mapping[int, Any], asked: Asked, answers: Answers) -> list[Any]:
        slug = self._organization(asked)
        return [
            one
            for one in known.values()
            if (not one.readers or answers.user in one.readers)
            and (slug is None or (one.organization or "") == slug)
        ]  # fmt: skip

    def _labels(self, of: Mapping[str, int], answers: Answers) -> list[dict[str, Any]]:
        if "project_id" in of:
            project = self.world.projects[of["project_id"]]
            return answers.labels(project.labels, project.id * 10000, None, project.id)
        id_ = self.world.jobs[of["job_id"]].task if "job_id" in of else of.get("task_id", 0)
        task = self.world.tasks.get(id_)
        return answers.labels(task.labels, task.id * 100, task.id, task.project) if task else []

    def _about_one(self, asked: Asked, answers: Answers, target: Target, kind: str, rest: str) -> Reply | Archive:
        if rest == "":
            one = {"tasks": answers.task, "jobs": answers.job, "projects": answers.project}[kind]
            return Reply(200, one(target))  # type: ignore[operator]
        if rest == "/dataset/export":
            return self._export(asked, target, kind, answers.user)
        if rest == "/dataset/download":
            return self._download(asked, kind, target)
        if rest == "/dataset" or (rest == "/annotations" and "format" in asked.query):
            return self._legacy(asked, target, kind, answers.user)
        if isinstance(target, Project):
            raise Refused(404, {"detail": "Not found."})
        task = self.world.tasks[target.task] if isinstance(target, Job) else target
        frames = range(target.first, target.last + 1) if isinstance(target, Job) else range(len(task.frames))
        if rest == "/data/meta":
            return Reply(200, answers.meta(task, frames, kind))
        if rest == "/annotations":
            return Reply(200, answers.annotations(task))
        if rest == "/data":
            return self._frame(asked, task, frames)
        raise Refused(404, {"detail": "Not found."})

    def _frame(self, asked: Asked, task: Task, frames: range) -> Reply:
        if asked.query.get("type") != "frame":
            raise Refused(400, "Data type not specified", HTML)
        number = int(asked.query.get("number", -1))
        if number not in frames or number in task.deleted:
            raise Refused(400, f"Incorrect requested frame number: {number}", HTML)
        if asked.query.get("quality", "original") == "original":
            content = frame_bytes(task, number)
        else:
            content = picture(task.frames[number], "JPEG")
        return Reply(200, content, "image/png" if content.startswith(b"\x89PNG") else "image/jpeg")

    # ---- exporting --------------------------------------------------------------------------------------------

    def _export(self, asked: Asked, target: Target, kind: str, user: str) -> Reply:
        if self.world.legacy:
            raise Refused(404, "<h1>Not Found</h1>", HTML)
        if asked.query.get("format") not in self.world.formats:
            raise Refused(400, ["Unknown format specified for the request"])
        if asked.content not in (b"", b"{}"):
            self.violations.append("an export was asked for with a body")
        images = asked.query.get("save_images", "").lower() == "true"
        export = self._made(asked.query["format"], target, kind, user, images)
        return Reply(202, {"rq_id": export.id})

    def _made(self, name: str, target: Target, kind: str, user: str, images: bool) -> Export:
        """A request of the same kind for the same thing is the same request."""
        escaped = name.replace(".", "~").replace(" ", "_")
        subresource = "dataset" if images else "annotations"
        id_ = (
            f"action=export&target={kind[:-1]}&target_id={target.id}&user_id={1 if user == 'admin' else 2}"
            f"&format={escaped}&subresource={subresource}"
        )
        return self.exports.setdefault(id_, Export(id_, target, name, images))

    def _status(self, export: Export) -> tuple[str, str]:
        export.polls += 1
        if export.polls <= 1:
            return "queued", ""
        if export.polls <= 1 + self.world.polls or self.faults.take("never_finish"):
            return "started", ""
        if failure := self.faults.take("fail_request"):
            return "failed", str(failure.value)
        if isinstance(export.target, Task) and export.images and self.faults.take("too_big"):
            return "failed", "rq.timeouts.JobTimeoutException: Task exceeded maximum timeout value (14400 seconds)"
        return "finished", ""

    def _request(self, id_: str, answers: Answers) -> Reply:
        if id_ not in self.exports:
            raise Refused(404, "There is no request with specified id", HTML)
        export = self.exports[id_]
        status, message = self._status(export)
        kind = type(export.target).__name__.lower()
        done, begun = status in ("finished", "failed"), status != "queued"
        place = f"{answers.address}/api/{kind}s/{export.target.id}/dataset/download?rq_id={quote(id_, safe='')}"
        operation = {f"{name}_id": export.target.id if name == kind else None for name in ("project", "task", "job")}
        value = {
            "status": status, "message": message, "id": id_,
            "operation": {
                "type": f"export:{'dataset' if export.images else 'annotations'}", "target": kind, **operation,
                "format": export.format, "function_id": None,
            },
            "progress": 0.0 if begun else None, "created_date": "2026-01-01T00:00:00Z",
            "started_date": "2026-01-01T00:00:00Z" if begun else None,
            "finished_date": "2026-01-01T00:00:01Z" if done else None,
            "expiry_date": "2026-01-02T00:00:00Z" if done else None,
            "owner": {"id": answers.me()["id"], "username": answers.user},
            "result_url": place if status == "finished" else None, "result_id": None,
        }  # fmt: skip
        return Reply(200, value)

    def _download(self, asked: Asked, kind: str, target: Target) -> Reply | Archive:
        if redirect := self.faults.take("redirect"):
            return Reply(302, "", HTML, {"Location": f"{redirect.value}/archive.zip"})
        export = self.exports.get(asked.query.get("rq_id", ""))
        if export is None or export.target is not target:
            raise Refused(404, "Unknown export request id", HTML)
        if export.polls <= 1 + self.world.polls:
            raise Refused(400, "Export has not finished", HTML)
        if self.faults.take("expired"):
            del self.exports[export.id]
            raise Refused(404, "The exported file has expired, please retry exporting", HTML)
        return self._archive(export, kind)

    def _archive(self, export: Export, kind: str) -> Archive:
        name = f"{kind[:-1]}_{export.target.id}_dataset_2026_01_02_00_00_00_{export.format.lower()}.zip"
        hostile = ("corrupt_zip", "zip_slip", "zip_symlink", "zip_bomb", "truncated_jpeg", "missing_frame")
        faults = {name: fault.value for name in hostile if (fault := self.faults.take(name))}
        how = {"format": export.format, "images": export.images}
        content = archive(self.world, export.target, how, faults)
        return Archive(content, "../../evil.zip" if self.faults.take("bad_filename") else name)

    def _legacy(self, asked: Asked, target: Target, kind: str, user: str) -> Reply | Archive:
        """202 while it is made, 201 when it is ready, 200 with action=download; then it is forgotten."""
        if not self.world.legacy:
            text = "This endpoint is no longer supported.\nTo initiate the export process, use POST /api/tasks/id/..."
            raise Refused(410, text, HTML)
        if asked.query.get("format") not in self.world.formats:
            raise Refused(400, ["Unknown format specified for the request"])
        images = asked.path.endswith("/dataset")
        export = self._made(asked.query["format"], target, kind, user, images)
        if asked.query.get("action") == "download":
            if export.polls <= 1 + self.world.polls:
                raise Refused(400, "Export has not finished", HTML)
            del self.exports[export.id]
            return self._archive(export, kind)
        status, message = self._status(export)
        if status == "failed":
            raise Refused(500, message, HTML)
        return Reply(201 if status == "finished" else 202, None)
