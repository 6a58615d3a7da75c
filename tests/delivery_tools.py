"""A task on the double of the server, and a run's folder to report from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clearml_tools import ClearMLServer
from detloom.specs import LoggerContext
from detloom_integrations.clearml import delivery as module
from detloom_integrations.clearml import events
from detloom_integrations.clearml.delivery import Delivery
from detloom_integrations.clearml.logger import ClearMLLogger
from detloom_integrations.clearml.server import Server

RECORD: dict[str, Any] = {
    "project": "cells/blood count",
    "name": "offline run",
    "tags": ["blood", "tiny"],
    "type": "training",
    "hyperparams": {"training": {"lr": {"section": "training", "name": "lr", "value": "0.01", "type": "float"}}},
    "configuration": {"augmentation": {"name": "augmentation", "value": "flip: true", "type": "yaml"}},
    "script": {"repository": "", "entry_point": "-m detloom", "requirements": {"pip": "detloom"}},
}


@dataclass
class Bench:
    """A double with one task and a folder. `delivery` makes a new delivery to it."""

    double: ClearMLServer
    server: Server
    task: str
    folder: Path

    def delivery(self, *, close_timeout: float = 20.0, limit_bytes: int = 1 << 24, online: bool = True) -> Delivery:
        return Delivery(
            self.server if online else None,
            self.task if online else None,
            self.folder,
            record=RECORD,
            limit_bytes=limit_bytes,
            close_timeout=close_timeout,
        )

    def logger(self, delivery: Delivery) -> ClearMLLogger:
        return ClearMLLogger(delivery, LoggerContext(self.folder, "run", total_steps=1000, total_epochs=10))

    def file(self, name: str, content: bytes = b"content") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def steps(self, title: str = "train", series: str = "loss", task: str = "") -> list[int]:
        """Iterations of one curve, in the order in which they came."""
        found = self.double.events(task or self.task, "training_stats_scalar")
        return [event["iter"] for event in found if (event["metric"], event["variant"]) == (title, series)]

    def models(self, task: str = "") -> dict[str, dict[str, Any]]:
        """Output models by the names that the task has for them.

        The two answers are of different moments: a model that took another's place between them is asked for again.
        """
        for _ in range(3):
            known = {model["id"]: model for model in self.double.models()}
            linked = self.double.task(task or self.task)["models"]["output"]
            if all(entry["model"] in known for entry in linked):
                break
        return {entry["name"]: known[entry["model"]] for entry in linked}

    def finished(self, **more: Any) -> None:
        """run.json of a run that is over."""
        record = {"name": "run", "status": "completed", "started": "2026-01-02T03:04:05+00:00", **more}
        (self.folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


def report_losses(delivery: Delivery, steps: range) -> None:
    for step in steps:
        delivery.report(events.scalars, {"train/loss": 1.0 / (step + 1)}, step, 1.7e9 + step)


@pytest.fixture
def bench(clearml_server: ClearMLServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name, value in clearml_server.environ().items():
        monkeypatch.setenv(name, value)
    project = clearml_server.call("projects.create", name="cells", description="")["id"]
    task = clearml_server.call("tasks.create", name="count cells", type="training", project=project)["id"]
    clearml_server.call("tasks.started", task=task)
    folder = tmp_path / "run"
    folder.mkdir()
    return Bench(clearml_server, Server.open(), task, folder)


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.02)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, so that an outage of a second is a long one."""
    monkeypatch.setattr(module, "WRITE_INTERVAL_S", 0.1)
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.5)
    monkeypatch.setattr(module, "CLOSING_PAUSE_S", 0.2)
