"""The source: CVAT tasks, projects and jobs as data."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.data.records import DataTree, SourcePlan
from detloom.errors import DetloomError
from detloom.files import write_json
from detloom.transfer import ChangedError, Deadline, Meter, Patience, cached_folder, redacted, remove_tree
from detloom_integrations.cvat.access import Access, find_access
from detloom_integrations.cvat.assembling import Source, assemble, missing
from detloom_integrations.cvat.fetching import Fetcher
from detloom_integrations.cvat.server import Limits, RefusedError, Server
from detloom_integrations.cvat.units import FORMAT, Unit, find_units

if TYPE_CHECKING:
    from detloom.specs import FetchContext
    from detloom_schemas.data_config import CVATDataSource

log = logging.getLogger("detloom")

PLAN_S = 300.0
"""Seconds that looking up what is there may take."""
PLAN_PATIENCE, FETCH_PATIENCE = Patience(attempts=3), Patience()
RECORD = Path("about") / "cvat.json"
"""What was fetched: kept beside the data, away from where formats look for annotations."""


class CVATSource:
    """Nothing is asked before `plan` or `fetch`."""

    def __init__(self, settings: CVATDataSource) -> None:
        self._settings = settings
        self._planned: dict[str, list[Unit]] = {}

    def plan(self) -> SourcePlan:
        """Asks for tasks, jobs and labels; downloads nothing. Raises UsageError, DataError, UnreachableError."""
        access = find_access(self._settings)
        with _clean(access):
            server = self._open(access, Deadline(PLAN_S), PLAN_PATIENCE)
            return self._plan(access, find_units(server, self._settings))

    def fetch(self, plan: SourcePlan, dest: Path, context: FetchContext) -> DataTree:
        """Into `dest`; asks no server when it is there and unchanged. Raises ChangedError when the server holds
        something else than what was planned."""
        if not is_whole(dest):
            access = find_access(self._settings)
            with _clean(access):
                self._fetch(access, plan, dest, context)
        return DataTree(dest, images=(dest / "images",), name=_name(plan.identity))

    def _open(self, access: Access, deadline: Deadline, patience: Patience) -> Server:
        wanted = self._settings.downloader
        kind = wanted if wanted in ("auto", "sdk") else "http"
        return Server.open(access, Limits(deadline, self._settings.timeout, patience), kind)

    def _plan(self, access: Access, units: list[Unit]) -> SourcePlan:
        keys = [unit.key(access.address) for unit in units]
        revision = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        self._planned[revision] = units
        return SourcePlan(_identity(access, self._settings), revision, sum(unit.frames for unit in units))

    def _fetch(self, access: Access, plan: SourcePlan, dest: Path, context: FetchContext) -> None:
        deadline = Deadline.of(context)
        server = self._open(access, deadline, FETCH_PATIENCE)
        units = self._units(server, plan)
        meter = Meter(0, context.progress)
        fetcher = Fetcher(server, meter, self._settings.downloader, self._settings.export)
        parts = dest.parent / "parts"

        def fill(folder: Path) -> None:
            remove_tree(folder)
            folder.mkdir()
            sources, hows = [], []
            for unit in units:
                place = cached_folder(
                    parts / unit.key(access.address), _filler(fetcher, unit), deadline=deadline, is_whole=is_piece
                )
                _watch(server, unit)
                pieces = json.loads((place / "pieces.json").read_text(encoding="utf-8"))
                sources.append(Source(unit, [place / piece["folder"] for piece in pieces]))
                hows.append([piece["how"] for piece in pieces])
            sizes = assemble(sources, folder)
            write_json(folder / RECORD, _record(access, plan, units, hows, sizes))

        cached_folder(dest, fill, deadline=deadline, is_whole=is_whole)

    def _units(self, server: Server, plan: SourcePlan) -> list[Unit]:
        if plan.revision not in self._planned:
            now = self._plan(server.access, find_units(server, self._settings))
            if (now.identity, now.revision) != (plan.identity, plan.revision):
                raise ChangedError(
                    f"{plan.identity} does not hold any more what was planned (revision {plan.revision})",
                    hint=f"plan again: it now holds revision {now.revision}",
                )
        return self._planned[plan.revision]


def _filler(fetcher: Fetcher, unit: Unit) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        pieces = fetcher.fetch(unit, folder)
        for entry in folder.iterdir():
            if entry not in [piece.folder for piece in pieces]:
                remove_tree(entry)  # what ways that failed have left
        kept = [{"folder": piece.folder.name, "how": piece.how} for piece in pieces]
        write_json(folder / "pieces.json", kept)

    return fill


def is_piece(folder: Path) -> bool:
    """Whether a unit was fetched to its end and its annotations are still there."""
    try:
        pieces = json.loads((folder / "pieces.json").read_text(encoding="utf-8"))
        return all((folder / piece["folder"] / "annotations.xml").is_file() for piece in pieces)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_whole(dest: Path) -> bool:
    """Whether everything that was fetched is still there, judged by names and sizes."""
    try:
        record = json.loads((dest / RECORD).read_text(encoding="utf-8"))
        sizes = {str(name): int(size) for name, size in record["images"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return (dest / "annotations.xml").is_file() and not missing(dest, sizes.items())


def _record(
    access: Access, plan: SourcePlan, units: Sequence[Unit], hows: Sequence[list[str]], sizes: dict[str, int]
) -> dict[str, Any]:
    return {
        "server": access.address,
        "identity": plan.identity,
        "revision": plan.revision,
        "format": FORMAT,
        "parts": [
            {
                "kind": unit.kind,
                "id": unit.id,
                "name": unit.name,
                "subset": unit.subset,
                "updated": unit.updated,
                "frames": unit.frames,
                "labels": list(unit.labels),
                "folder": f"images/{unit.folder}",
                "fetched": how,
            }
            for unit, how in zip(units, hows, strict=True)
        ],
        "images": sizes,
    }


def _watch(server: Server, unit: Unit) -> None:
    """Annotations may change while they are fetched: the next run then fetches them again, and this one says so."""
    try:
        now = str(server.json(unit.path).get("updated_date") or "")
    except (RefusedError, DetloomError, AttributeError):
        return
    if now not in unit.updated:
        log.warning("CVAT: %s was changed while it was fetched: the next run will fetch it again", unit.label)


def _identity(access: Access, settings: CVATDataSource) -> str:
    """`https://cvat.example/tasks/1,2/jobs/7`"""
    kinds = (("projects", settings.project_ids), ("tasks", settings.task_ids), ("jobs", settings.job_ids))
    parts = [f"{kind}/{','.join(map(str, dict.fromkeys(ids)))}" for kind, ids in kinds if ids]
    return "/".join([access.address, *parts])


def _name(identity: str) -> str:
    """What people call the data: `cvat-1-2`, `cvat-project-5`."""
    words = identity.split("/")
    parts = []
    for kind in ("projects", "tasks", "jobs"):
        for where, ids in itertools.pairwise(words):
            if where == kind and ids.replace(",", "").isdigit():
                numbers = ids.split(",")
                more = f"-and-{len(numbers) - 4}-more" if len(numbers) > 4 else ""
                prefix = "" if kind == "tasks" else f"{kind.removesuffix('s')}-"
                parts.append(f"{prefix}{'-'.join(numbers[:4])}{more}")
    return f"cvat-{'-'.join(parts)}"


@contextlib.contextmanager
def _clean(access: Access) -> Iterator[None]:
    """No message leaves with a secret in it, wherever it comes from."""
    try:
        yield
    except RefusedError as refusal:
        raise DetloomError(redacted(f"CVAT at {access.address} refuses: {refusal}", access.secrets)) from None
    except DetloomError as error:
        error.message, error.hint = redacted(error.message, access.secrets), redacted(error.hint, access.secrets)
        error.args = (error.message,)
        raise
