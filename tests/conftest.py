"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_tools import agent_folder, clearml_agent
from clearml_tools import clearml_server, double_process, own_clearml_server
from cvat_tools import cvat, cvat_process
from s3_tools import bucket, gateway, many, proxy, s3_keys, s3_server

__all__ = [
    "agent_folder",
    "bucket",
    "clearml_agent",
    "clearml_server",
    "cvat",
    "cvat_process",
    "double_process",
    "gateway",
    "many",
    "own_clearml_server",
    "proxy",
    "s3_keys",
    "s3_server",
]
ROOT = Path(__file__).resolve().parent.parent
IMPORT_ROOTS = [str(ROOT / name) for name in ("core", "plugins", "integrations", "schemas")]

# No test may find the ClearML of whoever runs it: an empty configuration file, and no credentials.
for _name in [name for name in os.environ if name.startswith(("CLEARML_", "TRAINS_"))]:
    del os.environ[_name]
os.environ["CLEARML_CONFIG_FILE"] = os.devnull


# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every run that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data. Without DETLOOM_TEST_DATA the test skips; with it, missing data fail the test."""
    named = os.environ.get("DETLOOM_TEST_DATA")
    if not named:
        pytest.skip("DETLOOM_TEST_DATA is not set: real data are not at hand")
    folder = Path(named).resolve()
    if not folder.is_dir():
        pytest.fail(f"DETLOOM_TEST_DATA names {folder}, which is not a folder")
    return folder


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `detloom ARGS` in a process of its own, in an empty folder; returns the finished process."""

    def call(
        *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DETLOOM_") or k == "DETLOOM_TEST_DATA"}
        environment.update(
            PYTHONPATH=os.pathsep.join(IMPORT_ROOTS),
            OMP_NUM_THREADS="1",
            DETLOOM_CACHE=str(tmp_path / "cache"),
            COLUMNS="120",
        )
        environment.update(env or {})
        return subprocess.run(
            [sys.executable, "-m", "detloom", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=cwd or tmp_path,
            timeout=timeout,
            check=False,
        )

    return call
