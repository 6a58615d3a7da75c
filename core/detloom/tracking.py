"""Trackers: loggers that may edit a run before it starts, bring back its state, and ask it to stop.

Before the first step a tracker that fails stops the run, with its name: a run without its edits, or begun anew, would
be another run. From the first step on it is like every logger: reported, and the run goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.errors import DetloomError, PluginError
from detloom.host import describe
from detloom.specs import LoggerSpec, TrackedConfig

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.host import PluginHost
    from detloom.specs import Tracker

log = logging.getLogger("detloom")


def claiming(host: PluginHost) -> list[LoggerSpec]:
    """The trackers whose agent started this process. One that cannot tell has not claimed it."""
    found = []
    for spec in host.specs(LoggerSpec):
        try:
            if spec.tracker is not None and spec.claims is not None and spec.claims(os.environ):
                found.append(spec)
        except Exception as error:
            log.warning("logger %s cannot tell whose process this is: %s", host.qualified(spec), describe(error))
    return found


def chosen_loggers(resolved: ResolvedConfig, host: PluginHost) -> list[LoggerSpec]:
    """The loggers that the configuration names, and the one called `clearml` where `experiment.clearml` is enabled."""
    experiment = resolved.config.experiment
    specs = [host.get(LoggerSpec, name) for name in experiment.logging.loggers]
    if experiment.clearml.enabled:
        specs.append(host.get(LoggerSpec, "clearml"))
    return list(dict.fromkeys(specs))


def open_trackers(resolved: ResolvedConfig, host: PluginHost) -> dict[str, Tracker]:
    """The trackers among the chosen loggers, and any whose agent started this process; by qualified name."""
    trackers: dict[str, Tracker] = {}
    for spec in dict.fromkeys([*chosen_loggers(resolved, host), *claiming(host)]):
        name = host.qualified(spec)
        if spec.tracker is not None:
            with _blamed(name, "opened"):
                trackers[name] = spec.tracker(resolved.settings(spec))
    return trackers


def connect_trackers(resolved: ResolvedConfig, trackers: Mapping[str, Tracker]) -> ResolvedConfig:
    """Show the configuration to each tracker and take its edits, typed and checked like everything else."""
    for name, tracker in trackers.items():
        values = {key: json.dumps(value) for key, value in resolved.values().items()}
        origins = {key: origin.kind for key, origin in resolved.origins.items()}
        with _blamed(name, "connected"):
            edits = tracker.connect(TrackedConfig(values, origins))
        if edits:
            resolved = resolved.with_tracker(edits, place=name)
    return resolved


def restored_checkpoint(trackers: Mapping[str, Tracker], dest: Path) -> Path | None:
    """The state that a tracker brings back to `dest`, when it continues a run of another machine."""
    for name, tracker in trackers.items():
        with _blamed(name, "asked for its last checkpoint"):
            dest.parent.mkdir(parents=True, exist_ok=True)
            path = tracker.restore_checkpoint(dest)
        if path is not None:
            log.info("tracker %s brought back %s", name, path)
            return path
    return None


class StopRequests:
    """Asked after each step. A tracker that raises is reported once and not asked again."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._trackers = dict(trackers)

    def __call__(self) -> bool:
        for name, tracker in list(self._trackers.items()):
            try:
                if tracker.stop_requested():
                    return True
            except Exception as error:
                log.warning("tracker %s cannot stop this run any more: %s", name, describe(error))
                del self._trackers[name]
        return False


@contextlib.contextmanager
def _blamed(name: str, what: str) -> Iterator[None]:
    """A fault of the tracker's own code, named."""
    try:
        yield
    except DetloomError:
        raise
    except Exception as error:
        raise PluginError(
            f"the tracker {name} failed when it was {what}: {describe(error)}",
            hint="leave it out of experiment.logging.loggers, or report this to its author",
        ) from error
