"""A small run that reports to the double of the ClearML server, and what is read of both."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from clearml_tools import ClearMLServer
from data_tools import sound_data
from processes import Place

SMALL = [
    *("train", "shapes", "--model", "yolox-nano", "--weights", "none", "--resolution", "64", "--batch-size", "2"),
    *("--set", "data.num_workers=0", "--set", "export.format=[]", "--set", "validation.pictures=0"),
    *("--set", "experiment.clearml.resource_monitoring=false", "--set", "experiment.logging.log_interval=1"),
]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    sound_data(tmp_path / "shapes")
    return Place(tmp_path, tmp_path / "cache")


@pytest.fixture
def tracked(place: Place, clearml_server: ClearMLServer) -> Place:
    place.more = clearml_server.environ()
    return place


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


def settings(**values: object) -> list[str]:
    return [f"--set=experiment.clearml.{name}={value}" for name, value in values.items()]


def scalars(server: ClearMLServer, task: str, metric: str, variant: str) -> list[tuple[int, float]]:
    events = server.events(task, "training_stats_scalar")
    return [(e["iter"], e["value"]) for e in events if (e["metric"], e["variant"]) == (metric, variant)]


def wait_for_task(server: ClearMLServer, process: subprocess.Popen[str], name: str) -> str:
    """Until the run of this name reports numbers."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for task in server.tasks():
            if task["name"] == name and server.events(task["id"], "training_stats_scalar"):
                return str(task["id"])
        time.sleep(0.2)
    raise AssertionError("the run reported nothing: " + "".join(process.communicate()))


def no_server(place: Place) -> dict[str, str]:
    """Configured, but nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "CLEARML_API_HOST": f"http://127.0.0.1:{port}",
        "CLEARML_API_ACCESS_KEY": "key",
        "CLEARML_API_SECRET_KEY": "secret",
        "HOME": str(place.folder),
    }


STOPPED_AFTER_THE_CONNECTION = """
import sys, time
from pathlib import Path

from detloom.cli import main
from detloom_integrations.clearml.server import Server

call = Server.call


def until_told(self, action, /, **body):
    answer = call(self, action, **body)
    if "hyperparams" in body and not Path("connected").exists():
        Path("connected").touch()
        while not Path("go").exists():
            time.sleep(0.05)
    return answer


Server.call = until_told
sys.exit(main(sys.argv[1:]))
"""
