"""From a run's data to one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detloom.counting import counted
from detloom.files import write_text
from detloom.report.charts import number
from detloom.report.confusion import confusion_chart
from detloom.report.curves import css_colour, data_charts, precision_recall, short, training_charts
from detloom.report.data import ConfigRow, ReportData
from detloom.report.embed import embed
from detloom_schemas.run_files import SplitEvaluation

MAX_FINDINGS = 150
MEANINGS = {
    "AP": "mean over IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APs": "small objects, below 32² px",
    "APm": "medium objects",
    "APl": "large objects, above 96² px",
    "AR1": "recall, 1 detection an image and class",
    "AR10": "recall, 10 detections",
    "AR100": "recall, all detections kept",
    "ARs": "recall, small objects",
    "ARm": "recall, medium objects",
    "ARl": "recall, large objects",
}


def write_report(data: ReportData, path: Path) -> None:
    """One file without any external reference, whole or not at all. Raises DetloomError when it cannot be written."""
    write_text(path, render(data))


def render(data: ReportData) -> str:
    """The page. Everything that comes from data or configuration is escaped by the template."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ap=short, number=number, value=shown_value, size=file_size, sum_of=total, counted=counted
    )
    environment.globals["class_colour"] = css_colour
    pictures, picture_problems = embed(data.folder, data.evaluation.pictures if data.evaluation else ())
    return environment.get_template("template.html.j2").render(
        data=data,
        run=data.run,
        tiles=_tiles(data),
        splits=_splits(data),
        meanings=MEANINGS,
        judged=_judged(_splits(data)),
        pr_charts={name: precision_recall(name, split) for name, split in _judged(_splits(data)).items()},
        confusion_charts=[c for c in (confusion_chart(*split) for split in _splits(data).items()) if c is not None],
        bad=[p for p in pictures if not p.record.good],
        good=[p for p in pictures if p.record.good],
        charts=training_charts(data),
        exports=sorted(data.exports, key=lambda manifest: not manifest.gate.passed),
        data_charts=_data_charts(data),
        findings=data.data.findings[:MAX_FINDINGS] if data.data else (),
        findings_left_out=max(len(data.data.findings) - MAX_FINDINGS, 0) if data.data else 0,
        chosen=[row for row in data.config if _is_chosen(row)],
        derived=[row for row in data.config if not _is_chosen(row)],
        notices=[*data.run.warnings, *_logger_notices(data), *data.problems, *picture_problems],
    )


def _judged(splits: Mapping[str, SplitEvaluation]) -> dict[str, SplitEvaluation]:
    """Each split by its boxes and, as `val, masks`, by its masks."""
    found: dict[str, SplitEvaluation] = {}
    for name, split in splits.items():
        found[name] = split
        if split.segm is not None:
            found[f"{name}, masks"] = split.segm
    return found


@dataclass(frozen=True, slots=True)
class Tile:
    """One number of the first row."""

    label: str
    value: str
    note: str = ""


def _splits(data: ReportData) -> dict[str, SplitEvaluation]:
    """The test first: it was never looked at while the run chose its weights."""
    found = data.evaluation.splits if data.evaluation else {}
    return {name: found[name] for name in sorted(found, key=lambda name: (name != "test", name != "val", name))}


def _tiles(data: ReportData) -> list[Tile]:
    tiles = []
    for name, split in list(_splits(data).items())[:2]:
        images = counted(split.images, "image")
        for kind, one in (("", split), (" of masks", split.segm)):
            if one is not None:
                tiles += [Tile(f"{name} {ap}{kind}", short(one.metrics.get(ap)), images) for ap in ("AP", "AP50")]
    if not tiles:
        tiles += _tiles_while_training(data)
    best = data.run.best
    if best is not None:
        tiles.append(Tile("best epoch", str(best.epoch + 1), f"by {best.metric}, {best.value:.3f} then"))
    if data.run.duration_s is not None:
        tiles.append(Tile("duration", duration(data.run.duration_s), counted(data.run.progress.step, "step")))
    return tiles


def _tiles_while_training(data: ReportData) -> list[Tile]:
    """Before the final evaluation the last one says where the run stands."""
    evaluated = [record for record in data.epochs if isinstance(record.get("val/AP"), float)]
    if not evaluated:
        return []
    last = evaluated[-1]
    note = f"epoch {int(last['epoch']) + 1}"
    shown = {"AP": "val/AP", "AP50": "val/AP50", "AP of masks": "val/segm_AP", "AP50 of masks": "val/segm_AP50"}
    return [Tile(f"val {name}", short(last[key]), note) for name, key in shown.items() if key in last]


def _data_charts(data: ReportData) -> list[Any]:
    if data.data is None or not data.data.splits:
        return []
    name = "train" if "train" in data.data.splits else next(iter(data.data.splits))
    return data_charts(name, data.data.splits[name])


def _is_chosen(row: ConfigRow) -> bool:
    """Set by the user or by a preset, rather than by default, recipe or data."""
    return row.kind in {"file", "command line", "tracker", "preset"}


def _logger_notices(data: ReportData) -> Sequence[str]:
    return [
        f"logger {logger.name}: {logger.dropped} of {logger.flushed + logger.dropped} calls were lost ({logger.error})"
        for logger in data.run.loggers
        if logger.dropped or logger.error
    ]


def duration(seconds: float) -> str:
    """`7 s`, `21 min` or `2 h 3 min`."""
    if seconds < 90:
        return f"{round(seconds)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def shown_value(value: Any) -> str:
    """A configuration value as one would write it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def total(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def file_size(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
