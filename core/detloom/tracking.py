"""Trackers: loggers that may edit a run before it starts, keep and bring back its state, and ask it to stop.

Before the first step a tracker that fails stops the run, with its name: a run without its edits, or begun anew, would
be another run. From the first step on it is like every logger: reported, and the run goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detloom.distributed import rank, told_by_rank_zero
from detloom.ending import Ending, ending_of, terminable
from detloom.errors import DetloomError, PluginError
from detloom.host import describe
from detloom.specs import LoggerSpec, Submission, TrackedConfig

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.host import PluginHost
    from detloom.specs import Tracker

log = logging.getLogger("detloom")

Identities = Mapping[str, Mapping[str, str]]
"""What each tracker said of itself, by its qualified name: run.json keeps it."""


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
    """The loggers that the configuration names, and the one called `clearml` as `experiment.clearml.mode` says."""
    experiment = resolved.config.experiment
    specs = [host.get(LoggerSpec, name) for name in experiment.logging.loggers]
    mode, tracker = experiment.clearml.mode, host.find(LoggerSpec, "clearml")
    if mode == "auto" and tracker is not None and tracker.configured is not None and tracker.configured(os.environ):
        specs.append(tracker)
    elif mode not in {"auto", "off"}:
        specs.append(host.get(LoggerSpec, "clearml"))
    return list(dict.fromkeys(specs))


def settings_of_logger(spec: LoggerSpec, resolved: ResolvedConfig, host: PluginHost) -> Any:
    """The settings that a logger is given: the one called `clearml` has a section of its own."""
    return resolved.config.experiment.clearml if spec is host.find(LoggerSpec, "clearml") else resolved.settings(spec)


@contextlib.contextmanager
def opened(resolved: ResolvedConfig, host: PluginHost) -> Iterator[dict[str, Tracker]]:
    """The trackers among the chosen loggers, and any whose agent started this process, by qualified name; none in the
    processes of other ranks. They are closed with how the block ended, also when that is before the run began."""
    trackers: dict[str, Tracker] = {}
    ending = Ending("completed")
    with terminable():
        try:
            for spec in dict.fromkeys([*chosen_loggers(resolved, host), *claiming(host)]) if rank() == 0 else ():
                name = host.qualified(spec)
                if spec.tracker is not None:
                    with _blamed(name, "opened"):
                        trackers[name] = spec.tracker(settings_of_logger(spec, resolved, host))
            yield trackers
        except BaseException as failure:
            ending = ending_of(failure)
            raise
        finally:
            for name, tracker in trackers.items():
                try:
                    tracker.close(ending.status, ending.error)
                except Exception as error:
                    log.warning("tracker %s failed when it was closed: %s", name, describe(error))


def connected(
    resolved: ResolvedConfig, trackers: Mapping[str, Tracker], host: PluginHost, *, identities: Identities, command: str
) -> ResolvedConfig:
    """Show the configuration to each tracker and take its edits, typed and checked like everything else. In every
    process of the run the same configuration comes back: the one that rank 0 settled."""
    from detloom.config import load_saved

    settled: list[ResolvedConfig] = []

    def settle() -> dict[str, Any]:
        settled.append(_settled(resolved, trackers, host, identities, command))
        return settled[0].to_dict()

    document = told_by_rank_zero(settle)
    return settled[0] if settled else load_saved(document, host)


def _settled(
    resolved: ResolvedConfig, trackers: Mapping[str, Tracker], host: PluginHost, identities: Identities, command: str
) -> ResolvedConfig:
    from detloom.config import load_saved

    for name, tracker in trackers.items():
        seen = tracked(resolved, host, identity=identities.get(name, {}), command=command)
        with _blamed(name, "connected"):
            reply = tracker.connect(seen)
        if reply.document is not None:
            resolved = load_saved(reply.document, host)
        if reply.document is not None or reply.edits or reply.mistakes:
            resolved = resolved.with_edits(reply.edits, reply.mistakes)
    for name, tracker in trackers.items():
        spec = host.get(LoggerSpec, name)
        seen = tracked(resolved, host, identity=identities.get(name, {}), command=command)
        with _blamed(name, "shown the effective configuration"):
            tracker.confirm(seen, settings_of_logger(spec, resolved, host))
    return resolved


def tracked(
    resolved: ResolvedConfig, host: PluginHost, *, identity: Mapping[str, str] | None = None, command: str = ""
) -> TrackedConfig:
    """A configuration as trackers see it."""
    from detloom.config import iter_leaves
    from detloom.packages import packages_in_use

    leaves = list(iter_leaves(resolved))
    return TrackedConfig(
        values=resolved.texts(),
        origins={key: origin.kind for key, origin in resolved.origins.items()},
        descriptions={leaf.key: leaf.description for leaf in leaves},
        allowed={leaf.key: leaf.allowed for leaf in leaves},
        document=resolved.to_dict(),
        packages=packages_in_use(host, resolved),
        identity=identity or {},
        command=command,
    )


def restored_checkpoint(trackers: Mapping[str, Tracker], kind: Literal["last", "best"], dest: Path) -> Path | None:
    """The checkpoint that a tracker brings back to `dest`, when it continues a run of another machine."""
    for name, tracker in trackers.items():
        with _blamed(name, f"asked for its checkpoint `{kind}`"):
            dest.parent.mkdir(parents=True, exist_ok=True)
            path = tracker.restore_checkpoint(kind, dest)
        if path is not None:
            log.info("tracker %s brought back %s", name, path)
            return path
    return None


def submit(resolved: ResolvedConfig, host: PluginHost, queue: str, *, command: str, paths_exist_remotely: bool) -> str:
    """Hand the run to a tracker's queue, to be executed elsewhere. Returns the sentence to show; raises UsageError
    saying everything that stands against it."""
    from detloom.errors import UsageError

    chosen = chosen_loggers(resolved, host)
    able = [spec for spec in chosen if spec.submit is not None]
    able = able or [spec for spec in host.specs(LoggerSpec) if spec.submit is not None]
    if not able or able[0].submit is None:
        raise UsageError(
            f"nothing here can put a run into the queue {queue}",
            hint="install a plugin whose logger can, such as the one for ClearML",
        )
    submission = Submission(
        queue, tracked(resolved, host, command=command), resolved.local_paths(), paths_exist_remotely
    )
    with _blamed(host.qualified(able[0]), "given a run for its queue"):
        return able[0].submit(settings_of_logger(able[0], resolved, host), submission)


class LiveTrackers:
    """The trackers while the training runs. One that raises is reported once and not asked again."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._asked, self._keeping = dict(trackers), dict(trackers)

    def stop_requested(self) -> bool:
        """Asked after each step."""
        for name, tracker in list(self._asked.items()):
            try:
                if tracker.stop_requested():
                    return True
            except Exception as error:
                log.warning("tracker %s cannot stop this run any more: %s", name, describe(error))
                del self._asked[name]
        return False

    def keep_checkpoint(self, kind: Literal["last", "best"], path: Path, epoch: int, step: int) -> None:
        """Told after each save."""
        for name, tracker in list(self._keeping.items()):
            try:
                tracker.keep_checkpoint(kind, path, epoch, step)
            except Exception as error:
                log.warning("tracker %s keeps no checkpoints of this run any more: %s", name, describe(error))
                del self._keeping[name]


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
