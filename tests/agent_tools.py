"""The real clearml-agent on the double of the server, and a git repository that it can clone."""

from __future__ import annotations

import ensurepip
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from clearml_tools import NOWHERE, WEB_URL, ClearMLServer
from double_tools import TESTS
from wheel_tools import make_wheel, needed_by

QUEUE = "agents"
BUILD_NEEDS = ("hatchling",)
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
    package_manager {{ type: pip, pip_version: ["=={pip}"], system_site_packages: {system_site_packages} }}
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
    """An agent for one test. shared: kept for the session, so that environments once built are found again.

    Nothing is fetched from a network: its pip finds wheels of what is installed here.
    """

    server: ClearMLServer
    shared: Path
    folder: Path

    def execute(
        self,
        task: str,
        *,
        system_site_packages: bool = False,
        packages: Sequence[str] | None = None,
        timeout_s: float = 300,
        **environ: str,
    ) -> AgentRun:
        """Enqueue a task, wait until the agent is done with it, end the agent. See `daemon`."""
        self.server.enqueue(task, QUEUE)
        with self.daemon(system_site_packages=system_site_packages, packages=packages, **environ) as log:
            status = self.wait_until_done(task, log, timeout_s)
        return AgentRun(status, log.read_text(encoding="utf-8", errors="replace"))

    @contextmanager
    def daemon(
        self, *, system_site_packages: bool = False, packages: Sequence[str] | None = None, **environ: str
    ) -> Iterator[Path]:
        """`clearml-agent daemon` on the queue "agents" until the block ends. Yields the file it prints to.

        system_site_packages: tasks find what this test run has installed, Detloom excepted; otherwise they start with
        an empty environment. packages: requirements; pip can install these and whatever they need. By default that is
        all of Detloom, or what builds it where the rest is there already. environ: added to the agent's environment,
        which tasks inherit.
        """
        if packages is None:
            packages = BUILD_NEEDS if system_site_packages else [*BUILD_NEEDS, *detloom_needs()]
        _make_wheels(packages, self._wheels)
        home = self.shared / ("home-with-packages" if system_site_packages else "home")
        home.mkdir(exist_ok=True)
        if system_site_packages:
            _link_installed_packages(home)
        configuration, log = self._configure(home, system_site_packages), self.folder / "agent.log"
        command = [sys.executable, "-W", "ignore", "-m", "clearml_agent", "--config-file", str(configuration)]
        command += ["daemon", "--queue", QUEUE, "--create-queue", "--foreground", "--cpu-only"]
        # Agents that share a temporary folder take each other for instances of one machine's agent. Its path is short
        # because PyTorch puts sockets there.
        with tempfile.TemporaryDirectory(prefix="agent-") as temporary, log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**self._environ(home, configuration), "TMPDIR": temporary, **environ},
                start_new_session=True,
            )
            try:
                yield log
            finally:
                _end(process)

    def wait_until_done(self, task: str, log: Path, timeout_s: float = 300) -> str:
        """Until the task has ended and no worker holds it. Returns its status."""
        deadline, status = time.monotonic() + timeout_s, ""
        while time.monotonic() < deadline:
            state = self.server.state()
            status = state["task"][task]["status"]
            held = any(worker.get("task") == task for worker in state["worker"].values())
            if status in ("completed", "failed", "stopped") and not held:
                return status
            time.sleep(0.2)
        text = log.read_text(encoding="utf-8", errors="replace")
        raise AssertionError(f"after {timeout_s} s the task is {status}. The agent said:\n{text[-5000:]}")

    @property
    def _builds(self) -> Path:
        return self.folder / "builds"

    @property
    def _wheels(self) -> Path:
        return self.shared / "wheels"

    def clean_up(self) -> None:
        """Removes environments and clones of this test, which may be large."""
        shutil.rmtree(self._builds, ignore_errors=True)

    def _configure(self, home: Path, system_site_packages: bool) -> Path:
        path = self.folder / "agent.conf"
        text = CONFIGURATION.format(
            api=self.server.api_url,
            web=WEB_URL,
            files=self.server.files_url,
            access_key=self.server.double.addresses["access_key"],
            secret_key=self.server.double.addresses["secret_key"],
            pip=ensurepip.version(),
            system_site_packages=str(system_site_packages).lower(),
            builds=self._builds,
            home=home,
        )
        path.write_text(text, encoding="utf-8")
        return path

    def _environ(self, home: Path, configuration: Path) -> dict[str, str]:
        dropped = ("CLEARML_", "TRAINS_", "DETLOOM_", "PIP_", "PYTHON", "PYTEST_", "COV_", "VIRTUAL_ENV")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        system_python = Path(sys.base_exec_prefix) / "bin"
        return environ | {
            "HOME": str(home),
            "PATH": os.pathsep.join((str(system_python), environ.get("PATH", ""))),
            "CLEARML_CONFIG_FILE": str(configuration),
            "CLEARML_AGENT_QUEUE_POLL_FREQ_SEC": "0.5",
            "CLEARML_AGENT_STATUS_REPORT_FREQ_SEC": "0.5",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self._wheels),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            # A falsy value is what switches compiling off; a run compiles the modules that it imports.
            "PIP_NO_COMPILE": "no",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOWHERE),
            **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1"),
        }


def detloom_needs() -> list[str]:
    """The requirements of pyproject.toml."""
    needs: list[str] = tomllib.loads((TESTS.parent / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    return needs


def _make_wheels(requirements: Sequence[str], folder: Path) -> None:
    """Adds to the folder what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "made.txt"
    there = set(made.read_text(encoding="utf-8").split()) if made.is_file() else set()
    for name in sorted(needed_by(*requirements) - there):
        make_wheel(name, folder)
        with made.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")


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
def agent_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the agents of this session share: their homes, wheels and environments."""
    folder = tmp_path_factory.mktemp("agents")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def clearml_agent(clearml_server: ClearMLServer, agent_folder: Path, tmp_path: Path) -> Iterator[ClearMLAgent]:
    """The real agent, working for `clearml_server`."""
    folder = tmp_path / "agent"
    folder.mkdir()
    agent = ClearMLAgent(clearml_server, agent_folder, folder)
    yield agent
    agent.clean_up()
