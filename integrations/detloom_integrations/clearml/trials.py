"""The trials of a search, as the server has them: what they reached, which is best, how long the rest will take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from detloom.progress import clock
from detloom_integrations.clearml.events import title_and_series
from detloom_integrations.clearml.space_check import curves

FIELDS = ("id", "name", "status", "status_message", "status_reason", "started", "completed", "last_metrics", "project")
PAGE = 500

GROUPS = {
    "completed": "done",
    "published": "done",
    "failed": "failed",
    "stopped": "aborted",
    "in_progress": "running",
    "queued": "waiting",
    "created": "draft",
}


@dataclass(frozen=True, slots=True)
class Objective:
    """The scalar that trials are judged by. best: by its best value; else by its last."""

    name: str
    maximise: bool
    best: bool

    @property
    def sign(self) -> str:
        """In ClearML's words."""
        return ("max" if self.maximise else "min") + ("_global" if self.best else "")

    def of(self, record: Mapping[str, Any]) -> float | None:
        """None for a trial that has not reported it."""
        wanted = title_and_series(self.name)
        field = ("max_value" if self.maximise else "min_value") if self.best else "value"
        for curve in curves(record):
            if (curve["metric"], curve["variant"]) == wanted and curve.get(field) is not None:
                return float(curve[field])
        return None

    def __str__(self) -> str:
        return f"{'greatest' if self.maximise else 'least'} {self.name}{'' if self.best else ' at the end'}"


@dataclass(frozen=True, slots=True)
class Trial:
    """state: in words. value: of the objective. parameters: dotted key to text, of what was drawn. seconds: from its
    start to its end, None before. message: of one that failed."""

    id: str
    name: str
    state: str
    value: float | None
    parameters: Mapping[str, str]
    seconds: float | None
    message: str
    url: str

    @property
    def over(self) -> bool:
        return self.state in {"done", "failed", "aborted"}

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.id,
            "name": self.name,
            "state": self.state,
            "objective": self.value,
            "parameters": dict(self.parameters),
            "seconds": self.seconds,
            "message": self.message,
            "url": self.url,
        }


def trial_of(record: Mapping[str, Any], objective: Objective, parameters: Mapping[str, str], url: str) -> Trial:
    """parameters: dotted key to `section/name`."""
    hyperparams = record.get("hyperparams") or {}
    texts = {}
    for key, parameter in parameters.items():
        section, _, name = parameter.partition("/")
        texts[key] = str((hyperparams.get(section, {}).get(name) or {}).get("value") or "")
    status = str(record.get("status"))
    failed = status == "failed"
    return Trial(
        id=str(record["id"]),
        name=str(record.get("name") or ""),
        state=GROUPS.get(status, status),
        value=objective.of(record),
        parameters=texts,
        seconds=_seconds(record),
        message=str(record.get("status_message") or record.get("status_reason") or "") if failed else "",
        url=url,
    )


def _seconds(record: Mapping[str, Any]) -> float | None:
    started, completed = record.get("started"), record.get("completed")
    if not started or not completed:
        return None
    return round((_time(completed) - _time(started)).total_seconds(), 3)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def ranked(trials: Iterable[Trial], objective: Objective) -> list[Trial]:
    """The best first; those that reported nothing are left out. Equal ones stay in the order they were made in."""
    with_value = [trial for trial in trials if trial.value is not None and trial.over and trial.state != "failed"]
    return sorted(with_value, key=lambda trial: -_number(trial) if objective.maximise else _number(trial))


def _number(trial: Trial) -> float:
    assert trial.value is not None
    return trial.value


def progress_line(trials: Sequence[Trial], objective: Objective, total: int | None, concurrent: int) -> str:
    """`7 of 20 trials over (6 done, 1 failed), 2 running; best val/AP 0.412; about 1:20:00 left`."""
    over = [trial for trial in trials if trial.over]
    counts = ", ".join(_counts(over))
    parts = [f"{len(over)}{f' of {total}' if total else ''} trials over{f' ({counts})' if counts else ''}"]
    parts[0] += "".join(f", {count}" for count in _counts(trial for trial in trials if not trial.over))
    best = ranked(trials, objective)
    if best:
        parts.append(f"best {objective.name} {best[0].value:.4g}")
    times = [trial.seconds for trial in over if trial.seconds is not None and trial.state == "done"]
    if total and times and total > len(over):
        rounds = math.ceil((total - len(over)) / concurrent)
        parts.append(f"about {clock(rounds * sum(times) / len(times))} left")
    return "; ".join(parts)


def _counts(trials: Iterable[Trial]) -> list[str]:
    counts: dict[str, int] = {}
    for trial in trials:
        counts[trial.state] = counts.get(trial.state, 0) + 1
    return [f"{count} {state}" for state, count in counts.items()]
