"""Which charts a run's numbers make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detloom.drawing import class_colour
from detloom.report.charts import Axis, Mark, Point, Series, bar_chart, line_chart
from detloom.report.data import ReportData
from detloom_schemas.run_files import SplitEvaluation, SplitStatistics

NOT_TERMS = {"loss", "lr", "grad_norm", "images_per_s", "data_wait", "memory_mb"}
VALIDATION = {"AP": "AP", "AP50": "AP50", "segm_AP": "AP of masks", "segm_AP50": "AP50 of masks"}
"""Numbers of the validation that are drawn, and their names."""
PR_CLASSES = 10
"""More curves than these cannot be told apart."""


@dataclass(frozen=True, slots=True)
class Chart:
    """svg: inline; legend: (name, CSS colour) where there is more than one line; note: one line below."""

    title: str
    svg: str
    legend: Sequence[tuple[str, str]] = ()
    note: str = ""


def training_charts(data: ReportData) -> list[Chart]:
    """Losses, validation, learning rate, gradient, speed: those that have numbers."""
    x, label = _x_of(data)
    last = max((x(record) for record in (*data.steps, *data.epochs)), default=1.0)
    axis = Axis(label, low=0.0, high=last, whole=True)
    return [
        chart
        for chart in (
            _loss(data, x, axis),
            _validation(data, x, axis),
            _terms(data, x, axis),
            _single(data, x, axis, "Learning rate", "train/lr", low=0.0),
            _single(data, x, axis, "Gradient norm before clipping", "train/grad_norm", low=0.0),
            _single(data, x, axis, "Images a second", "train/images_per_s", low=0.0),
            _single(data, x, axis, "Share of the time waiting for data", "train/data_wait", low=0.0, high=1.0),
            _single(data, x, axis, "Memory, MB", "train/memory_mb", low=0.0),
        )
        if chart is not None
    ]


XOf = Callable[[Mapping[str, Any]], float]


def _x_of(data: ReportData) -> tuple[XOf, str]:
    """Epochs where there are enough of them, else steps."""
    total = data.run.progress
    steps_per_epoch = total.total_steps / total.total_epochs if total.total_epochs and total.total_steps else 0.0
    if len(data.epochs) >= 3:
        first = data.epochs[0]
        steps_per_epoch = steps_per_epoch or float(first["step"]) / (float(first["epoch"]) + 1)
        return (lambda record: float(record["step"]) / steps_per_epoch), "epoch"
    return (lambda record: float(record["step"])), "step"


def _points(records: Sequence[Mapping[str, Any]], key: str, x: XOf) -> list[Point]:
    """null, a number that was none, leaves a gap."""
    found = [(x(r), r[key]) for r in records if key in r]
    return [(at, float(value) if isinstance(value, int | float) else math.nan) for at, value in found]


def _chart(title: str, series: Sequence[Series], x_axis: Axis, y_axis: Axis, mark: Mark | None = None) -> Chart | None:
    shown = [one for one in series if one.points]
    svg = line_chart(title, shown, x_axis, y_axis, mark)
    legend = [(one.name, one.colour) for one in shown] if len(shown) > 1 else []
    return Chart(title, svg, legend) if svg else None


def _loss(data: ReportData, x: XOf, x_axis: Axis) -> Chart | None:
    training = _points(data.steps or data.epochs, "train/loss", x)
    validation = _points(data.epochs, "val/loss", x)
    series = [Series("training", training, "var(--c0)"), Series("validation", validation, "var(--c1)")]
    return _chart("Loss", series, x_axis, Axis())


def _terms(data: ReportData, x: XOf, x_axis: Axis) -> Chart | None:
    records = data.steps or data.epochs
    keys = sorted({k for r in records for k in r if k.startswith("train/")} - {f"train/{n}" for n in NOT_TERMS})
    series = [
        Series(key.removeprefix("train/").removeprefix("loss_"), _points(records, key, x), f"var(--c{i % 8})")
        for i, key in enumerate(keys)
    ]
    return _chart("Terms of the training loss", series, x_axis, Axis())


def _validation(data: ReportData, x: XOf, x_axis: Axis) -> Chart | None:
    series = [
        Series(name, _points(data.epochs, f"val/{metric}", x), f"var(--c{colour})")
        for colour, (metric, name) in enumerate(VALIDATION.items())
    ]
    best = _best(data, x)
    ceiling = max((y for one in series for _, y in one.points if math.isfinite(y)), default=0.0)
    axis = Axis(low=0.0, high=1.0 if ceiling > 0.6 else None, show=lambda value: f"{value:.3g}")
    return _chart("Validation", series, x_axis, axis, best)


def _best(data: ReportData, x: XOf) -> Mark | None:
    """By the run's own choice when it is on the chart, else the highest AP."""
    chosen, values = data.run.best, {}
    metric = chosen.metric if chosen is not None and chosen.metric in VALIDATION else "AP"
    for record in data.epochs:
        value = record.get(f"val/{metric}")
        if isinstance(value, int | float):
            values[record["epoch"]] = (x(record), float(value))
    if not values:
        return None
    if chosen is not None and chosen.metric == metric and chosen.epoch in values:
        epoch = chosen.epoch
    else:
        epoch = max(values, key=lambda e: values[e][1])
    at, value = values[epoch]
    return Mark(at, value, f"best {VALIDATION[metric]} {value:.3f}, epoch {epoch + 1}")


