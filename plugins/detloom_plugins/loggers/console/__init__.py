"""The terminal: one line an epoch, and a live bar with the time left where somebody watches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LoggerSpec

if TYPE_CHECKING:
    from detloom.specs import Logger, LoggerContext
    from detloom_schemas.base import Settings

detloom_api = (0, 1)


def build(settings: Settings, context: LoggerContext) -> Logger:
    from detloom_plugins.loggers.console.printer import ConsoleLogger

    return ConsoleLogger(context)


@hookimpl
def detloom_loggers() -> Iterable[LoggerSpec]:
    return [LoggerSpec(name="console", summary="one line an epoch on the terminal, with the time left", build=build)]
