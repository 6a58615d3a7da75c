"""A CVAT server for a test: started, filled, steered and read."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from detloom.data.records import DataTree
from detloom.specs import FetchContext
from detloom_integrations.cvat.source import CVATSource
from detloom_schemas.data_config import CVATDataSource
from double_tools import started, steer, stopped

USER, PASSWORD = "admin", "adminpass123"
ACCESS_TOKEN, TOKEN = "pat-admin-0123456789", "legacytoken9876543210"
VARIABLES = ("CVAT_URL", "CVAT_USERNAME", "CVAT_PASSWORD", "CVAT_TOKEN", "CVAT_ACCESS_TOKEN", "CVAT_ORGANIZATION")


@dataclass
class CVATServer:
    """The double, in a process of its own."""

    process: subprocess.Popen[str]
    url: str

    @classmethod
    def start(cls) -> CVATServer:
        process, addresses = started("cvat_server")
        return cls(process, addresses["url"])

    def stop(self) -> None:
        """From now on connections are refused."""
        stopped(self.process)

    def environ(self, **more: str) -> dict[str, str]:
        """What a process needs, beside its usual environment, to log in here with a password."""
        return {
            "CVAT_URL": self.url, "CVAT_USERNAME": USER, "CVAT_PASSWORD": PASSWORD, "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1", **more,
        }  # fmt: skip

    def hold(self, *tasks: Mapping[str, Any], **more: Any) -> None:
        """The server holds these tasks and nothing else; see doubles/cvat_server/world.py."""
        self._send("_world", {"polls": 0, "tasks": list(tasks), **more})

    def fault(self, name: str, value: Any = 1, times: int = -1) -> None:
        """See doubles/cvat_server/faults.py. times: how often, -1 until cleared."""
        self._send("_fault", {"name": name, "value": value, "times": times})

    def clear_faults(self) -> None:
        self._send("_clear_faults", {})

    def hits(self, name: str) -> int:
        """How many requests this fault has struck."""
        return int(self._send("_state")["fault_hits"].get(name, 0))

    def requests(self, containing: str = "") -> list[str]:
        """ "VERB path" of each request so far, in order."""
        return [request for request in self._send("_state")["requests"] if containing in request]

    def violations(self) -> list[str]:
        found: list[str] = self._send("_state")["violations"]
        return found

    def pictures(self, task: int) -> dict[str, str]:
        """File name to SHA-256 of each frame."""
        found: dict[str, str] = self._send("_state")["frames"][str(task)]
        return found

    def _send(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return steer(self.url, path, body, {})


@pytest.fixture(scope="session")
def cvat_process() -> Iterator[CVATServer]:
    server = CVATServer.start()
    yield server
    server.stop()


@pytest.fixture
def cvat(cvat_process: CVATServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[CVATServer]:
    """A server that holds nothing yet, and the environment that logs in there. At the end of the test no client has
    broken the protocol."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in cvat_process.environ().items():
        monkeypatch.setenv(name, value)
    cvat_process.hold()
    yield cvat_process
    cvat_process.clear_faults()
    assert cvat_process.violations() == []


def task(id_: int, names: tuple[str, ...] = ("a.jpg", "b.jpg"), **more: Any) -> dict[str, Any]:
    """A task with a car and a dog in each frame, at places that depend on the frame."""
    shapes = []
    for n in range(len(names)):
        shapes.append({"frame": n, "label": "car", "points": [4.0 + n, 5.0, 24.0 + n, 15.5]})
        shapes.append({"frame": n, "label": "dog", "points": [30.0, 20.0 + n, 46.25, 32.0 + n]})
    frames = [{"name": name} for name in names]
    return {"id": id_, "labels": ["car", "dog"], "frames": frames, "shapes": shapes, **more}


def source(**settings: Any) -> CVATSource:
    """A source with these settings; silent servers are given up after three seconds."""
    return CVATSource(CVATDataSource(**{"timeout": 3.0, **settings}))


def fetched(folder: Path, *, seconds: float = 60.0, **settings: Any) -> DataTree:
    """Plan and fetch below a folder, as a command does."""
    made = source(**settings)
    plan = made.plan()
    return made.fetch(plan, folder / plan.revision, FetchContext(deadline_s=seconds))


def pictures_of(tree: DataTree) -> dict[str, str]:
    """Name below images/ to SHA-256."""
    images = tree.root / "images"
    return {
        path.relative_to(images).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in images.rglob("*")
        if path.is_file()
    }