def _single(
    data: ReportData, x: XOf, x_axis: Axis, title: str, key: str, *, low: float | None = None, high: float | None = None
) -> Chart | None:
    series = [Series(title, _points(data.steps or data.epochs, key, x))]
    return _chart(title, series, x_axis, Axis(low=low, high=high))


def precision_recall(name: str, split: SplitEvaluation) -> Chart | None:
    """The classes with the most objects, in the colours that their boxes have in the pictures."""
    with_curve = [c for c in split.per_class if c.curve]
    chosen = sorted(with_curve, key=lambda c: -c.truths)[:PR_CLASSES]
    series = [
        Series(c.name, [(i / 100, p) for i, p in enumerate(c.curve)], css_colour(c.index))
        for c in sorted(chosen, key=lambda c: c.index)
    ]
    left_out = len(with_curve) - len(chosen)
    note = f"The {PR_CLASSES} classes with the most objects; {left_out} more are in the table." if left_out else ""
    title = f"Precision over recall at IoU 0.5, {name}"
    svg = line_chart(title, series, Axis("recall", 0.0, 1.0), Axis("", 0.0, 1.0))
    return Chart(title, svg, [(one.name, one.colour) for one in series], note) if svg else None


def css_colour(index: int) -> str:
    """A class has one colour everywhere."""
    return "rgb({},{},{})".format(*class_colour(index))


def data_charts(name: str, split: SplitStatistics) -> list[Chart]:
    """Objects an image, and how large they are."""
    counts = split.objects_per_image
    charts = []
    if counts:
        width = max(1, math.ceil((max(counts) + 1) / 12))
        bins = [0] * (max(counts) // width + 1)
        for objects, images in counts.items():
            bins[objects // width] += images
        labels = [str(i) if width == 1 else f"{i * width}-{(i + 1) * width - 1}" for i in range(len(bins))]
        svg = bar_chart(
            f"Images of {name} by number of objects", list(zip(labels, bins, strict=True)), "objects an image"
        )
        charts.append(Chart(f"Objects an image, {name}", svg))
    if split.size_shares:
        labels = [f"{10 * i}-{10 * (i + 1)}" for i in range(len(split.size_shares))]
        bars = [(label, float(value)) for label, value in zip(labels, split.size_shares, strict=True)]
        svg = bar_chart(f"Objects of {name} by size", bars, "side of the box, % of the side of the image", "var(--c2)")
        charts.append(Chart(f"Size of objects, {name}", svg))
    return [chart for chart in charts if chart.svg]


def short(value: float | None, digits: int = 3) -> str:
    """An AP for people; a dash where there is none."""
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # never -0.000
