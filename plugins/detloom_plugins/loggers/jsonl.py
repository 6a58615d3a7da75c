"""`metrics.jsonl` in the run's folder: one line a record, for programs and for the report."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detloom.hookspecs import hookimpl
from detloom.specs import LoggerSpec

if TYPE_CHECKING:
    from detloom.specs import LoggerContext
    from detloom_schemas.base import Settings

detloom_api = (0, 1)

FILE_NAME = "metrics.jsonl"


class JsonlLogger:
    """Each record is a line of its own and on its way to the disk before the next step: a killed run keeps its
    numbers. Numbers only; pictures and files are in the folder already."""

    def __init__(self, context: LoggerContext) -> None:
        path = context.run_dir / FILE_NAME
        if path.is_file():
            _cut_after(path, context.resume_step)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        record: dict[str, float | None] = {"step": step, "epoch": epoch, "time": round(time.time(), 3)}
        # JSON has no NaN: a number that is none is null.
        record.update((name, value if math.isfinite(value) else None) for name, value in values.items())
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def plot(self, name: str, series: Mapping[str, Sequence[tuple[float, float]]], step: int) -> None:
        """Curves are in evaluation.json."""

    def image(self, name: str, path: Path, step: int) -> None:
        """The picture is in the run's folder."""

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[object]], step: int) -> None:
        """Tables are in evaluation.json and data.json."""

    def artifact(self, name: str, path: Path) -> None:
        """The file is in the run's folder."""

    def model(self, name: str, path: Path, metrics: Mapping[str, float], labels: Mapping[str, int]) -> None:
        """The model is in the run's folder."""

    def close(self, status: str) -> None:
        self._file.close()


def _cut_after(path: Path, step: int) -> None:
    """Drop records that the resumed run will write again, and a last line that was cut off by a crash."""
    from detloom.files import write_text

    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_text(path, "".join(kept))


def build(settings: Settings, context: LoggerContext) -> JsonlLogger:
    return JsonlLogger(context)


@hookimpl
def detloom_loggers() -> Iterable[LoggerSpec]:
    return [LoggerSpec(name="jsonl", summary="metrics.jsonl in the run's folder", build=build)]
