"""What keeps a run from having a task: names that the server refuses, secrets that it would show to everybody, and a
task that the process has already."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from detloom.errors import ConfigError, Mistake, UsageError
from detloom.specs import TrackedConfig
from detloom_integrations.clearml.naming import short_names

_SECRET_VALUES = {
    "an address with a password": re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE),
    "an address with a token": re.compile(
        r"[?&](?:[a-z-]*(?:token|signature|password|secret|api_?key)|sig)=[^&\s]", re.IGNORECASE
    ),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an access token": re.compile(
        r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_\w{20,}|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}"
        r"|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*)"
    ),
}
"""What nobody writes into a configuration by chance."""


def secrets_held(config: TrackedConfig) -> Iterator[tuple[str, str]]:
    """Keys whose values hold a secret, each with what kind it is; never the value."""
    for key, text in config.values.items():
        what = next((kind for kind, pattern in _SECRET_VALUES.items() if pattern.search(text)), "")
        if what:
            yield key, what


def refuse_second_task(own: Any) -> None:
    """The SDK knows one task in a process, and would give the run the one of the program that started it."""
    if own is not None:
        raise UsageError(
            f"this process has a ClearML task of its own already: {own.name} ({own.id})",
            hint="end it before the run begins (task.close()), or switch the run's off: experiment.clearml.mode=off",
        )


def refuse_what_no_task_may_hold(config: TrackedConfig) -> None:
    """Names that the server does not take, and secrets, which it would show to everybody."""
    hint = "take a longer one, or train with --no-clearml"
    mistakes = [Mistake(key, "", message, hint) for key, message in short_names(config)]
    hint = "give it through the environment, or train with --no-clearml"
    mistakes += [
        Mistake(key, "", f"holds {what}; a task shows it to everybody", hint) for key, what in secrets_held(config)
    ]
    if mistakes:
        raise ConfigError(mistakes)
