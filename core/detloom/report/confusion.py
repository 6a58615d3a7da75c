"""What was taken for what: a matrix for a few classes, the most confused pairs for many."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import product

from detloom.report.charts import WIDTH, svg, text_at
from detloom.report.curves import Chart
from detloom_schemas.run_files import SplitEvaluation

MATRIX_CLASSES = 12
"""Cells of more classes could not be read."""
PAIRS = 15
LETTERS = 15
LETTER = 8.2
"""Width of a letter on a phone, where letters are largest."""
RIGHT, WRONG = "var(--c0)", "var(--c1)"
GAP = 5.0
"""Sets background and missed apart from the classes."""


def confusion_chart(name: str, split: SplitEvaluation) -> Chart | None:
    """None for a file without a confusion matrix, and when there was neither an object nor a detection."""
    if not split.confusion:
        return None
    return _matrix(name, split) if len(split.per_class) <= MATRIX_CLASSES else _pairs(name, split)


def _matrix(name: str, split: SplitEvaluation) -> Chart:
    names = [c.name for c in split.per_class]
    end = len(names)
    counts = {(row, column): count for row, column, count in split.confusion}
    totals = [sum(counts.get((row, column), 0) for column in range(end + 1)) for row in range(end + 1)]
    grid = _Grid([*names, "background"], [*names, "missed"])
    parts = grid.labels()
    for row, column in product(range(end + 1), repeat=2):
        if (row, column) != (end, end):
            count = counts.get((row, column), 0)
            meaning = _meaning(names, row, column, count, totals[row])
            parts.append(grid.cell(row, column, count, count / totals[row] if count else 0.0, meaning))
    title = f"Confusion matrix, {name}"
    note = (
        f"Rows: what is there; columns: what it was taken for, at IoU 0.5 and score {split.threshold:.2f}. "
        "The shade is the share of the row."
    )
    legend = [("right", RIGHT), ("confused, missed or without an object", WRONG)]
    return Chart(title, svg(title, parts, grid.height), legend, note)


def _meaning(names: Sequence[str], row: int, column: int, count: int, total: int) -> str:
    """For the pointer."""
    share = f"{count} of {total}" + (f" ({count / total:.0%})" if total else "")
    if row == len(names):
        return f"{names[column]} where nothing is: {share} such detections"
    if column == len(names):
        return f"{names[row]} missed: {share}"
    return f"{names[row]} found: {share}" if row == column else f"{names[row]} taken for {names[column]}: {share}"


class _Grid:
    """Places of the cells and of their labels, in the coordinates of the picture."""

    def __init__(self, rows: Sequence[str], columns: Sequence[str]) -> None:
        self.rows, self.columns = [*map(_short, rows)], [*map(_short, columns)]
        self.left = LETTER * max(map(len, self.rows)) + 12
        self.width = (WIDTH - self.left - GAP) / len(columns)
        self.slanted = LETTER * max(map(len, self.columns)) > self.width - 4
        self.top = (0.71 * LETTER * max(map(len, self.columns)) + 16) if self.slanted else 24.0
        self.side = min(self.width, 46.0)
        self.height = self.top + self.side * len(rows) + GAP + 2

    def x(self, column: int) -> float:
        return self.left + column * self.width + (GAP if column == len(self.columns) - 1 else 0)

    def y(self, row: int) -> float:
        return self.top + row * self.side + (GAP if row == len(self.rows) - 1 else 0)

    def labels(self) -> list[str]:
        parts = [
            text_at(self.left - 8, self.y(row) + self.side / 2 + 4.5, label, "end")
            for row, label in enumerate(self.rows)
        ]
        for column, label in enumerate(self.columns):
            x, y = self.x(column) + self.width / 2, self.top - 8
            if self.slanted:
                parts.append(f'<g transform="rotate(45 {x:.1f} {y:.1f})">{text_at(x, y, label, "end")}</g>')
            else:
                parts.append(text_at(x, y, label, "middle"))
        return parts

    def cell(self, row: int, column: int, count: int, share: float, meaning: str) -> str:
        """Never so dark that the number on it could not be read, never so pale that a single object would not show."""
        fill, opacity = ("var(--track)", 0.5) if not count else (RIGHT if row == column else WRONG, 0.1 + 0.45 * share)
        x, y = self.x(column), self.y(row)
        style = "narrow" if self.width < 40 else "tick"
        shown = _few_digits(count) if count else ""
        return (
            f'<g class="cell"><title>{escape(meaning)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{self.width:.1f}" '
            f'height="{self.side:.1f}" style="fill:{fill};fill-opacity:{opacity:.3f}"/>'
            f"{text_at(x + self.width / 2, y + self.side / 2 + 4.5, shown, 'middle', style)}</g>"
        )


def _pairs(name: str, split: SplitEvaluation) -> Chart | None:
    """Bars, the most frequent pair first; None when no class was taken for another."""
    names = [c.name for c in split.per_class]
    end = len(names)
    pairs = split.confused()
    if not pairs:
        return None
    shown = pairs[:PAIRS]
    labels = [f"{_short(names[row])} → {_short(names[column])}" for row, column, _ in shown]
    left, right, line = LETTER * max(map(len, labels)) + 12, 44.0, 23.0
    parts = []
    for place, ((row, column, count), label) in enumerate(zip(shown, labels, strict=True)):
        y, width = place * line, max((WIDTH - left - right) * count / shown[0][2], 1)
        meaning = _meaning(names, row, column, count, split.per_class[row].truths)
        parts.append(text_at(left - 8, y + line / 2 + 4.5, label, "end"))
        parts.append(
            f'<rect class="bar" x="{left:.1f}" y="{y + 3:.1f}" width="{width:.1f}" height="{line - 6:.1f}" '
            f'style="fill:{WRONG}"><title>{escape(meaning)}</title></rect>'
        )
        parts.append(text_at(left + width + 6, y + line / 2 + 4.5, _few_digits(count), "start"))
    missed = sum(count for row, column, count in split.confusion if column == end)
    alarms = sum(count for row, column, count in split.confusion if row == end)
    note = (
        f"{len(shown)} of {len(pairs)} pairs, what is there → what it was taken for, at IoU 0.5 and score "
        f"{split.threshold:.2f}. {missed} of {split.truths} objects were missed, {alarms} detections had no object."
    )
    title = f"Classes confused most, {name}"
    return Chart(title, svg(title, parts, len(shown) * line), (), note)


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def _few_digits(count: int) -> str:
    """At most four letters."""
    if count < 1000:
        return str(count)
    return f"{count / 1000:.1f}k" if count < 9950 else f"{count / 1000:.0f}k"
