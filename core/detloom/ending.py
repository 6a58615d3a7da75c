"""How a run ends, and its sentence when it ended badly."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
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
    if isinstance(failure, DetloomError):
        message = failure.message
    else:
        message = "interrupted" if stopped else f"{type(failure).__name__}: {failure}"
    return Ending("interrupted" if stopped else "failed", message)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, with whatever is to be done at its end. In the main thread only: others
    may not say so."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
