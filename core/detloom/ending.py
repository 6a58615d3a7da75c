"""How a run ended, and its sentence when it ended badly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from detloom.errors import DetloomError, RunInterrupted

if TYPE_CHECKING:
    from detloom_schemas.run_files import RunStatus


@dataclass(frozen=True, slots=True)
class Ending:
    """status: as in run.json. error: one sentence, empty when it went well."""

    status: RunStatus
    error: str = ""


def ending_of(failure: BaseException) -> Ending:
    """What an exception that leaves a run says of it."""
    stopped = isinstance(failure, RunInterrupted | KeyboardInterrupt)
    message = failure.message if isinstance(failure, DetloomError) else f"{type(failure).__name__}: {failure}"
    return Ending("interrupted" if stopped else "failed", message)
