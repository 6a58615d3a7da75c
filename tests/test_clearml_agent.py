"""The full circle with the real agent: a run is made here, cloned, edited and enqueued on the server, and executed by
an agent that is given no argument."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from agent_tools import BUILD_NEEDS, QUEUE, ClearMLAgent, GitRepository
from clearml_tools import ClearMLServer, DoubleProcess
from conftest import ROOT
from detloom.packages import runtime_requirements
from plugin_tools import PACKAGE, Field, draw_field

pytestmark = [pytest.mark.agent, pytest.mark.slow]

CODE = ("core", "plugins", "integrations", "schemas", "run_training.py", "pyproject.toml", "README.md", "LICENSE")
SHORT = ("--weights", "none", "--batch-size", "4", "--resolution", "64", "--num-workers", "0", "--epochs", "1")
QUIET = ("experiment.logging.log_interval=1", "validation.pictures=2", "experiment.clearml.resource_monitoring=false")


NO_NETWORK = {"CLEARML_AGENT_PACKAGE_PYTORCH_RESOLVE": "none"}
"""The agent otherwise asks the index of PyTorch for torch; pip's own configuration knows where to look."""


def copy_sources(names: tuple[str, ...], source: Path, dest: Path) -> GitRepository:
    """A repository of its own, pushed to a bare one, with these files and folders as they are now."""
    dest.mkdir()
    for name in names:
        if (source / name).is_dir():
            shutil.copytree(source / name, dest / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source / name, dest / name)
    return GitRepository.create(dest)


def install_from_git(repository: GitRepository, site: Path) -> str:
    """By pip, from the pushed commit; returns the address that installs it again."""
    source = f"git+{repository.url}@{repository.git('rev-parse', 'HEAD')}"
    quick = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *quick, "--target", str(site), source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return source


@dataclass(frozen=True)
class World:
    """A server, two pushed repositories, and the plugin installed from one of them.

    detloom: Detloom's own sources. plugin: what pip installs orchard-vision from. site: where that is installed.
    agents: what agents share.
    """

    server: ClearMLServer
    folder: Path
    detloom: GitRepository
    plugin: str
    site: Path
    field: Field
    agents: Path

    def run(self, command: list[str | Path], cwd: Path, *path: str | Path) -> subprocess.CompletedProcess[str]:
        """As a user would: the command of a terminal, with ClearML configured. path: PYTHONPATH."""
        dropped = ("DETLOOM_", "CLEARML_", "PYTHON", "PYTEST_", "COV_")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        environ |= {
            **self.server.environ(),
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "OMP_NUM_THREADS": "1",
            "DETLOOM_CACHE": str(self.folder / "cache"),
        }
        return subprocess.run(
            list(map(str, command)), cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False
        )

    @contextmanager
    def agent(self, name: str, *, own_packages: bool) -> Iterator[Agent]:
        """The real agent at work until the block ends. own_packages: tasks start in an environment that is empty, else
        in one that sees what is installed here."""
        folder = self.folder / name
        folder.mkdir()
        agent = ClearMLAgent(self.server, self.agents, folder)
        # What torch demands, the environment of a Python has in an older version.
        packages = [*BUILD_NEEDS, "setuptools", *(runtime_requirements() if own_packages else [])]
        with agent.daemon(system_site_packages=not own_packages, packages=packages, **NO_NETWORK) as log:
            yield Agent(agent, log)
        agent.clean_up()


@dataclass(frozen=True)
class Agent:
    process: ClearMLAgent
    log: Path

    def finish(self, task: str) -> str:
        """Wait for the task; returns its status."""
        return self.process.wait_until_done(task, self.log, 600)

    @property
    def run(self) -> Path:
        """The folder of the run that was executed."""
        (record,) = self.process.folder.rglob("run.json")
        return record.parent

    @property
    def end_of_log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-5000:]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, agent_folder: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    server = ClearMLServer(DoubleProcess.start(folder / "files"), folder / "home")
    server.call("queues.create", name=QUEUE)
    orchard = copy_sources(("pyproject.toml", "src"), PACKAGE, folder / "orchard")
    detloom = copy_sources(CODE, ROOT, folder / "detloom")
    plugin = install_from_git(orchard, folder / "site")
    yield World(server, folder, detloom, plugin, folder / "site", draw_field(folder / "field"), agent_folder)
    violations = server.violations()
    server.double.stop()
    assert violations == []


