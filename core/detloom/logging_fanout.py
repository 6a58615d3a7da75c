"""All loggers of a run behind one front that keeps their faults away from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detloom.specs import Logger

log = logging.getLogger("detloom")

FAILURES_IN_A_ROW = 3
"""After so many a logger is switched off: a dead server must not slow down every step."""


@dataclass(slots=True)
class LoggerState:
    """flushed: calls that went through; dropped: calls that failed or came after the logger was switched off."""

    name: str
    logger: Logger
    flushed: int = 0
    dropped: int = 0
    failures: int = 0
    error: str = ""
    active: bool = True


class LoggerFanout:
    """Hands every call to each logger. A logger that raises is reported once with its plugin's name, counted, and
    switched off after three failures in a row; the run goes on."""

    def __init__(self, loggers: Sequence[tuple[str, Logger]]) -> None:
        self.states = [LoggerState(name, logger) for name, logger in loggers]

    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        for state in self.states:
            if not state.active:
                state.dropped += 1
                continue
            try:
                state.logger.scalars(values, step, epoch)
            except Exception as error:
                self._failed(state, "scalars", error)
            else:
                state.flushed += 1
                state.failures = 0

    def plot(self, name: str, series: Mapping[str, Sequence[tuple[float, float]]], step: int) -> None:
        self._each("plot", name, series, step)

    def image(self, name: str, path: Path, step: int) -> None:
        self._each("image", name, path, step)

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[object]], step: int) -> None:
        self._each("table", name, header, rows, step)

    def artifact(self, name: str, path: Path) -> None:
        self._each("artifact", name, path)

    def model(self, name: str, path: Path, metrics: Mapping[str, float], labels: Mapping[str, int]) -> None:
        self._each("model", name, path, metrics, labels)

    def close(self, status: str) -> None:
        """Closes every logger, also those that were switched off: they may hold files and threads."""
        for state in self.states:
            try:
                state.logger.close(status)
            except Exception as error:
                self._report(state, "close", error)
            state.active = False
            if state.dropped:
                log.warning("logger %s: %d calls written, %d lost", state.name, state.flushed, state.dropped)

    def summary(self) -> list[dict[str, object]]:
        """What became of each logger's calls, as run.json keeps it. A logger that sends things away may know better
        what arrived: `delivered()` gives its (flushed, dropped, error)."""
        rows: list[dict[str, object]] = []
        for state in self.states:
            flushed, dropped, error = state.flushed, state.dropped, state.error
            try:
                if (delivered := getattr(state.logger, "delivered", None)) is not None:
                    arrived, lost, problem = delivered()
                    flushed, dropped, error = arrived, lost + dropped, error or problem
            except Exception as fault:
                self._report(state, "delivered", fault)
            rows.append({"name": state.name, "flushed": flushed, "dropped": dropped, "error": error})
        return rows

    def _each(self, call: str, *arguments: object) -> None:
        for state in self.states:
            if not state.active:
                state.dropped += 1
                continue
            try:
                getattr(state.logger, call)(*arguments)
            except Exception as error:
                self._failed(state, call, error)
            else:
                state.flushed += 1
                state.failures = 0

    def _failed(self, state: LoggerState, call: str, error: Exception) -> None:
        state.dropped += 1
        state.failures += 1
        self._report(state, call, error)
        if state.failures >= FAILURES_IN_A_ROW:
            state.active = False
            log.warning(
                "logger %s is switched off after %d failures in a row; the run goes on", state.name, state.failures
            )

    def _report(self, state: LoggerState, call: str, error: Exception) -> None:
        """The first error in words, the others by their number alone."""
        if not state.error:
            state.error = f"{call}: {type(error).__name__}: {error}"
            log.warning("logger %s failed in %s; the run goes on", state.name, state.error)
