"""A ClearML server for a test: started, steered and read."""

from __future__ import annotations

import base64
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from double_tools import started, steer, stopped

WEB_URL = "http://clearml.test"  # only ever printed: nothing asks the web interface
NOWHERE = "http://127.0.0.1:9"  # a port where nobody listens
CONTROL_HEADER = "X-Double-Control"
ENDED = ("completed", "failed", "stopped", "published", "closed")


@dataclass
class DoubleProcess:
    """The double, in a process of its own."""

    process: subprocess.Popen[str]
    addresses: dict[str, str]
    files_dir: Path

    @classmethod
    def start(cls, files_dir: Path) -> DoubleProcess:
        process, addresses = started("clearml_server", "--files-dir", str(files_dir))
        return cls(process, addresses, files_dir)

    def stop(self) -> None:
        """From now on connections are refused."""
        stopped(self.process)


@dataclass
class ClearMLServer:
    """One test's view of the double. What it asks itself is never struck by a fault and not counted.

    home: the HOME of the processes that the test starts. A task is named by its id, a parameter by "section/key".
    """

    double: DoubleProcess
    home: Path

    @property
    def api_url(self) -> str:
        return self.double.addresses["api"]

    @property
    def files_url(self) -> str:
        return self.double.addresses["files"]

    @property
    def files_dir(self) -> Path:
        return self.double.files_dir

    def environ(self, **more: str) -> dict[str, str]:
        """What a process needs, beside its usual environment, to talk to this server and to nothing else."""
        self.home.mkdir(parents=True, exist_ok=True)
        config = self.home / "empty.conf"
        config.touch()
        return {
            "HOME": str(self.home),
            "CLEARML_CONFIG_FILE": str(config),
            "CLEARML_API_HOST": self.api_url,
            "CLEARML_WEB_HOST": WEB_URL,
            "CLEARML_FILES_HOST": self.files_url,
            "CLEARML_API_ACCESS_KEY": self.double.addresses["access_key"],
            "CLEARML_API_SECRET_KEY": self.double.addresses["secret_key"],
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE),
            **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1"),
            **more,
        }

    # Asking and telling, as the web interface does.

    def call(self, action: str, /, **body: Any) -> dict[str, Any]:
        """The data of the answer. Raises ServerRefused."""
        data: dict[str, Any] = self._send(action, body)["data"]
        return data

    def clone(self, task: str, name: str) -> str:
        clone: str = self.call("tasks.clone", task=task, new_task_name=name, new_task_parent=task)["id"]
        return clone

    def edit(self, task: str, parameters: Mapping[str, str]) -> None:
        """Changes values, keeping type and description; a key that is not there yet is added.

        The web interface edits drafts only. A task that is none any more is edited by force, as a script may do.
        """
        record = self.task(task)
        sections, items = record["hyperparams"], []
        for path, value in parameters.items():
            section, _, name = path.partition("/")
            known = sections.get(section, {}).get(name, {"section": section, "name": name})
            items.append({**known, "value": value})
        if record["status"] == "created":
            self.call("tasks.edit_hyper_params", task=task, hyperparams=items, replace_hyperparams="none")
            return
        for item in items:
            sections.setdefault(item["section"], {})[item["name"]] = item
        self.call("tasks.edit", task=task, hyperparams=sections, force=True)

    def edit_configuration(self, task: str, name: str, text: str) -> None:
        known = self.task(task)["configuration"].get(name, {"name": name, "type": "dictionary"})
        self.call("tasks.edit_configuration", task=task, configuration=[{**known, "value": text}])

    def enqueue(self, task: str, queue: str = "default") -> None:
        """Makes the queue when there is none of this name."""
        self.call("tasks.enqueue", task=task, queue_name=queue)

    def stop(self, task: str) -> None:
        """What "Abort" does."""
        self.call("tasks.stop", task=task, status_reason="user pressed stop")

    # Looking.

    def state(self) -> dict[str, Any]:
        """ "task", "model", "project", "queue", "worker": records by id; "events" by task; "counts" by action."""
        state: dict[str, Any] = self._send("_state")
        return state

    def task(self, id_: str) -> dict[str, Any]:
        task: dict[str, Any] = self.state()["task"][id_]
        return task

    def tasks(self) -> list[dict[str, Any]]:
        """In the order in which they were made."""
        return list(self.state()["task"].values())

    def models(self) -> list[dict[str, Any]]:
        return list(self.state()["model"].values())

    def events(self, task: str, kind: str | None = None) -> list[dict[str, Any]]:
        """kind: log, training_stats_scalar, plot or training_debug_image; all of them by default."""
        events = self.state()["events"].get(task, [])
        return [event for event in events if kind in (None, event["type"])]

    def console(self, task: str) -> str:
        return "\n".join(event["msg"] for event in self.events(task, "log"))

    def parameters(self, task: str) -> dict[str, str]:
        """ "section/key" -> text."""
        sections = self.task(task)["hyperparams"]
        return {f"{section}/{name}": item["value"] for section in sections for name, item in sections[section].items()}

    def artifact(self, task: str, name: str) -> Path:
        """The file behind an artifact, where the file server keeps it."""
        artifacts = {artifact["key"]: artifact for artifact in self.task(task)["execution"]["artifacts"]}
        return self.file(artifacts[name]["uri"])

    def file(self, url: str) -> Path:
        """Where the file server keeps what it serves under this address."""
        assert url.startswith(self.files_url), f"{url} is not on the file server {self.files_url}"
        return self.files_dir / urllib.request.url2pathname(urlsplit(url).path).lstrip("/")

    def requests(self, action: str) -> int:
        """How many requests for this action came, refused ones included."""
        count: int = self.state()["counts"].get(action, 0)
        return count

    def violations(self) -> list[str]:
        found: list[str] = self._send("_violations")
        return found

    def wait_for_status(self, task: str, *statuses: str, timeout_s: float = 60) -> str:
        """Until the task has one of these states, an end by default."""
        deadline, wanted = time.monotonic() + timeout_s, statuses or ENDED
        while time.monotonic() < deadline:
            status: str = self.task(task)["status"]
            if status in wanted:
                return status
            time.sleep(0.1)
        raise AssertionError(f"task {task} is still {status}, not {' or '.join(wanted)}:\n{self.console(task)}")

    # Failing.

    def fault(
        self, action: str, *, status: int | None = None, times: int = -1, hang: float = 0.0, cut: str = ""
    ) -> None:
        """The next `times` requests fail, or all until `clear_faults`.

        action: a name like "events.add_batch", "*" for every action of the API (a login too), "files.upload",
        "files.download", "files.delete" or "files.*". hang: seconds to wait first, or until the fault is cleared.
        status: the HTTP status to answer. cut: close the connection "before" or "after" doing what was asked.
        """
        self._send("_fault", {"action": action, "status": status, "times": times, "hang_s": hang, "cut": cut})

    def fault_hits(self, action: str) -> int:
        """How many requests the fault of this name has struck so far."""
        return sum(fault["hits"] for fault in self._send("_fault") if fault["action"] == action)

    def clear_faults(self) -> None:
        self._send("_clear_faults", {})

    def expire_tokens(self) -> None:
        """Every token issued so far is refused with 401 from now on."""
        self._send("_expire_tokens", {})

    def reset(self) -> None:
        """Nothing stored, no files, no faults, no violations."""
        self._send("_reset", {})
        for path in self.files_dir.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _send(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        keys = f"{self.double.addresses['access_key']}:{self.double.addresses['secret_key']}"
        headers = {
            "Authorization": f"Basic {base64.b64encode(keys.encode()).decode()}",
            "Content-Type": "application/json",
            CONTROL_HEADER: "1",
        }
        return steer(self.api_url, path, body, headers)


@pytest.fixture(scope="session")
def double_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoubleProcess]:
    double = DoubleProcess.start(tmp_path_factory.mktemp("clearml-files"))
    yield double
    double.stop()


@pytest.fixture
def clearml_server(double_process: DoubleProcess, tmp_path: Path) -> Iterator[ClearMLServer]:
    """A ClearML server that has seen nothing yet. At the end of the test no client has broken the protocol."""
    server = ClearMLServer(double_process, tmp_path / "clearml-home")
    server.reset()
    yield server
    server.clear_faults()
    assert server.violations() == []


@pytest.fixture
def own_clearml_server(tmp_path: Path) -> Iterator[ClearMLServer]:
    """A ClearML server that the test may stop in the middle: `server.double.stop()`."""
    server = ClearMLServer(DoubleProcess.start(tmp_path / "clearml-files"), tmp_path / "clearml-home")
    yield server
    if server.double.process.poll() is None:
        assert server.violations() == []
    server.double.stop()
