"""Files of a run as the task's artifacts, debug images and models.

Whatever is done here may be done twice without a double: an artifact is known by its name, a picture by title, series
and step, a model by its name in the task. A file is never written over the one that a model stands for now.
"""

from __future__ import annotations

import contextlib
import dataclasses
import mimetypes
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from detloom.errors import DataError
from detloom.files import sha256_of
from detloom_integrations.clearml import events
from detloom_integrations.clearml.server import ServerRefusedError
from detloom_integrations.clearml.storage import Storage

if TYPE_CHECKING:
    from detloom_integrations.clearml.server import Server

WRONG_STATUS = 110
"""The server's number for: not in this state of the task."""

FOLDER = "clearml"
"""In the run's folder: what waits, and what is on its way."""

PREVIEW_CHARACTERS = 16_000
"""The server takes 64 KiB."""

_TEXT_SUFFIXES = frozenset({".json", ".yaml", ".yml", ".txt", ".csv", ".md", ".toml", ".log"})
_FRAMEWORKS = {".pt": "PyTorch", ".pth": "PyTorch", ".onnx": "ONNX", ".xml": "OpenVINO", ".engine": "TensorRT"}

Kind = Literal["artifact", "image", "model", "base"]


@dataclass(frozen=True, slots=True)
class Upload:
    """One file and what it is. path: below the run's folder where it can be, so that the folder may be moved.

    kind: base: the weights that the run began with; path is then their address or file.
    newest_only: of several that wait under this name only the newest is sent.
    size_bytes, mtime_ns, sha256: of the file when it was reported; 0 and empty when that is not known.
    """

    kind: Kind
    name: str
    path: str
    step: int = 0
    timestamp_s: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    newest_only: bool = False
    size_bytes: int = 0
    mtime_ns: int = 0
    sha256: str = ""

    def record(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Upload:
        known = {one.name for one in dataclasses.fields(cls)}
        given = {key: value for key, value in record.items() if key in known}
        return cls(**{**given, "tags": tuple(given.get("tags", ()))})


@dataclass(frozen=True, slots=True)
class Home:
    """What the server says of a task: where it belongs and where its files go."""

    project: str
    task_name: str
    storage: Storage
    prefix: str


class Uploader:
    """Brings uploads to one task. Every method may raise UnreachableError, ServerRefusedError and StorageError."""

    def __init__(self, server: Server, task_id: str, run_dir: Path, output_uri: str | None = None) -> None:
        self._server, self._task, self._run_dir = server, task_id, run_dir
        self._output_uri = output_uri
        self._home: Home | None = None

    def deliver(self, upload: Upload) -> str:
        """Returns what should be said about it, usually nothing. Raises DataError when the file is not there."""
        if upload.kind == "base":
            self._base(upload)
            return ""
        path = self._run_dir / upload.path
        try:
            with pinned(path, self._run_dir / FOLDER) as file:
                size, sha256 = file.stat().st_size, sha256_of(file)
                changed = _changed(upload, size, path.stat().st_mtime_ns, sha256)
                self._file(upload, file, sha256)
        except OSError as error:
            raise DataError(f"{path} could not be read for its upload: {error.strerror or error}") from error
        # A newer state over an older one is as it should be.
        told = changed and not upload.newest_only
        return f"{path} has changed since it was reported; what is there now was uploaded" if told else ""

    def _file(self, upload: Upload, path: Path, sha256: str) -> None:
        if upload.kind == "artifact":
            self._artifact(upload, path, sha256)
        elif upload.kind == "image":
            self._image(upload, path)
        else:
            self._model(upload, path, sha256)

    def _artifact(self, upload: Upload, path: Path, sha256: str) -> None:
        url = self._put(path, f"artifacts/{upload.name}/{path.name}")
        artifact = {
            "key": upload.name,
            "type": "custom",
            "mode": "output",
            "uri": url,
            "content_size": path.stat().st_size,
            "hash": sha256,
            "timestamp": int(upload.timestamp_s or time.time()),
            "type_data": {
                "content_type": mimetypes.guess_type(path.name)[0] or "application/octet-stream",
                "preview": _preview(path),
            },
            "display_data": [["file", path.name]],
        }
        try:
            self._server.call("tasks.add_or_update_artifacts", task=self._task, artifacts=[artifact], force=True)
        except ServerRefusedError as error:
            execution = self._of_ended_task(error, "execution")["execution"]
            others = [one for one in execution.get("artifacts") or [] if one["key"] != upload.name]
            execution["artifacts"] = [*others, artifact]
            self._server.call("tasks.edit", task=self._task, force=True, execution=execution)

    def _image(self, upload: Upload, path: Path) -> None:
        title, series = events.title_and_series(upload.name)
        url = self._put(path, f"metrics/{title}/{series}_{upload.step:08d}{path.suffix}")
        event = events.debug_image(upload.name, url, upload.step, upload.timestamp_s or time.time())
        self._server.add_events([{**event, "task": self._task}])

    def _model(self, upload: Upload, path: Path, sha256: str) -> None:
        """A new model of the task, or new weights for the one that has this name already."""
        known = self._find_model(upload.name)
        url = self._put(path, f"models/{_free_name(upload.name, path, known)}")
        # In one call with the address: whoever fetches the weights verifies them by the hash that stands beside it.
        about: dict[str, Any] = {
            "uri": url,
            "framework": _FRAMEWORKS.get(path.suffix, "Custom"),
            "tags": list(upload.tags),
            "metadata": _facts(upload, path, sha256),
        }
        if upload.labels:
            about["labels"] = dict(upload.labels)
        if known is None:
            model = self._create_model(upload.name, about)
        else:
            model = known["id"]
            self._server.call("models.edit", model=model, task=self._task, **about)
        self._link_model(upload.name, model, "output", iteration=upload.step)

    def _create_model(self, name: str, about: Mapping[str, Any]) -> str:
        base = self._base_model()
        model = self._server.call(
            "models.create",
            name=f"{self._whereabouts().task_name} - {name}",
            project=self._whereabouts().project,
            task=self._task,
            ready=False,  # true would publish it, and what is published cannot change
            **about,
            **({} if base is None else {"parent": base}),
        )["id"]
        return str(model)

    def _base(self, upload: Upload) -> None:
        """The weights that the run began with, as the task's input model: every run that begins with them shares it."""
        url = upload.path if "://" in upload.path else (self._run_dir / upload.path).absolute().as_uri()
        found = self._server.call("models.get_all", uri=[url], only_fields=["id"])["models"]
        if found:
            model = found[0]["id"]
        else:
            framework = _FRAMEWORKS.get(Path(upload.path).suffix, "PyTorch")
            model = self._server.call(
                "models.create", name=upload.name, uri=url, framework=framework, tags=list(upload.tags), ready=False
            )["id"]
        self._link_model(upload.name, model, "input")

    def _link_model(self, name: str, model: str, role: Literal["input", "output"], **more: int) -> None:
        try:
            self._server.call("tasks.add_or_update_model", task=self._task, name=name, model=model, type=role, **more)
        except ServerRefusedError as error:
            models = self._of_ended_task(error, "models")["models"]
            models[role] = [
                *(one for one in models.get(role) or [] if one["name"] != name),
                {"name": name, "model": model},
            ]
            self._server.call("tasks.edit", task=self._task, force=True, models=models)

    def _of_ended_task(self, refusal: ServerRefusedError, *fields: str) -> dict[str, Any]:
        """A task that was aborted takes additions no more, only edits: its fields. Raises any other refusal."""
        if refusal.subcode != WRONG_STATUS:
            raise refusal
        found = self._server.call("tasks.get_all", id=[self._task], only_fields=list(fields))["tasks"][0]
        return {field: found.get(field) or {} for field in fields}

    def _base_model(self) -> str | None:
        task = self._server.call("tasks.get_all", id=[self._task], only_fields=["models.input"])["tasks"][0]
        inputs = (task.get("models") or {}).get("input") or []
        return str(inputs[0]["model"]) if inputs else None

    def _find_model(self, name: str) -> dict[str, Any] | None:
        """The task's output model of this name, also one that was made but not linked any more."""
        found = self._server.call(
            "models.get_all", task=[self._task], only_fields=["id", "name", "uri"], order_by=["-created"]
        )["models"]
        return next((dict(model) for model in found if str(model["name"]).endswith(f" - {name}")), None)

    def _put(self, path: Path, place: str) -> str:
        home = self._whereabouts()
        return home.storage.put(path, f"{home.prefix}/{place}")

    def _whereabouts(self) -> Home:
        """Asked once: the place of a task's files does not move with its name."""
        if self._home is None:
            fields = ["name", "project", "output.destination"]
            task = self._server.call("tasks.get_all", id=[self._task], only_fields=fields)["tasks"][0]
            project = str(task.get("project") or "")
            name = "unknown"
            if project:
                found = self._server.call("projects.get_all", id=[project], only_fields=["name"], search_hidden=True)
                name = str(found["projects"][0]["name"])
            base = self._output_uri or (task.get("output") or {}).get("destination") or self._server.access.files
            prefix = f"{name[:200]}/{str(task['name']).replace('/', '_')[:90]}.{self._task}"
            self._home = Home(project, str(task["name"]), Storage(self._server, str(base)), prefix)
        return self._home


@contextlib.contextmanager
def pinned(path: Path, folder: Path) -> Iterator[Path]:
    """The file as it is now, under its own name in a folder of its own, whatever becomes of `path` meanwhile; a folder
    as a zip. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".upload-", suffix=".part") as place:
        link = Path(place) / path.name
        if path.is_dir():
            yield Path(shutil.make_archive(str(link), "zip", path))
            return
        try:
            link.hardlink_to(path)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without links: the file itself has to do
            link = path
        yield link


def _facts(upload: Upload, path: Path, sha256: str) -> list[dict[str, str]]:
    """What stands beside a model, in the form of the API."""
    facts = {"sha256": sha256, "bytes": str(path.stat().st_size), "step": str(upload.step)}
    facts.update({name: f"{value:.6g}" for name, value in upload.metrics.items()})
    return [{"key": key, "type": "str", "value": value} for key, value in facts.items()]


def _changed(upload: Upload, size: int, mtime_ns: int, sha256: str) -> bool:
    if upload.sha256:
        return upload.sha256 != sha256
    return bool(upload.mtime_ns) and (upload.size_bytes, upload.mtime_ns) != (size, mtime_ns)


def _free_name(name: str, path: Path, known: Mapping[str, Any] | None) -> str:
    """`best.pt` and `best.1.pt` in turns: the file that the model stands for stays whole until the new one is there."""
    stem = name.replace("/", "_")
    plain, other = f"{stem}{path.suffix}", f"{stem}.1{path.suffix}"
    in_use = unquote(str(known.get("uri") or "")).rpartition("/")[2] if known else ""
    return other if in_use == plain else plain


def _preview(path: Path) -> str:
    if path.suffix.lower() not in _TEXT_SUFFIXES:
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(PREVIEW_CHARACTERS)
