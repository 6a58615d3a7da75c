"""The real clearml-agent on the double of the server, and a git repository that it can clone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from clearml_tools import WEB_URL, ClearMLServer

CONFIGURATION = """
api {{
    api_server: "{api}"
    web_server: "{web}"
    files_server: "{files}"
    credentials {{ access_key: "{access_key}", secret_key: "{secret_key}" }}
}}
agent {{
    worker_name: "tests"
    disable_agent_update_check: true
    package_manager {{ type: pip, pip_version: ["<24"], system_site_packages: {system_site_packages} }}
    venvs_dir: "{builds}"
    venvs_cache {{ max_entries: 10, free_space_threshold_gb: 1.0, path: "{home}/venvs-cache" }}
    vcs_cache {{ enabled: true, path: "{builds}/vcs-cache" }}
    pip_download_cache {{ enabled: true, path: "{home}/pip-download-cache" }}
}}
sdk {{ storage {{ cache {{ default_base_dir: "{builds}/sdk-cache" }} }} }}
"""


@dataclass(frozen=True)
class AgentRun:
    """status: of the task. output: all that the agent and the task printed."""

    status: str
    output: str


@dataclass
class ClearMLAgent:
    """An agent for one test. home: kept for the session, so that environments once built are found again."""

    server: ClearMLServer
    home: Path
    folder: Path

    def execute(
        self, task: str, *, system_site_packages: bool = False, timeout_s: float = 300, **environ: str
    ) -> AgentRun:
        """Enqueue a task, wait until the agent is done with it, end the agent."""
        self.server.enqueue(task, "agents")
        with self.daemon(system_site_packages=system_site_packages, **environ) as log:
            self.wait_until_done(task, log, timeout_s)
        return AgentRun(self.server.task(task)["status"], log.read_text(encoding="utf-8", errors="replace"))

    @contextmanager
    def daemon(self, *, system_site_packages: bool = False, **environ: str) -> Iterator[Path]:
        """`clearml-agent daemon` on the queue "agents" until the block ends. Yields the file it prints to.

        system_site_packages: tasks find what this test run has installed, Detloom excepted, and nothing is installed
        that is there already; otherwise they get an environment of their own.
        """
        configuration = self._configure(system_site_packages)
        log = self.folder / "agent.log"
        command = [sys.executable, "-W", "ignore", "-m", "clearml_agent", "--config-file", str(configuration)]
        command += ["daemon", "--queue", "agents", "--create-queue", "--foreground", "--cpu-only"]
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._environ(configuration, environ),
                start_new_session=True,
            )
        try:
            yield log
        finally:
            _end(process)

    def wait_until_done(self, task: str, log: Path, timeout_s: float = 300) -> str:
        """Until the task has ended and no worker holds it. Returns its status."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            state = self.server.state()
            status: str = state["task"][task]["status"]
            held = any(worker.get("task") == task for worker in state["worker"].values())
            if status in ("completed", "failed", "stopped") and not held:
                return status
            time.sleep(0.2)
        text = log.read_text(encoding="utf-8", errors="replace")
        raise AssertionError(f"after {timeout_s} s the task is {status}. The agent said:\n{text[-5000:]}")

    def _configure(self, system_site_packages: bool) -> Path:
        if system_site_packages:
            _link_installed_packages(self._own_home(system_site_packages))
        path = self.folder / "agent.conf"
        text = CONFIGURATION.format(
            api=self.server.api_url,
            web=WEB_URL,
            files=self.server.files_url,
            access_key=self.server.double.addresses["access_key"],
            secret_key=self.server.double.addresses["secret_key"],
            system_site_packages=str(system_site_packages).lower(),
            builds=self.folder / "agent-builds",
            home=self._own_home(system_site_packages),
        )
        path.write_text(text, encoding="utf-8")
        return path

    def _own_home(self, system_site_packages: bool) -> Path:
        home = self.home / ("with-packages" if system_site_packages else "bare")
        home.mkdir(parents=True, exist_ok=True)
        return home

    def _environ(self, configuration: Path, more: dict[str, str]) -> dict[str, str]:
        """The machine's own, as a service would have it: its pip finds packages as pip does here."""
        dropped = ("CLEARML_", "TRAINS_", "DETLOOM_", "PYTHON", "PYTEST_", "COV_", "VIRTUAL_ENV")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        system_python = Path(sys.base_exec_prefix) / "bin"
        text = configuration.read_text(encoding="utf-8")
        environ |= {
            "HOME": str(self._own_home("system_site_packages: true" in text)),
            "PATH": os.pathsep.join((str(system_python), environ.get("PATH", ""))),
            "CLEARML_CONFIG_FILE": str(configuration),
            "CLEARML_AGENT_QUEUE_POLL_FREQ_SEC": "0.5",
            "CLEARML_AGENT_STATUS_REPORT_FREQ_SEC": "0.5",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "no_proxy": ",".join(filter(None, (environ.get("no_proxy"), "127.0.0.1"))),
        }
        return environ | more


def _end(process: subprocess.Popen[bytes]) -> None:
    """The agent, and what it left running."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _link_installed_packages(home: Path) -> None:
    """What is installed here becomes the packages of the agent's user, which is a part of the system's packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    target = home / ".local" / "lib" / version / "site-packages"
    if target.is_dir():
        return
    target.mkdir(parents=True)
    for source in (Path(sys.prefix) / "lib" / version / "site-packages").iterdir():
        if (
            not source.name.startswith(("detloom", "_detloom", "__editable__", "__pycache__", "virtualenv"))
            and source.suffix != ".pth"
        ):
            (target / source.name).symlink_to(source)


@dataclass(frozen=True)
class GitRepository:
    """A work tree and its remote, a bare repository beside it."""

    folder: Path
    remote: Path

    @classmethod
    def create(cls, folder: Path) -> GitRepository:
        """Makes the folder a repository; what is in it is committed and pushed."""
        repository = cls(folder, folder.with_name(folder.name + ".git"))
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", str(repository.remote)], check=True)
        repository.git("init", "--quiet", "-b", "main")
        repository.git("config", "user.name", "Tests")
        repository.git("config", "user.email", "tests@example.com")
        repository.git("remote", "add", "origin", repository.url)
        repository.commit("First")
        repository.push()
        return repository

    @property
    def url(self) -> str:
        return f"file://{self.remote}"

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, message: str) -> str:
        """Everything in the folder. Returns the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def push(self) -> None:
        self.git("push", "--quiet", "--set-upstream", "origin", "main")


@pytest.fixture(scope="session")
def agent_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("agent-home")
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def clearml_agent(clearml_server: ClearMLServer, agent_home: Path, tmp_path: Path) -> ClearMLAgent:
    """The real agent, working for `clearml_server`."""
    folder = tmp_path / "agent"
    folder.mkdir()
    return ClearMLAgent(clearml_server, agent_home, folder)
