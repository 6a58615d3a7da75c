"""The hooks of a Detloom plugin: a module (or object) with any of these functions, marked `@detloom.hookimpl`.

A plugin package names its module in the entry-point group `detloom`, states the contract it was written for in
`detloom_api = (0, 1)`, and hands over frozen specs:

    # pyproject.toml
    [project.entry-points.detloom]
    my-plugin = "my_package.plugin"

Registration hooks take no arguments and return an iterable of specs. Observers get one event and return nothing; an
exception in one is logged with the plugin's name and the run goes on. No hook runs inside the step loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from detloom.events import CheckpointSaved, EpochFinished, RunFinished, RunStarted
    from detloom.specs import (
        AugmentationSpec,
        CommandSpec,
        ExporterSpec,
        FormatSpec,
        LoggerSpec,
        LossSpec,
        ModelSpec,
        RuntimeSpec,
        SourceSpec,
    )

hookspec = pluggy.HookspecMarker("detloom")
hookimpl = pluggy.HookimplMarker("detloom")


# --- registration: no arguments, an iterable of specs ---


@hookspec
def detloom_models() -> Iterable[ModelSpec]:
    """Detectors."""
    return ()


@hookspec
def detloom_sources() -> Iterable[SourceSpec]:
    """Places that data are fetched from."""
    return ()


@hookspec
def detloom_formats() -> Iterable[FormatSpec]:
    """Ways in which annotations are written."""
    return ()


@hookspec
def detloom_augmentations() -> Iterable[AugmentationSpec]:
    """Transforms of training samples."""
    return ()


@hookspec
def detloom_losses() -> Iterable[LossSpec]:
    """Element-wise losses."""
    return ()


@hookspec
def detloom_exporters() -> Iterable[ExporterSpec]:
    """Writers of deployable files."""
    return ()


@hookspec
def detloom_runtimes() -> Iterable[RuntimeSpec]:
    """Runners of model files."""
    return ()


@hookspec
def detloom_loggers() -> Iterable[LoggerSpec]:
    """Places that numbers and pictures of a run go to."""
    return ()


@hookspec
def detloom_commands() -> Iterable[CommandSpec]:
    """Sub-commands of `detloom`."""
    return ()


# --- observers: one event, no answer ---


@hookspec
def detloom_run_started(event: RunStarted) -> None:
    """The data are loaded and the model is built; the first step comes next."""


@hookspec
def detloom_epoch_finished(event: EpochFinished) -> None:
    """An epoch is trained and, where it was due, evaluated."""


@hookspec
def detloom_checkpoint_saved(event: CheckpointSaved) -> None:
    """A checkpoint is whole on the disk."""


@hookspec
def detloom_run_finished(event: RunFinished) -> None:
    """The run is over, whatever its status; its files are written."""
