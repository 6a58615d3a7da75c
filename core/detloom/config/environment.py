"""Secrets from a `.env` file into the environment, and nowhere else."""

from __future__ import annotations

import os
import re
from pathlib import Path

from detloom.errors import ConfigError, Mistake

_LINE = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*)")


def load_env(path: str | Path = ".env") -> list[str]:
    """Set the variables of the file that the environment does not have yet; returns their names.

    A missing file is fine. Raises ConfigError for lines that are no assignment; a message never shows a value.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Mistake(str(path), str(path), f"cannot be read ({type(error).__name__})")]) from None
    mistakes, loaded = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        found = _LINE.fullmatch(stripped)
        if found is None:
            mistakes.append(Mistake(str(path), f"{path}:{number}:1", "a line must read NAME=value"))
        elif found["name"] not in os.environ:
            os.environ[found["name"]] = _unquoted(found["value"])
            loaded.append(found["name"])
    if mistakes:
        raise ConfigError(mistakes)
    return loaded


def _unquoted(value: str) -> str:
    value = value.strip()
    if value[:1] in ("'", '"') and (end := value.find(value[0], 1)) > 0:
        return value[1:end]
    return re.sub(r"\s+#.*$", "", value)
