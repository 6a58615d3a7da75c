"""What keeps a run from having a task: names that the server refuses, secrets that it would show to everybody, and a
task that the process has already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from detloom.errors import ConfigError, Mistake, UsageError
from detloom.redaction import kind_of_secret
from detloom.specs import TrackedConfig
from detloom_integrations.clearml.naming import place_on_task, short_names


def secrets_held(config: TrackedConfig) -> Iterator[tuple[str, str]]:
    """Keys whose values hold a secret, each with what kind it is; never the value."""
    for key, text in config.values.items():
        if what := kind_of_secret(text):
            yield key, what


def refuse_second_task(own: Any) -> None:
    """The SDK knows one task in a process, and would give the run the one of the program that started it."""
    if own is not None:
        raise UsageError(
            f"this process has a ClearML task of its own already: {own.name} ({own.id})",
            hint="end it before the run begins (task.close()), or switch the run's off: experiment.clearml.mode=off",
        )


def secret_in_destination(task: Mapping[str, Any]) -> tuple[Mistake, ...]:
    """A secret in the place that somebody chose on a task for its files, which every address of them would show."""
    what = kind_of_secret(str((task.get("output") or {}).get("destination") or ""))
    message = f"holds {what}; a task shows it to everybody"
    hint = "give it to the agents' machines through their environment, and take it out of the task"
    return (Mistake("experiment.clearml.output_uri", "the task's output destination", message, hint),) if what else ()


def refuse_what_no_task_may_hold(config: TrackedConfig) -> None:
    """Names that the server does not take, and secrets, which it would show to everybody."""
    mistakes = []
    for key, message in short_names(config):
        place = place_on_task(config, key)
        hint = "take a longer one" if place else "take a longer one, or train with --no-clearml"
        mistakes.append(Mistake(key, place, message, hint))
    for key, what in secrets_held(config):
        place = place_on_task(config, key)
        hint = "give it to the agents' machines through their environment, and take it out of the task"
        hint = hint if place else "give it through the environment, or train with --no-clearml"
        mistakes.append(Mistake(key, place, f"holds {what}; a task shows it to everybody", hint))
    if mistakes:
        raise ConfigError(mistakes)
