"""The live bar of a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

REDRAW_S = 0.25


class LiveBar:
    """Redrawn when a record comes, at most four times a second, by the caller's own thread: a thread that draws would
    take its time from the training."""

    def __init__(self, total: int, done: int, console: Console | None = None) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(compact=True),
            auto_refresh=False,
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("training", total=total, completed=done, note="")
        self._drawn = 0.0
        self._progress.start()

    def advance(self, step: int, title: str, note: str) -> None:
        now = time.monotonic()
        self._progress.update(self._task, completed=step, description=title, note=note, refresh=False)
        if now - self._drawn >= REDRAW_S:
            self._drawn = now
            self._progress.refresh()

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._progress.refresh()

    def close(self) -> None:
        self._progress.stop()
