"""One training run, from a resolved configuration to a report. The data walk forward through these functions."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from detloom.config import load_saved, resolve
from detloom.counting import counted, plural
from detloom.data.before import data_of_run
from detloom.data.load import load_dataset
from detloom.data.summary import identity_of, log_data, record_data
from detloom.distributed import rank, world_size
from detloom.ending import Ending, ending_of
from detloom.errors import ConfigError, Mistake, RunInterrupted, UsageError
from detloom.events import RunFinished, RunStarted
from detloom.files import write_text
from detloom.finish import finish_run
from detloom.logging_fanout import LoggerFanout
from detloom.model import build_losses, input_size
from detloom.model_needs import check_masks, check_metric, check_sizes, objects_too_small, too_many_objects
from detloom.progress import Reading, say
from detloom.run_folder import (
    RunRecorder,
    command_line,
    create_folder,
    default_name,
    device_name,
    locked,
    log_to,
    newest_resumable,
    remove_leftovers,
    tracker_identities,
)
from detloom.specs import ExporterSpec, LoggerContext, LoggerSpec, ModelSpec, Tracker
from detloom.tracking import (
    LiveTrackers,
    chosen_loggers,
    connected,
    opened,
    restored_checkpoint,
    settings_of_logger,
)
from detloom.train.assemble import BuiltModel, build_model, choose_device, find_weights
from detloom.train.checkpoint import BEST, LAST, adopt_checkpoint, read_checkpoint, read_newest
from detloom.train.session import Session, Surroundings
from detloom_schemas.config import ExperimentConfig
from detloom_schemas.run_files import LoggerRecord, ModelRecord, TransferRecord

if TYPE_CHECKING:
    from detloom.config import Layer, ResolvedConfig
    from detloom.data.dataset import Dataset
    from detloom.host import PluginHost

log = logging.getLogger("detloom")


def train_run(resolved: ResolvedConfig, host: PluginHost, *, argv: Sequence[str] = ()) -> int:
    """Train, evaluate, export and report. argv: how it was asked for, to be kept with the run.

    Returns the exit code. Raises DetloomError for whatever stops the run, after run.json says so too.
    """
    return _run_in(None, resolved, host, argv)


def resume_run(resume: str, layers: Sequence[Layer], host: PluginHost, *, argv: Sequence[str] = ()) -> int:
    """Go on with a run: `resume` is its folder, or `auto` for the newest unfinished one. layers: what the user sets
    now, on top of the run's own configuration. Returns and raises like `train_run`.
    """
    folder = folder_to_resume(resume, layers)
    return _run_in(folder, config_to_resume(folder, layers, host), host, argv)


def _run_in(folder: Path | None, resolved: ResolvedConfig, host: PluginHost, argv: Sequence[str]) -> int:
    """folder: of the run to go on with; None: a new one. Whatever can be refused is refused before anything in a
    run's folder is made or changed."""
    if world_size() > 1:
        raise UsageError(
            f"this is process {rank()} of {world_size()}, and one run trains in one process for now",
            hint="start it without torchrun (or with WORLD_SIZE unset)",
        )
    command = command_line(list(argv))
    with opened(resolved, host) as trackers:
        identities = {} if folder is None else tracker_identities(folder)
        resolved = connected(resolved, trackers, host, identities=identities, command=command)
        _run_tracked(folder, resolved, host, trackers, command)
    return 0


def _run_tracked(
    folder: Path | None, resolved: ResolvedConfig, host: PluginHost, trackers: Mapping[str, Tracker], command: str
) -> None:
    check_early(resolved, host, resuming=folder is not None)
    with Reading("reading the data") as reading:
        before = None if folder is None else data_of_run(folder, resolved)
        dataset = load_dataset(resolved, host, progress=reading.update, before=before)
    resolved = resolved.with_data({"model.num_classes": len(dataset.class_map)}, place=dataset.name)
    check_masks(host.get(ModelSpec, resolved.config.model.type), dataset)
    model = build_model(resolved, host, dataset.class_map.names, pretrained=folder is None)
    check_sizes(model.detector.input_rule, dataset)
    is_new = folder is None
    if folder is None:
        name = resolved.config.experiment.name or default_name(
            resolved.config.model.type, dataset.name, resolved.hash()
        )
        folder = create_folder(Path(resolved.config.experiment.output_dir), name)
    recorder = RunRecorder(folder, resolved, host, command)
    given = Given(resolved, host, dataset, recorder, trackers)
    with locked(folder), log_to(folder / "log.txt"), stop_signals() as signalled:
        session = open_session(given, model, signalled, is_new=is_new)
        remove_leftovers(folder)
        with status_kept(recorder):
            _run(given, session)


