"""TensorBoard events in the run's folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LoggerSpec

if TYPE_CHECKING:
    from detloom.specs import Logger, LoggerContext
    from detloom_schemas.base import Settings

detloom_api = (0, 1)


def build(settings: Settings, context: LoggerContext) -> Logger:
    """Raises PluginError when TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        from detloom.errors import PluginError

        raise PluginError(
            "the logger `tensorboard` needs the package tensorboard, which is not installed",
            hint="install it with: pip install tensorboard, or leave it out of experiment.logging.loggers",
        )
    from detloom_plugins.loggers.tensorboard.events import TensorBoardLogger

    return TensorBoardLogger(context)


@hookimpl
def detloom_loggers() -> Iterable[LoggerSpec]:
    return [LoggerSpec(name="tensorboard", summary="TensorBoard events in the run's folder", build=build)]
