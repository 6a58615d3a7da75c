"""Lines for people: what an epoch brought, and how long the rest will take."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from detloom_plugins.loggers.console.bar import LiveBar

if TYPE_CHECKING:
    from detloom.specs import LoggerContext

MAX_ROWS = 20
MATRIX_CLASSES = 12
"""A confusion matrix of more does not fit across a terminal."""
_NOT_LOSSES = {"loss", "lr", "grad_norm", "images_per_s", "data_wait", "memory_mb"}


@dataclass(slots=True)
class _Best:
    """Best validation AP and AP50 of the run so far. epoch: 0-based, of the best AP."""

    AP: float = -math.inf
    AP50: float = -math.inf
    epoch: int = -1

    def take(self, AP: float, AP50: float, epoch: int) -> None:  # noqa: N803
        if AP > self.AP:
            self.AP, self.epoch = AP, epoch
        self.AP50 = max(self.AP50, AP50)


class ConsoleLogger:
    """One line an epoch; on a terminal also a bar that lives below the lines."""

    def __init__(self, context: LoggerContext, out: TextIO | None = None) -> None:
        self._context = context
        self._out = out or sys.stdout
        self._started = time.monotonic()
        self._best = _best_of_earlier_part(context)
        total = context.total_steps
        self._bar = LiveBar(total, context.resume_step) if self._out.isatty() else None

    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        if not any(name.startswith(("val/", "epoch/")) for name in values):
            if self._bar is not None:
                self._bar.advance(step, f"epoch {epoch + 1}/{self._context.total_epochs}", _loss_text(values))
            return
        self._say(self._epoch_line(values, step, epoch))

    def _epoch_line(self, values: Mapping[str, float], step: int, epoch: int) -> str:
        parts = [f"epoch {epoch + 1:>{len(str(self._context.total_epochs))}}/{self._context.total_epochs}"]
        parts += [_loss_text(values), *self._validation(values, epoch), *_speed(values)]
        left = self._seconds_left(step)
        if left is not None:
            parts.append(f"ETA {duration(left)}")
        return "  ".join(part for part in parts if part)

    def _validation(self, values: Mapping[str, float], epoch: int) -> list[str]:
        parts = [f"val loss {values['val/loss']:.4g}"] if "val/loss" in values else []
        if "val/AP" not in values:
            return parts
        ap, ap50 = values["val/AP"], values.get("val/AP50", math.nan)
        if "val/segm_AP" in values:  # a model of masks is followed by its masks
            parts.append(f"boxes AP {ap:.3f} AP50 {ap50:.3f}, masks")
            ap, ap50 = values["val/segm_AP"], values.get("val/segm_AP50", math.nan)
        best = self._best
        parts.append(f"AP {ap:.3f}{_delta(ap, best.AP)}")
        parts.append(f"AP50 {ap50:.3f}{_delta(ap50, best.AP50)}")
        is_best = ap > best.AP
        best.take(ap, ap50, epoch)
        parts.append("best so far" if is_best else f"best {best.AP:.3f} (epoch {best.epoch + 1})")
        return parts

    def _seconds_left(self, step: int) -> float | None:
        """By the mean time of the steps of this session, evaluation included; None at the end."""
        done = step - self._context.resume_step
        left = self._context.total_steps - step
        if done <= 0 or left <= 0:
            return None
        return (time.monotonic() - self._started) / done * left

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.say(line)
        else:
            print(line, file=self._out, flush=True)

    def plot(self, name: str, series: Mapping[str, Sequence[tuple[float, float]]], step: int) -> None:
        """A terminal shows no curves."""

    def image(self, name: str, path: Path, step: int) -> None:
        """A terminal shows no pictures."""

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[object]], step: int) -> None:
        """Columns as wide as their widest cell; numbers with three decimals; of a long table the first rows. What the
        check of the data has said already is not said again."""
        if name.startswith("data/") or (name.endswith("/confusion") and len(header) - 2 > MATRIX_CLASSES):
            return
        cells = [[str(cell) for cell in header], *([_cell(cell) for cell in row] for row in rows[:MAX_ROWS])]
        widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
        self._say(name)
        for row in cells:
            self._say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if len(rows) > MAX_ROWS:
            self._say(f"  and {len(rows) - MAX_ROWS} more, in the report")

    def artifact(self, name: str, path: Path) -> None:
        """Where a file is. The run has named its folder, and each export with its proof, in lines of its own."""
        if name not in {"config", "data"} and not name.startswith("exports/"):
            self._say(f"{name}: {path}")

    def model(self, name: str, path: Path, metrics: Mapping[str, float], labels: Mapping[str, int]) -> None:
        """Checkpoints are announced by the line of their epoch, exports by their proof."""

    def close(self, status: str) -> None:
        if self._bar is not None:
            self._bar.close()
        took = duration(time.monotonic() - self._started)
        print(f"{self._context.run_name}: {status} after {took}", file=self._out, flush=True)


def _loss_text(values: Mapping[str, float]) -> str:
    """`loss 4.21 (box 2.10, cls 1.02)  lr 9.8e-04`."""
    if "train/loss" not in values:
        return ""
    names = [name.removeprefix("train/") for name in values if name.startswith("train/")]
    terms = [f"{name.removeprefix('loss_')} {values[f'train/{name}']:.3g}" for name in names if name not in _NOT_LOSSES]
    text = f"loss {values['train/loss']:.4g}" + (f" ({', '.join(terms)})" if terms else "")
    return f"{text}  lr {values['train/lr']:.2e}" if "train/lr" in values else text


def _speed(values: Mapping[str, float]) -> list[str]:
    parts = []
    if "train/images_per_s" in values:
        waiting = f", {values['train/data_wait']:.0%} waiting for data" if "train/data_wait" in values else ""
        parts.append(f"{values['train/images_per_s']:.3g} images/s{waiting}")
    if "train/memory_mb" in values:
        parts.append(f"{values['train/memory_mb'] / 1024:.1f} GB")
    if "epoch/time_s" in values:
        parts.append(duration(values["epoch/time_s"]))
    return parts


def _delta(value: float, best: float) -> str:
    return f" ({value - best:+.3f})" if math.isfinite(best) else ""


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """`7 s`, `3:05` or `2:03:05`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _best_of_earlier_part(context: LoggerContext) -> _Best:
    """What the run had reached before it was cut off, from its own record of numbers."""
    best = _Best()
    path = context.run_dir / "metrics.jsonl"
    if not context.resume_step or not path.is_file():
        return best
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            kind = "segm_" if "val/segm_AP" in record else ""
            if record["step"] <= context.resume_step and record.get(f"val/{kind}AP") is not None:
                best.take(record[f"val/{kind}AP"], record.get(f"val/{kind}AP50") or 0.0, record["epoch"])
        except (ValueError, KeyError, TypeError):
            continue
    return best