@dataclass(frozen=True, slots=True)
class Given:
    """What a run has once its configuration and its data are settled."""

    resolved: ResolvedConfig
    host: PluginHost
    dataset: Dataset
    recorder: RunRecorder
    trackers: Mapping[str, Tracker]


def open_session(given: Given, model: BuiltModel, signalled: threading.Event, *, is_new: bool) -> Session:
    """The session, in the state that it goes on from. Raises CheckpointError and leaves the folder as it is."""
    checkpoints = given.recorder.folder / "checkpoints"
    live = LiveTrackers(given.trackers)
    around = Surroundings(
        given.resolved,
        given.host,
        given.dataset,
        given.recorder,
        stop_requested=lambda: signalled.is_set() or live.stop_requested(),
        keep_checkpoint=live.keep_checkpoint,
    )
    try:
        session = Session(around, model)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                (given.recorder.folder / ".lock").unlink()
                given.recorder.folder.rmdir()  # nothing else is in it yet
        raise
    if not is_new:
        session.resume_from(*read_newest(checkpoints))
    else:
        _go_on_from_afar(given, session, checkpoints)
    return session


def _go_on_from_afar(given: Given, session: Session, checkpoints: Path) -> None:
    """A tracker may bring back what this run was on another machine. Raises ConfigError when it would become another
    run, and CheckpointError when its state cannot be used."""
    restored = restored_checkpoint(given.trackers, "last", checkpoints / "restored-last.pt")
    if restored is None:
        return
    payload = read_checkpoint(restored)
    refuse_another_run(load_saved(payload["config"], given.host).values(), given.resolved)
    best = restored_checkpoint(given.trackers, "best", checkpoints / "restored-best.pt")
    if best is not None:
        adopt_checkpoint(best, BEST)
    session.resume_from(payload, adopt_checkpoint(restored, LAST))


def _run(given: Given, session: Session) -> None:
    """From the first step to a report."""
    folder, host, recorder = given.recorder.folder, given.host, given.recorder
    write_text(folder / "config.yaml", given.resolved.to_yaml())
    data = record_data(folder / "data.json", given.dataset)
    fanout = open_loggers(given, session)
    describe_start(given, session)
    names = given.dataset.class_map.names
    host.notify("run_started", RunStarted(folder, folder.name, given.resolved.values(), names))
    ending = Ending("failed")
    try:
        log_data(data, fanout, session.loop.progress.step)
        for name in ("config.yaml", "data.json"):
            fanout.artifact(name.partition(".")[0], folder / name)
        status = session.train(fanout)
        if status == "interrupted":
            raise RunInterrupted(
                f"stopped at step {session.loop.progress.step} of {session.plan.total_steps}; the state is saved",
                hint=f"go on with: detloom train --resume {folder}",
            )
        finish_run(session, fanout)
        ending = Ending("stopped early" if status == "stopped early" else "completed")
    except BaseException as failure:
        ending = ending_of(failure)
        raise
    finally:
        recorder.close(ending.status, ending.error)
        report = report_on(folder)
        if report is not None:
            fanout.artifact("report", report)
        fanout.close(ending.status)
        recorder.note(loggers=tuple(LoggerRecord.model_validate(row) for row in fanout.summary()))
        host.notify("run_finished", RunFinished(folder, ending.status, ending.error, recorder.record.metrics))
    if report is not None:
        say(f"report   {report}")
    say(f"next     detloom predict {folder} IMAGES --save    detloom evaluate {folder} --per-class")


