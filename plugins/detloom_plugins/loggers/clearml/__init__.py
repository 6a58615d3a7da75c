"""ClearML: numbers, pictures, files and models on its server, and every parameter open to edits there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LoggerSpec
from detloom_integrations.clearml.environment import demand_package, has_package, is_agent, is_configured

if TYPE_CHECKING:
    from detloom.specs import Logger, LoggerContext, Submission, Tracker
    from detloom_schemas.config import ClearMLConfig

detloom_api = (0, 1)


def configured(environ: Mapping[str, str]) -> bool:
    """Whether ClearML was set up here and can be used."""
    return is_configured(environ) and has_package()


def _demand_package() -> None:
    demand_package("tracking on ClearML", "train with --no-clearml")


def build(settings: ClearMLConfig, context: LoggerContext) -> Logger:
    from detloom_integrations.clearml.task import TaskTracker

    assert isinstance(context.tracker, TaskTracker)
    return context.tracker.logger(context)


def tracker(settings: ClearMLConfig) -> Tracker:
    """Raises PluginError when a server is to be asked and the package is not installed."""
    if settings.mode != "offline":
        _demand_package()
    from detloom_integrations.clearml.task import TaskTracker

    return TaskTracker(settings)


def submit(settings: ClearMLConfig, submission: Submission) -> str:
    _demand_package()
    from detloom_integrations.clearml.queueing import submit

    return submit(settings, submission)


@hookimpl
def detloom_loggers() -> Iterable[LoggerSpec]:
    return [
        LoggerSpec(
            name="clearml",
            summary="a ClearML server: tracked, edited and executed there (section experiment.clearml)",
            build=build,
            tracker=tracker,
            claims=is_agent,
            configured=configured,
            submit=submit,
        )
    ]