@pytest.fixture(scope="module")
def base(world: World) -> dict[str, Any]:
    """The task of a run that was trained here, from a checkout, with an augmentation of the plugin."""
    command: list[str | Path] = [sys.executable, "run_training.py", world.field.folder, *SHORT, "--name", "base"]
    for setting in (*QUIET, 'augmentation.transforms=["hflip", "orchard:blend"]'):
        command += ["--set", setting]
    done = world.run(command, world.detloom.folder, world.site)
    assert done.returncode == 0, done.stdout + done.stderr
    (task,) = [task for task in world.server.tasks() if task["name"] == "base"]
    return task


def rates(world: World, task: str) -> list[float]:
    """The learning rate of each step, as the task reported it."""
    rows = world.server.events(task, "training_stats_scalar")
    found = {row["iter"]: row["value"] for row in rows if (row["metric"], row["variant"]) == ("train", "lr")}
    return [found[step] for step in sorted(found)]


def test_the_task_of_a_local_run_says_all_that_an_agent_needs(world: World, base: dict[str, Any]) -> None:
    script = base["script"]
    assert script["repository"] == world.detloom.url
    assert script["version_num"] == world.detloom.git("rev-parse", "HEAD")
    assert (script["entry_point"], script["working_dir"], script["diff"]) == ("run_training.py", ".", "")
    assert base["status"] == "completed"
    lines = script["requirements"]["pip"].splitlines()
    assert world.plugin in lines and any(line.startswith("clearml==") for line in lines)
    assert not any(line.startswith("detloom") for line in lines)


def test_an_edited_clone_is_executed_as_edited(world: World, base: dict[str, Any]) -> None:
    clone = world.server.clone(base["id"], "edited clone")
    edits = {
        "training/lr": "0.003",
        "training/epochs": "2",
        "model/type": "yolox-tiny",
        "augmentation/transforms": '["orchard:blend", "vflip"]',
        "augmentation/plugins/blend/strength": "0.25",
    }
    world.server.edit(clone, edits)
    world.server.enqueue(clone, QUEUE)
    with world.agent("edited", own_packages=False) as agent:
        assert agent.finish(clone) == "completed", agent.end_of_log
        record = json.loads((agent.run / "run.json").read_text())

    assert record["status"] == "completed" and record["command"] == "python run_training.py"
    assert record["model"]["type"] == "yolox-tiny" and record["progress"]["total_epochs"] == 2
    assert {"name": "orchard", "distribution": "orchard-vision", "version": "1.4.2"} in record["plugins"]
    config = yaml.safe_load(world.server.artifact(clone, "config").read_text())
    assert (config["training"]["lr"], config["training"]["epochs"], config["model"]["type"]) == (0.003, 2, "yolox-tiny")
    assert config["augmentation"]["transforms"] == ["orchard:blend", "vflip"]
    assert config["augmentation"]["plugins"]["blend"]["strength"] == 0.25
    assert "hflip" not in config["augmentation"] and "vflip" in config["augmentation"]
    assert config["origins"]["training.lr"] == ["tracker", "task parameter training/lr"]
    assert config["origins"]["training.optimizer"] == ["recipe", "yolox-tiny"]  # derived again

    before, after = rates(world, base["id"]), rates(world, clone)
    assert (len(before), len(after)) == (3, 6)
    assert max(after) == 0.003 and max(before) != 0.003
    shown = world.server.parameters(clone)
    assert {key: shown[key] for key in edits} == edits


def test_an_illegal_edit_ends_the_clone_as_failed_with_what_is_allowed(world: World, base: dict[str, Any]) -> None:
    clone = world.server.clone(base["id"], "illegal clone")
    world.server.edit(
        clone,
        {
            "training/lr": "fast",
            "training/epochs": "-3",
            "augmentation/plugins/blend/strength": "7",
            "training/learning_rte": "1",
        },
    )
    world.server.enqueue(clone, QUEUE)
    with world.agent("illegal", own_packages=False) as agent:
        assert agent.finish(clone) == "failed", agent.end_of_log
    task = world.server.task(clone)
    for said in (task["status_message"], world.server.console(clone)):
        assert "4 mistakes in the configuration" in said
        assert "(task parameter training/lr): found 'fast'; allowed: a number above 0" in said
        assert "(task parameter training/epochs): found '-3'; allowed: a whole number of at least 1" in said
        assert "(task parameter augmentation/plugins/blend/strength): found '7'; allowed: a number from 0 to 1" in said
        assert "(task parameter training/learning_rte): there is no such key" in said
    assert world.server.events(clone, "training_stats_scalar") == []


