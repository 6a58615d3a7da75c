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