def describe_start(given: Given, session: Session) -> None:
    """What run.json says from the first step on, and what people see before it."""
    model, dataset, earlier = session.model, given.dataset, given.recorder.record.model
    trained = (*model.notes, *model.freezing.thaws_within(session.plan.total_epochs))
    size = session.detector.input_rule.size
    given.recorder.update(
        configuration=given.resolved.values(),
        trackers={name: dict(tracker.identity()) for name, tracker in given.trackers.items()},
        device=device_name(session.device),
        precision=str(session.precision).removeprefix("torch."),
        data=identity_of(dataset),
        classes=dataset.class_map.names,
        model=ModelRecord(
            type=given.host.qualified(model.spec),
            parameters=sum(parameter.numel() for parameter in session.detector.parameters()),
            resolution=size,
            licence=model.spec.licence,
            weights=model.weights or earlier.weights,
            transfer=earlier.transfer if model.transfer is None else TransferRecord(**asdict(model.transfer)),
            trained=trained,
        ),
    )
    counts = ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items())
    images = sum(len(split) for split in dataset.splits.values())
    for line in (
        f"run      {given.recorder.folder}",
        f"data     {dataset.name}: {counts} {plural('image', images)}, {counted(len(dataset.class_map), 'class')}, "
        f"digest {dataset.digest[:12]}",
        f"model    {model.spec.name} at {size[0]}x{size[1]} on {session.device}, {given.recorder.record.precision}",
        plan_line(session),
        *model.weights,
        *trained,
    ):
        say(line)
    found = (*too_many_objects(model.detector, dataset), *objects_too_small(model.detector.input_rule, dataset))
    for warning in (*model.warnings, *found):
        given.recorder.warn(warning)


def plan_line(session: Session) -> str:
    """How long the training is."""
    training, plan = session.config.training, session.plan
    batch = training.batch_size * training.gradient_accumulation
    length = f"{counted(plan.total_epochs, 'epoch')}, {counted(plan.total_steps, 'step')}"
    return f"plan     {length} of {counted(batch, 'image')}{left_out(session)}"


def left_out(session: Session) -> str:
    """Images that do not fill a last batch: other ones in each epoch, but never without a word."""
    rest = session.loader.images_per_epoch - session.loader.batches_per_epoch * session.config.training.batch_size
    do = "does" if rest == 1 else "do"
    why = f"{'it' if rest == 1 else 'they'} {do} not fill a batch"
    return f" (each epoch leaves {counted(rest, 'other image')} out: {why})" if rest > 0 else ""


@contextlib.contextmanager
def status_kept(recorder: RunRecorder) -> Iterator[None]:
    """run.json tells how the run ended, also when it ended before its first step."""
    recorder.update(status="running", error="", finished="")
    try:
        yield
    except BaseException as failure:
        if recorder.record.status == "running":
            ending = ending_of(failure)
            recorder.close(ending.status, ending.error)
        raise


def report_on(folder: Path) -> Path | None:
    """report.html, also of a run that was stopped. A fault in the report must not hide how the run ended."""
    from detloom.report import load_report_data, write_report

    path = folder / "report.html"
    try:
        write_report(load_report_data(folder), path)
    except Exception as error:
        log.warning("the report could not be written: %s: %s", type(error).__name__, error)
        return None
    return path


# ---- before the run ---------------------------------------------------------------------------------------------


def folder_to_resume(resume: str, layers: Sequence[Layer]) -> Path:
    if resume == "auto":
        named = [entry.value for layer in layers for entry in layer.entries if entry.key == "experiment.output_dir"]
        output = Path(str([ExperimentConfig().output_dir, *named][-1]))
        found = newest_resumable(output)
        if found is None:
            raise UsageError(f"{output} holds no unfinished run", hint="give its folder: --resume RUN")
        return found
    folder = Path(resume)
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{folder} is not a run's folder (no config.yaml)", hint="give the folder of a run")
    return folder


def config_to_resume(folder: Path, layers: Sequence[Layer], host: PluginHost) -> ResolvedConfig:
    """The run's own configuration, to the letter; what the user sets now stands on top of what was set then."""
    saved = load_saved(folder, host)
    now = [layer for layer in layers if layer.entries or layer.mistakes]
    if not now:
        return saved
    changed = resolve(host, [*saved.user_layers, *now])
    refuse_another_run(saved.values(), changed)
    return changed