def test_an_abort_under_an_agent_leaves_the_state_and_another_agent_goes_on(world: World, base: dict[str, Any]) -> None:
    clone = world.server.clone(base["id"], "long clone")
    world.server.edit(clone, {"training/epochs": "2000"})
    world.server.enqueue(clone, QUEUE)
    with world.agent("aborted", own_packages=False) as agent:
        deadline = time.monotonic() + 300
        while len(rates(world, clone)) < 3 and time.monotonic() < deadline:
            time.sleep(0.5)
        world.server.stop(clone)
        assert agent.finish(clone) == "stopped", agent.end_of_log
        assert json.loads((agent.run / "run.json").read_text())["status"] == "interrupted", agent.end_of_log
        left = (agent.run / "checkpoints" / "last.pt").read_bytes()
    kept = {entry["name"]: entry["model"] for entry in world.server.task(clone)["models"]["output"]}
    assert world.server.file(world.server.state()["model"][kept["last"]]["uri"]).read_bytes() == left

    reached = torch.load(io.BytesIO(left))["step"]
    world.server.edit(clone, {"training/epochs": str(reached // 3 + 2)})
    world.server.enqueue(clone, QUEUE)
    with world.agent("goes-on", own_packages=False) as agent:
        assert agent.finish(clone) == "completed", agent.end_of_log
    rows = world.server.events(clone, "training_stats_scalar")
    steps = [row["iter"] for row in rows if (row["metric"], row["variant"]) == ("train", "loss")]
    assert steps == list(range(1, 3 * (reached // 3 + 2) + 1)), "an offset, a gap, or steps again"


@pytest.fixture(scope="module")
def installed(world: World) -> Path:
    """Where Detloom was installed by pip from its repository, together with the plugin."""
    site = world.folder / "site-with-detloom"
    shutil.copytree(world.site, site)
    install_from_git(world.detloom, site)
    return site


def hand_over(world: World, site: Path, cwd: Path, data: str) -> str:
    """`detloom train --queue agents`; returns the task."""
    command: list[str | Path] = [sys.executable, "-m", "detloom", "train", data, *SHORT, "--name", cwd.name]
    for setting in QUIET:
        command += ["--set", setting]
    done = world.run([*command, "--queue", QUEUE, "--paths-exist-remotely"], cwd, site)
    assert done.returncode == 0, done.stdout + done.stderr
    (task,) = [task for task in world.server.tasks() if task["name"] == cwd.name]
    assert task["id"] in done.stdout and task["status"] == "queued" and not (cwd / "runs").exists()
    return str(task["id"])


def test_an_installed_detloom_is_executed_in_the_users_repository(world: World, installed: Path) -> None:
    fruit = world.folder / "fruit"
    shutil.copytree(world.field.folder, fruit / "data")
    (fruit / "workshop").mkdir()
    (fruit / "workshop" / "notes.md").touch()
    own = GitRepository.create(fruit)
    task = hand_over(world, installed, fruit / "workshop", "../data")
    script = world.server.task(task)["script"]
    assert (script["entry_point"], script["working_dir"]) == ("-m detloom", "workshop")
    assert (script["repository"], script["version_num"]) == (own.url, own.git("rev-parse", "HEAD"))
    assert world.plugin in script["requirements"]["pip"].splitlines()
    with world.agent("own-repository", own_packages=True) as agent:
        assert agent.finish(task) == "completed", agent.end_of_log
        record = json.loads((agent.run / "run.json").read_text())
        assert agent.run.parent.parent.name == "workshop"
    assert record["command"] == "detloom train"
    assert record["configuration"]["data.local.path"] == "../data"


def test_an_installed_detloom_is_executed_without_any_repository(world: World, installed: Path) -> None:
    (world.folder / "plain").mkdir()
    task = hand_over(world, installed, world.folder / "plain", str(world.field.folder))
    assert world.server.task(task)["script"]["repository"] == ""
    with world.agent("no-repository", own_packages=False) as agent:
        assert agent.finish(task) == "completed", agent.end_of_log
    assert len(rates(world, task)) == 3
