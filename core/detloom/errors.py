"""Every error that a user may see.

    DetloomError                exit code 1   a job failed
    ├── UsageError              exit code 2   wrong arguments
    │   └── ConfigError         exit code 2   wrong configuration, all mistakes in one
    │       └── MissingPluginError  exit code 4   the user wrote nothing wrong, but plugins of the defaults are not here
    ├── DataError               exit code 3   data missing, broken or refused
    ├── PluginError             exit code 4   a plugin is missing, broken or does not fit
    ├── UnreachableError        exit code 5   a source, a tracker or a download cannot be reached
    ├── WeightsError            exit code 1   weights missing, corrupt or of another architecture
    ├── CheckpointError         exit code 1   no readable checkpoint
    ├── ExportError             exit code 1   export failed or its gate refused the file
    └── RunInterrupted          exit code 130 stopped by the user; resumable

A message says what is wrong, where, what is allowed and what to do. The command line prints it without a
traceback and exits with the code of the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from detloom.redaction import redacted


class DetloomError(Exception):
    """A failure that the user can act on.

    message: what is wrong and where. hint: what to do about it (one sentence), shown on its own line.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(DetloomError):
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong value in a configuration: its dotted key, where it was written, what is wrong, what to do.

    A message that quotes a value quotes it without the secrets in it.
    """

    key: str
    place: str
    message: str
    hint: str = ""

    def __post_init__(self) -> None:
        for name in ("key", "place", "message", "hint"):
            object.__setattr__(self, name, redacted(getattr(self, name)))

    def __str__(self) -> str:
        place = f" ({self.place})" if self.place else ""
        hint = f"\n    {self.hint}" if self.hint else ""
        return f"{self.key}{place}: {self.message}{hint}"


class ConfigError(UsageError):
    """All mistakes of a configuration at once."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        count = len(self.mistakes)
        head = "1 mistake" if count == 1 else f"{count} mistakes"
        lines = "\n".join(f"  {mistake}" for mistake in self.mistakes)
        super().__init__(f"{head} in the configuration; nothing was read, downloaded or trained:\n{lines}")


class MissingPluginError(ConfigError):
    exit_code = 4


class DataError(DetloomError):
    exit_code = 3


class PluginError(DetloomError):
    exit_code = 4


class UnreachableError(DetloomError):
    exit_code = 5


class WeightsError(DetloomError):
    pass


class CheckpointError(DetloomError):
    pass


class ExportError(DetloomError):
    pass


class RunInterrupted(DetloomError):
    exit_code = 130