def refuse_another_run(before: Mapping[str, object], changed: ResolvedConfig) -> None:
    """Raises ConfigError when values differ that the saved state is a state of."""
    mistakes = [
        Mistake(key, changed.origins[key].place, f"{value!r} would make it another run; it was {before.get(key)!r}")
        for key, value in changed.values().items()
        if key.startswith(FIXED_ON_RESUME) and value != before.get(key)
    ]
    if mistakes:
        raise ConfigError(mistakes)


FIXED_ON_RESUME = (
    "model.type",
    "model.freeze",
    "model.lora.",
    "training.optimizer",
    "training.resolution",
    "training.batch_size",
    "training.gradient_accumulation",
    "training.overfit_batches",
    "training.use_ema",
    "training.use_swa",
    "training.use_lookahead",
    "training.unfreeze",
    "training.seed",
    "data.split.",
)
"""What the saved state is a state of. Anything else may change: a longer training, another rate, another device."""


def check_early(resolved: ResolvedConfig, host: PluginHost, *, resuming: bool) -> None:
    """What can be known before the data are read: device, weights, exporters, the place to write."""
    config = resolved.config
    mistakes: list[Mistake] = []

    def attempt(check: object) -> None:
        try:
            assert callable(check)
            check()
        except ConfigError as error:
            mistakes.extend(replace(mistake, place=place_of(mistake.key)) for mistake in error.mistakes)

    def place_of(key: str) -> str:
        origin = resolved.origins.get(key)
        return "" if origin is None else origin.place if origin.by_user else str(origin)

    spec = host.get(ModelSpec, config.model.type)
    attempt(lambda: input_size(config.training.resolution, spec))
    attempt(lambda: build_losses(config, spec, resolved, host))
    attempt(lambda: check_metric(config.validation.save_best_metric, spec, host))
    attempt(lambda: choose_device(config.training.device))
    if not resuming and config.model.pretrain_weights not in {"auto", "official", "none"}:
        attempt(lambda: find_weights(config.model.pretrain_weights, spec))
    if mistakes:
        raise ConfigError(mistakes)
    for name in config.export.format:
        exporter = host.get(ExporterSpec, name)
        with host.blamed(exporter):
            exporter.build(resolved.settings(exporter))  # says now, not after the training, that a package is missing
    output = Path(config.experiment.output_dir)
    existing = next(parent for parent in (output, *output.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise UsageError(f"{existing} is a file, not a folder", hint="give another place with --output-dir")
    if not os.access(existing, os.W_OK):
        raise UsageError(f"{existing} may not be written", hint="give another place with --output-dir")


def open_loggers(given: Given, session: Session) -> LoggerFanout:
    """The chosen loggers and the trackers, behind one front that keeps their faults away from the run."""
    host, resolved = given.host, given.resolved
    context = LoggerContext(
        run_dir=given.recorder.folder,
        run_name=given.recorder.folder.name,
        total_steps=session.plan.total_steps,
        total_epochs=session.plan.total_epochs,
        resume_step=session.loop.progress.step,
        base_weights=session.model.origin,
    )
    named = {host.qualified(spec): spec for spec in chosen_loggers(resolved, host)}
    named.update({name: host.get(LoggerSpec, name) for name in given.trackers})
    loggers = []
    for name, spec in named.items():
        try:
            context = replace(context, tracker=given.trackers.get(name))
            loggers.append((name, spec.build(settings_of_logger(spec, resolved, host), context)))
        except ConfigError:
            raise
        except Exception as error:
            log.warning("logger %s could not be opened and is left out: %s", name, error)
    return LoggerFanout(loggers)


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM asks to stop after this step, or this file of an export; the second stops at once."""
    asked = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        name = signal.Signals(number).name
        told = f"{name}: stopping as soon as what is being done is whole and saved; once more stops at once"
        print(f"\n{told}", file=sys.stderr)  # noqa: T201

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
