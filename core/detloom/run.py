# ruff: noqa: TID253
"""One training run, from a resolved configuration to a report. The data walk forward through these functions."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from detloom.config import load_saved, resolve
from detloom.data.load import load_dataset
from detloom.errors import ConfigError, Mistake, RunInterrupted, UsageError
from detloom.events import RunFinished, RunStarted
from detloom.files import write_text
from detloom.finish import finish_run
from detloom.logging_fanout import LoggerFanout
from detloom.run_folder import RunFolder, create_folder, default_name, log_to, newest_resumable
from detloom.specs import ExporterSpec, LoggerContext, LoggerSpec, ModelSpec, TrackedConfig, Tracker
from detloom.train.assemble import build_model, choose_device, find_weights
from detloom.train.checkpoint import read_newest
from detloom.train.session import Session, Surroundings

if TYPE_CHECKING:
    from detloom.config import ResolvedConfig
    from detloom.data.dataset import Dataset
    from detloom.host import PluginHost

log = logging.getLogger("detloom")


def train_run(
    resolved: ResolvedConfig, host: PluginHost, *, resume: str | None = None, argv: Sequence[str] = ()
) -> int:
    """Train, evaluate, export and report. resume: a run's folder, or `auto` for the newest unfinished run.

    Returns the exit code. Raises DetloomError for whatever stops the run, after the run's folder says so too.
    """
    folder = _folder_to_resume(resume, resolved) if resume is not None else None
    if folder is not None:
        saved = load_saved(folder / "config.yaml", host)
        # What was set then, and on top of it what is set now: a longer training, another device.
        resolved = resolve(host, [*saved.user_layers, *resolved.user_layers])
    trackers = open_trackers(resolved, host)
    resolved = connect_trackers(resolved, host, trackers)
    check_early(resolved, host)
    dataset = load_dataset(resolved, host, progress=None)
    resolved = with_data_facts(resolved, dataset)
    if folder is None:
        folder = _new_folder(resolved, dataset)
    with log_to(folder / "log.txt"):
        record = RunFolder(folder, resolved, host, dataset, list(argv))
        with record.status_kept(), stop_signals() as signalled:
            return _run(Given(resolved, host, dataset, folder, record, trackers), signalled, resume is not None)


@dataclass(frozen=True, slots=True)
class Given:
    """What a run has once its configuration and its data are settled."""

    resolved: ResolvedConfig
    host: PluginHost
    dataset: Dataset
    folder: Path
    record: RunFolder
    trackers: Mapping[str, Tracker]


def _run(given: Given, signalled: threading.Event, resumed: bool) -> int:
    """From settled data to a report, inside the run's folder."""
    resolved, host, dataset = given.resolved, given.host, given.dataset
    model = build_model(resolved, host, dataset)
    for line in model.notes:
        log.info("%s", line)
    given.record.note_model(model)

    def stop_requested() -> bool:
        return signalled.is_set() or any(tracker.stop_requested() for tracker in given.trackers.values())

    session = Session(Surroundings(resolved, host, dataset, given.folder, stop_requested), model)
    if resumed:
        session.resume_from(*read_newest(given.folder / "checkpoints"))
    fanout = open_loggers(given, session)
    given.record.start(session)
    names = dataset.class_map.names
    host.notify("run_started", RunStarted(given.folder, given.folder.name, resolved.values(), names))
    status, error, metrics = "failed", "", {}
    try:
        status = session.train(fanout)
        if status == "interrupted":
            raise RunInterrupted(
                f"stopped at step {session.loop.progress.step}; the state is saved",
                hint=f"go on with: detloom train --resume {given.folder}",
            )
        metrics = finish_run(given.record, session, fanout)
        status = "completed"
    except BaseException as failure:
        error = str(failure) or type(failure).__name__
        raise
    finally:
        with contextlib.suppress(Exception):
            fanout.close(status)
        given.record.note_loggers(fanout)
        host.notify("run_finished", RunFinished(given.folder, status, error, metrics))
    return 0


# ---- before the run ---------------------------------------------------------------------------------------------


def _folder_to_resume(resume: str, resolved: ResolvedConfig) -> Path:
    if resume == "auto":
        output = Path(resolved.config.experiment.output_dir)
        found = newest_resumable(output)
        if found is None:
            raise UsageError(f"{output} holds no unfinished run", hint="give its folder: --resume RUN")
        return found
    folder = Path(resume)
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{folder} is not a run's folder (no config.yaml)", hint="give the folder of a run")
    return folder


