"""What the environment alone tells about ClearML. Importing this module imports no ClearML."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from detloom.errors import PluginError

TASK_VARIABLES = ("CLEARML_TASK_ID", "TRAINS_TASK_ID")
_KEYS = (("CLEARML_API_ACCESS_KEY", "TRAINS_API_ACCESS_KEY"), ("CLEARML_API_SECRET_KEY", "TRAINS_API_SECRET_KEY"))
_FILE_VARIABLES = ("CLEARML_CONFIG_FILE", "TRAINS_CONFIG_FILE")
_USUAL_FILES = ("clearml.conf", "trains.conf")


def is_agent(environ: Mapping[str, str]) -> bool:
    """Whether an agent started this process: it names the task that the process is to execute."""
    return any(environ.get(name) for name in TASK_VARIABLES)


def task_id(environ: Mapping[str, str]) -> str:
    """The task that an agent wants executed; empty without an agent."""
    return next((environ[name] for name in TASK_VARIABLES if environ.get(name)), "")


def has_package() -> bool:
    """Whether the package clearml is installed."""
    return importlib.util.find_spec("clearml") is not None


def demand_package(what: str, instead: str = "") -> None:
    """Raises PluginError when it is not installed. what: the thing that needs it. instead: how to do without."""
    if not has_package():
        raise PluginError(
            f"{what} needs the package clearml, which is not installed",
            hint=f"install it with: pip install clearml{f', or {instead}' if instead else ''}",
        )


def is_configured(environ: Mapping[str, str]) -> bool:
    """Whether ClearML was set up here: credentials in the environment, or a configuration file that is not empty.

    Judged by presence alone; whether the server takes the credentials shows when it is asked.
    """
    return bool(configuration_place(environ))


def configuration_place(environ: Mapping[str, str]) -> str:
    """Where credentials are looked for: `the environment`, or a file; empty when there is nothing."""
    if environ.get("CLEARML_AUTH_TOKEN") or all(any(environ.get(name) for name in names) for names in _KEYS):
        return "the environment"
    return next((str(path) for path in _configuration_files(environ) if _has_content(path)), "")


def _configuration_files(environ: Mapping[str, str]) -> list[Path]:
    """The SDK's own rule: a file that the environment names stands alone, and where it is missing the usual ones
    in the home folder are looked for."""
    home = Path(environ.get("HOME") or environ.get("USERPROFILE") or os.path.expanduser("~"))  # noqa: PTH111
    named = [environ[name] for name in _FILE_VARIABLES if environ.get(name)]
    if named:
        path = named[0]
        path = str(home / path[2:]) if path.startswith("~/") else os.path.expandvars(path)
        if Path(path).exists():
            return [Path(path)]
    return [home / name for name in _USUAL_FILES]


def _has_content(path: Path) -> bool:
    try:
        return path.is_file() and bool(path.read_text(encoding="utf-8", errors="replace").strip())
    except OSError:
        return False
