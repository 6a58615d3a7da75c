"""Commands that only list or explain must not pay for what trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detloom.testing import HEAVY

ROOT = Path(__file__).resolve().parent.parent
ROOTS = [str(ROOT / name) for name in ("core", "plugins", "integrations", "schemas")]


def modules_after(*arguments: str) -> set[str]:
    """Top-level names of all modules that a command line has imported when it ends."""
    code = (
        "import sys\nfrom detloom.cli import main\n"
        f"code = main({list(arguments)!r})\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\nsys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(ROOTS)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    imported = set(done.stderr.split())
    assert "detloom" in imported
    return imported


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("plugins", "list"), ("plugins", "list", "--json"), ("train", "--help"), ("--version",)],
    ids=" ".join,
)
def test_light_commands_import_no_heavy_package(arguments: tuple[str, ...]) -> None:
    imported = modules_after(*arguments)
    assert imported.isdisjoint(HEAVY), imported & set(HEAVY)


@pytest.mark.parametrize("command", ["check", "plan", "split", "evaluate", "predict", "export", "config"])
def test_the_help_of_every_command_imports_no_heavy_package(command: str) -> None:
    imported = modules_after(command, "--help")
    assert imported.isdisjoint(HEAVY), imported & set(HEAVY)


def test_the_heavy_list_holds_every_package_that_the_contract_names() -> None:
    named = {"torch", "numpy", "pydantic", "transformers", "albumentations", "cv2", "clearml", "cvat_sdk", "minio"}
    assert named <= set(HEAVY)


def test_showing_the_configuration_needs_no_torch() -> None:
    assert modules_after("config", "show").isdisjoint({"torch", "transformers", "cv2"})
