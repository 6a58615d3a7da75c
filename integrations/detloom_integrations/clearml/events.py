"""Events of a ClearML task as plain dictionaries, without the task: that is added when they are sent.

Titles and series are part of the contract of a hyper-parameter search and do not change: `val/AP` has the title `val`
and the series `AP`, `val/AP/RBC` the title `val/AP` and the series `RBC`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

Event = dict[str, Any]

SUMMARY = "Summary"
"""The title under which ClearML's web interface shows single values."""

NO_ITERATION = -(2**31)
"""The iteration that makes a scalar a single value."""

_CLASS_MARK = "/AP/"
"""Between split and class name; a class name may hold slashes of its own."""


def title_and_series(name: str) -> tuple[str, str]:
    """`train/loss` -> (`train`, `loss`); a name without a slash is both."""
    if _CLASS_MARK in name:
        prefix, _, class_name = name.partition(_CLASS_MARK)
        return f"{prefix}{_CLASS_MARK[:-1]}", class_name
    title, _, series = name.rpartition("/")
    return (title or name), (series or name)


def scalars(values: Mapping[str, float], step: int, timestamp_s: float) -> list[Event]:
    """One scalar a value. The server takes finite numbers only: one that is not leaves a gap in its curve and is named
    in a line of the console, instead of being drawn as a number that it is not."""
    events: list[Event] = []
    odd: list[str] = []
    for name, value in values.items():
        number = float(value)
        if math.isfinite(number):
            title, series = title_and_series(name)
            events.append(_event("training_stats_scalar", title, series, step, timestamp_s, value=number))
        else:
            odd.append(f"{name} is {number}")
    if odd:
        events.append(line(f"step {step}: {', '.join(odd)}; not drawn", timestamp_s, level="warning"))
    return events


def single_values(values: Mapping[str, float], timestamp_s: float) -> list[Event]:
    """Numbers without an iteration, as the summary of the task shows them; those that are not finite are left out."""
    return [
        _event("training_stats_scalar", SUMMARY, name, NO_ITERATION, timestamp_s, value=float(value))
        for name, value in values.items()
        if math.isfinite(value)
    ]


def line(text: str, timestamp_s: float, *, level: str = "info") -> Event:
    """A line of the task's console."""
    return {"type": "log", "level": level, "worker": "detloom", "msg": text, "timestamp": _milliseconds(timestamp_s)}


def plot(name: str, series: Mapping[str, Sequence[tuple[float, float]]], step: int, timestamp_s: float) -> list[Event]:
    """Curves: each a name and its points (x, y). A point that is not finite is a gap."""
    title, variant = title_and_series(name)
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": label,
            "x": [_finite(x) for x, _ in points],
            "y": [_finite(y) for _, y in points],
        }
        for label, points in series.items()
    ]
    return [_plot(title, variant, step, timestamp_s, {"data": data, "layout": {"title": name, "showlegend": True}})]


def table(
    name: str, header: Sequence[str], rows: Sequence[Sequence[object]], step: int, timestamp_s: float
) -> list[Event]:
    title, variant = title_and_series(name)
    columns = [[_cell(row[index]) if index < len(row) else "" for row in rows] for index in range(len(header))]
    body = {
        "type": "table",
        "header": {"values": [str(cell) for cell in header], "align": "left"},
        "cells": {"values": columns, "align": "left"},
    }
    return [_plot(title, variant, step, timestamp_s, {"data": [body], "layout": {"title": name}})]


def debug_image(name: str, url: str, step: int, timestamp_s: float) -> Event:
    """A picture that is stored at `url` already."""
    title, variant = title_and_series(name)
    return _event("training_debug_image", title, variant, step, timestamp_s, url=url, key=urlsplit(url).path)


def _plot(title: str, variant: str, step: int, timestamp_s: float, figure: Mapping[str, Any]) -> Event:
    return _event("plot", title, variant, step, timestamp_s, plot_str=json.dumps(figure, allow_nan=False))


def _event(kind: str, title: str, series: str, step: int, timestamp_s: float, **more: object) -> Event:
    return {
        "type": kind,
        "metric": title,
        "variant": series,
        "iter": int(step),
        "timestamp": _milliseconds(timestamp_s),
        **more,
    }


def _milliseconds(timestamp_s: float) -> int:
    return int(timestamp_s * 1000)


def _finite(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _cell(value: object) -> str | int:
    """Numbers to four places that count, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return value
    return f"{value:.4g}" if isinstance(value, float) else str(value)