def open_trackers(resolved: ResolvedConfig, host: PluginHost) -> dict[str, Tracker]:
    """The trackers among the chosen loggers, and any whose agent started this process."""
    chosen = {host.qualified(host.get(LoggerSpec, name)) for name in resolved.config.experiment.logging.loggers}
    trackers: dict[str, Tracker] = {}
    for spec in host.specs(LoggerSpec):
        name = host.qualified(spec)
        claimed = spec.claims is not None and spec.claims(os.environ)
        if spec.tracker is not None and (name in chosen or claimed):
            settings = resolved.settings(spec) if name in chosen else spec.settings()
            trackers[name] = spec.tracker(settings)
    return trackers


def connect_trackers(
    resolved: ResolvedConfig, host: PluginHost, trackers: Mapping[str, Tracker]
) -> ResolvedConfig:
    """Show the configuration to each tracker and take its edits, typed and checked like everything else."""
    import json

    for tracker in trackers.values():
        values = {key: json.dumps(value) for key, value in resolved.values().items()}
        origins = {key: origin.kind for key, origin in resolved.origins.items()}
        edits = tracker.connect(TrackedConfig(values, origins))
        if edits:
            resolved = resolved.with_tracker(edits)
    return resolved


def check_early(resolved: ResolvedConfig, host: PluginHost) -> None:
    """What can be known before the data are read: device, weights, exporters, the place to write."""
    config = resolved.config
    mistakes: list[Mistake] = []

    def attempt(check: object) -> None:
        try:
            assert callable(check)
            check()
        except ConfigError as error:
            mistakes.extend(error.mistakes)

    spec = host.get(ModelSpec, config.model.type)
    attempt(lambda: choose_device(config.training.device))
    if config.model.pretrain_weights not in {"auto", "official", "none"}:
        attempt(lambda: find_weights(config.model.pretrain_weights, spec))
    if config.experiment.clearml.enabled and not any(s.name == "clearml" for s in host.specs(LoggerSpec)):
        mistakes.append(
            Mistake("experiment.clearml.enabled", "", "no ClearML plugin is here", "leave it off, or --no-clearml")
        )
    if mistakes:
        raise ConfigError(mistakes)
    for name in config.export.format:
        exporter = host.get(ExporterSpec, name)
        exporter.build(resolved.settings(exporter))  # says now, not after the training, that a package is missing
    output = Path(config.experiment.output_dir)
    existing = next(parent for parent in (output, *output.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"cannot write below {existing}", hint="give another place with --output-dir")


def with_data_facts(resolved: ResolvedConfig, dataset: Dataset) -> ResolvedConfig:
    """The data decide the number of classes; a number that was given must agree."""
    given, found = resolved.config.model.num_classes, len(dataset.class_map)
    if given is not None and given != found:
        origin = resolved.origins["model.num_classes"]
        names = ", ".join(dataset.class_map.names[:10])
        raise ConfigError(
            [
                Mistake(
                    "model.num_classes",
                    origin.place,
                    f"{given} was given, the data have {found} classes: {names}",
                    "leave the key out: the data decide",
                )
            ]
        )
    return resolved.with_data({"model.num_classes": found})


def _new_folder(resolved: ResolvedConfig, dataset: Dataset) -> Path:
    config = resolved.config
    name = config.experiment.name or default_name(config.model.type, dataset.name, resolved.hash())
    folder = create_folder(Path(config.experiment.output_dir), name)
    write_text(folder / "config.yaml", resolved.to_yaml())
    return folder


def open_loggers(given: Given, session: Session) -> LoggerFanout:
    """The chosen loggers and the trackers, behind one front that keeps their faults away from the run."""
    host, resolved = given.host, given.resolved
    context = LoggerContext(
        run_dir=given.folder,
        run_name=given.folder.name,
        total_steps=session.plan.total_steps,
        total_epochs=session.plan.total_epochs,
        resume_step=session.loop.progress.step,
    )
    names = dict.fromkeys(host.qualified(host.get(LoggerSpec, n)) for n in resolved.config.experiment.logging.loggers)
    names.update(dict.fromkeys(given.trackers))
    loggers = []
    for name in names:
        spec = host.get(LoggerSpec, name)
        try:
            loggers.append((name, spec.build(resolved.settings(spec), context)))
        except ConfigError:
            raise
        except Exception as error:
            log.warning("logger %s could not be opened and is left out: %s", name, error)
    return LoggerFanout(loggers)


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM asks the loop to stop after its step; the second stops at once."""
    asked = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        name = signal.Signals(number).name
        print(f"\n{name}: finishing this step and saving; once more stops at once", file=sys.stderr)  # noqa: T201

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


