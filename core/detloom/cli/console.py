"""What people read on a terminal. Answers go to stdout, everything about their making to stderr."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from detloom.errors import ConfigError, DetloomError, Mistake

_CODES = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "bold": "1", "dim": "2"}
_PLACE = r"(?P<file>.+\.(ya?ml|json|toml)):(?P<line>\d+):(?P<column>\d+)"
"""Lines of these files may be shown; those of a .env file hold secrets."""


def write(text: str) -> None:
    """One answer on stdout."""
    print(text, file=sys.stdout)  # noqa: T201


def note(text: str) -> None:
    """A remark on stderr."""
    print(text, file=sys.stderr)  # noqa: T201


def write_json(value: Any) -> None:
    import json

    write(json.dumps(value, indent=2, ensure_ascii=False))


def error(message: str) -> None:
    note(f"{paint('error:', 'red', sys.stderr)} {message}")


def warning(message: str) -> None:
    note(f"{paint('warning:', 'yellow', sys.stderr)} {message}")


def has_colour(stream: TextIO) -> bool:
    """Only a terminal gets colours, and only when NO_COLOR (no-color.org) is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, stream: TextIO) -> str:
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if has_colour(stream) else text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, except the last."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    widths[-1] = 0
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    lines[0] = paint(lines[0], "bold", sys.stdout)
    return "\n".join(line.rstrip() for line in lines)


def print_error(failure: DetloomError) -> None:
    """A user's mistake or a failed job: what, where, what to do."""
    if isinstance(failure, ConfigError):
        error(failure.message.partition("\n")[0].rstrip(":"))
        for mistake in failure.mistakes:
            note(_mistake(mistake))
        return
    error(failure.message)
    if failure.hint:
        note(f"  {paint('hint:', 'blue', sys.stderr)} {failure.hint}")


def _mistake(mistake: Mistake) -> str:
    found = re.fullmatch(_PLACE, mistake.place)
    excerpt = _excerpt(found["file"], int(found["line"]), int(found["column"])) if found else []
    place = "" if excerpt or not mistake.place else f" ({mistake.place})"
    lines = [f"  {paint(mistake.key, 'bold', sys.stderr)}{place}: {mistake.message}"]
    if excerpt:
        lines += [f"   --> {mistake.place}", *excerpt]
    lines += [f"    {line.strip()}" for line in mistake.hint.splitlines()]
    return "\n".join(lines)


def _excerpt(file: str, line: int, column: int) -> list[str]:
    """The line of the file with a mark below the word at the column; nothing when it cannot be read, or holds what
    nobody may see."""
    from pathlib import Path

    from detloom.config.advice import looks_like_secret
    from detloom.redaction import redacted

    try:
        text = Path(file).read_text(encoding="utf-8-sig").splitlines()[line - 1]
    except (OSError, UnicodeDecodeError, IndexError):
        return []
    if any(map(looks_like_secret, re.findall(r"[\w-]+(?=['\"]?\s*[:=])", text))) or redacted(text) != text:
        return []
    word = re.match(r"[^\s:=]+", text[column - 1 :])
    mark = "^" * (len(word[0]) if word else 1)
    return [f"    {line:>4} | {text}", f"         | {' ' * (column - 1)}{paint(mark, 'red', sys.stderr)}"]


def print_unexpected(failure: Exception) -> None:
    """Something that nobody foresaw: say so in one sentence."""
    text = " ".join(str(failure).split()) or "no message"
    error(f"{type(failure).__name__}: {text}")
    note("  this should not happen; run the same command with --debug and report the traceback")


def print_traceback() -> None:
    import traceback

    traceback.print_exc(file=sys.stderr)


@contextlib.contextmanager
def warnings_shown() -> Iterator[None]:
    """While the block runs, warnings of the package are lines on stderr; everything else goes to a run's log."""
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                (error if record.levelno >= logging.ERROR else warning)(record.getMessage())
            except Exception:
                self.handleError(record)

    handler = Handler(logging.WARNING)
    logger = logging.getLogger("detloom")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
