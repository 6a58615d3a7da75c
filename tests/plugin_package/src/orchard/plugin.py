"""The entry point: every hook of this package."""

# ruff: noqa: F401 - the host finds the hooks by their names

from orchard.augmentation import detloom_augmentations
from orchard.command import detloom_commands
from orchard.exporter import detloom_exporters
from orchard.losses import detloom_losses
from orchard.model import detloom_models
from orchard.observers import (
    detloom_checkpoint_saved,
    detloom_epoch_finished,
    detloom_epoch_started,
    detloom_run_finished,
    detloom_run_started,
    detloom_validation_finished,
)
from orchard.runtime import detloom_runtimes
from orchard.source import detloom_sources
from orchard.table import detloom_formats
from orchard.tracker import detloom_loggers

detloom_api = (0, 1)
