"""The `Logger` of a run on ClearML."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from detloom.specs import LoggerContext
from detloom_integrations.clearml import events
from detloom_integrations.clearml.delivery import CloseReport, Delivery
from detloom_integrations.clearml.uploads import Upload

log = logging.getLogger("detloom")

EXPORTS = "exports/"
_FINAL = ("best/", "test/")
"""Numbers of the finished model: they stand in the task's summary."""


class ClearMLLogger:
    """Hands everything to the delivery. Steps are the run's own: a run that goes on writes no step anew."""

    def __init__(self, delivery: Delivery, context: LoggerContext) -> None:
        self._delivery = delivery
        self._context = context
        self._latest: dict[str, float] = {}
        self._step = context.resume_step
        self._report: CloseReport | None = None

    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        copy = dict(values)
        self._step = step
        self._latest.update(copy)
        self._delivery.report(events.scalars, copy, step, time.time(), records=len(copy))

    def plot(self, name: str, series: Mapping[str, Sequence[tuple[float, float]]], step: int) -> None:
        copy = {label: tuple(points) for label, points in series.items()}
        self._delivery.report(events.plot, name, copy, step, time.time())

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[object]], step: int) -> None:
        copy = [tuple(row) for row in rows]
        self._delivery.report(events.table, name, tuple(header), copy, step, time.time())

    def image(self, name: str, path: Path, step: int) -> None:
        self._delivery.upload(Upload("image", name, str(path), step=step))

    def artifact(self, name: str, path: Path) -> None:
        self._delivery.upload(Upload("artifact", name, str(path), step=self._step))

    def model(self, name: str, path: Path, metrics: Mapping[str, float], labels: Mapping[str, int]) -> None:
        """An export is called as its format, and found by the tag `export`."""
        plain = name.removeprefix(EXPORTS)
        tags = (name,) if plain == name else ("export", plain)
        upload = Upload(
            "model", plain, str(path), step=self._step, metrics=dict(metrics), labels=dict(labels), tags=tags
        )
        self._delivery.upload(upload)

    def close(self, status: str) -> None:
        """Never longer than `experiment.clearml.close_timeout`."""
        final = final_values(self._latest)
        self._delivery.report(events.single_values, final, time.time(), records=len(final))
        self._report = report = self._delivery.close()
        if report.dropped or report.waiting:
            log.warning("clearml: %d delivered, %d lost; %s", report.flushed, report.dropped, report.error)

    def delivered(self) -> tuple[int, int, str]:
        """After close: records that the server acknowledged, records that are lost for good, and what is to be said."""
        report = self._report
        return (report.flushed, report.dropped, report.error) if report else (0, 0, "the run was not closed")


def final_values(latest: Mapping[str, float]) -> dict[str, float]:
    """What the summary shows: the numbers of the best weights, or the last validation of a run that did not get so
    far. Without the single classes."""
    whole = {name: value for name, value in latest.items() if "/AP/" not in name}
    final = {name: value for name, value in whole.items() if name.startswith(_FINAL)}
    return final or {name: value for name, value in whole.items() if name.startswith("val/")}
