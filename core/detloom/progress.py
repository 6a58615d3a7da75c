"""A line that moves while something long goes on: on a terminal only, gone when it is done."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Self, TextIO


def say(line: str) -> None:
    """What a person should read in any case: to the terminal and to the run's log."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    logging.getLogger("detloom").info("%s", line)


class Reading:
    """`with Reading("reading the data") as reading: reading.update(done, total)`: share, rate and time left."""

    def __init__(self, label: str, stream: TextIO | None = None, interval_s: float = 0.2) -> None:
        self.label, self.stream = label, stream or sys.stderr
        self._interval_s = interval_s
        self._started = self._shown = time.monotonic()
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self.stream.flush()

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self.stream.isatty() or (now - self._shown < self._interval_s and done < total):
            return
        self._shown = now
        elapsed = now - self._started
        left = elapsed / max(done, 1) * max(total - done, 0)
        text = f"{self.label}: {done}/{total} ({done / max(total, 1):.0%}), {clock(left)} left"
        self.stream.write("\r" + text.ljust(self._width))
        self.stream.flush()
        self._width = len(text)


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"
