"""The double of the ClearML server: the real SDK and the real agent work against it, and it notices mistakes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from agent_tools import ClearMLAgent, GitRepository
from clearml_tools import ClearMLServer

INIT = """
from clearml import Logger, OutputModel, Task

task = Task.init(
    project_name="orchard/apples",
    task_name="first run",
    tags=["unit"],
    output_uri=True,
    auto_connect_frameworks=False,
    auto_connect_arg_parser=False,
    auto_resource_monitoring=False,
)
"""


# The reporting process that the SDK forks may inherit the pipe of a `git` that its detection of the repository is just
# starting; both then wait for each other for ever. A thread reports instead.
NO_FORK = "sdk { development { report_use_subprocess: false } }"


def run_sdk(server: ClearMLServer, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A script that begins with Task.init, in a process of its own."""
    file, config = folder / "script.py", folder / "clearml.conf"
    file.write_text(INIT + textwrap.dedent(script))
    config.write_text(NO_FORK)
    environ = {**os.environ, "OMP_NUM_THREADS": "1", **server.environ(CLEARML_CONFIG_FILE=str(config))}
    return subprocess.run(
        [sys.executable, file], env=environ, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_sdk_reports_a_whole_run(clearml_server: ClearMLServer, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights" * 1000)
    done = run_sdk(
        clearml_server,
        """
        task.set_parameters({"training/lr": "0.01", "model/variant": "s"})
        task.get_logger().report_scalar("losses", "total", value=1.5, iteration=3)
        task.get_logger().report_text("hello")
        task.upload_artifact("summary", artifact_object={"apples": 3}, wait_on_upload=True)
        model = OutputModel(task, name="best", framework="PyTorch", label_enumeration={"apple": 0})
        model.update_weights("weights.pt", auto_delete_file=False, async_enable=False)
        task.close()
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (task,) = clearml_server.tasks()
    assert (task["name"], task["status"], task["tags"]) == ("first run", "completed", ["unit"])
    assert clearml_server.parameters(task["id"])["training/lr"] == "0.01"
    (scalar,) = clearml_server.events(task["id"], "training_stats_scalar")
    assert (scalar["metric"], scalar["variant"], scalar["value"], scalar["iter"]) == ("losses", "total", 1.5, 3)
    assert "hello" in clearml_server.console(task["id"])
    assert "apples" in clearml_server.artifact(task["id"], "summary").read_text()
    (model,) = clearml_server.models()
    assert model["labels"] == {"apple": 0}
    assert clearml_server.file(model["uri"]).read_bytes() == weights.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("system_site_packages", [False, True], ids=["own packages", "system packages"])
def test_the_agent_executes_a_clone_with_its_edit(
    clearml_server: ClearMLServer, clearml_agent: ClearMLAgent, tmp_path: Path, system_site_packages: bool
) -> None:
    script = """
    import numpy
    values = {"lr": "0.01"}
    task.connect(values, name="training")
    print("lr is", values["lr"], "numpy is", numpy.__file__)
    task.close()
    """
    work = tmp_path / "work"
    work.mkdir()
    (work / "script.py").write_text(INIT + textwrap.dedent(script))
    GitRepository.create(work)
    assert run_sdk(clearml_server, script, work).returncode == 0
    (task,) = clearml_server.tasks()
    clone = clearml_server.clone(task["id"], "with another rate")
    clearml_server.edit(clone, {"training/lr": "0.5"})
    run = clearml_agent.execute(clone, system_site_packages=system_site_packages, packages=["clearml", "numpy"])
    print(run.output)
    assert run.status == "completed", run.output
    assert "lr is 0.5" in clearml_server.console(clone)
    numpy_is = run.output.rpartition("numpy is ")[2].splitlines()[0]
    assert (str(clearml_agent.folder) in numpy_is) is not system_site_packages
