"""Charts as inline SVG: no library, no script, colours that follow the page's theme, values on hover."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 480.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 40.0
MAX_POINTS = 300
MAX_BANDS = 160
DOTS_UP_TO = 40

Point = tuple[float, float]


def number(value: float) -> str:
    """Short, for axes and values: 3, 0.25, 1.2e-05, 12k."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10_000:
        return f"{value / 1000:.4g}k"
    if size >= 1e-3:
        return f"{value:.4g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


@dataclass(frozen=True, slots=True)
class Series:
    """points: (x, y), x ascending; gaps where y is not finite. colour: CSS, such as `var(--c0)`."""

    name: str
    points: Sequence[Point]
    colour: str = "var(--c0)"


@dataclass(frozen=True, slots=True)
class Axis:
    """label: shown below the axis and with the values on hover. low, high: limits; found when None. whole: marks at
    whole numbers alone."""

    label: str = ""
    low: float | None = None
    high: float | None = None
    show: Callable[[float], str] = number
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A point that is pointed out."""

    x: float
    y: float
    text: str


def line_chart(title: str, series: Sequence[Series], x_axis: Axis, y_axis: Axis, mark: Mark | None = None) -> str:
    """SVG of lines over x; an empty string when there is no point to show."""
    kept = [Series(s.name, thinned(s.points), s.colour) for s in series if _finite(s.points)]
    if not kept:
        return ""
    points = [point for one in kept for point in _finite(one.points)]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low, x_high = _limits(x_axis, min(xs), max(xs))
    y_low, y_high = _limits(y_axis, *_robust(ys))
    scale = _Scale(x_low, x_high, y_low, y_high)
    parts = [*_frame(scale, x_axis, y_axis), *map(scale.line, kept)]
    if mark is not None:
        parts.append(scale.mark(mark))
    parts += _bands(scale, kept, x_axis, y_axis)
    return svg(title, parts)


def bar_chart(title: str, bars: Sequence[tuple[str, float]], x_label: str, colour: str = "var(--c0)") -> str:
    """SVG of upright bars; an empty string without bars."""
    if not bars or max(value for _, value in bars) <= 0:
        return ""
    scale = _Scale(0, len(bars), 0, max(value for _, value in bars) * 1.05)
    parts = _frame(scale, Axis(x_label), Axis(), x_ticks=False)
    # Letters are about 9 wide on a phone; labels that would touch are left out.
    every = math.ceil(sum(9 * len(label) + 12 for label, _ in bars) / (WIDTH - LEFT - RIGHT))
    for index, (label, value) in enumerate(bars):
        x, width = scale.x(index + 0.08), scale.x(index + 0.92) - scale.x(index + 0.08)
        y = scale.y(value)
        tip = escape(f"{label}: {number(value)}")
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{HEIGHT - BOTTOM - y:.1f}" '
            f'style="fill:{colour}"><title>{tip}</title></rect>'
        )
        if index % every == 0:
            parts.append(text_at(scale.x(index + 0.5), HEIGHT - BOTTOM + 16, label, "middle"))
    return svg(title, parts)


def thinned(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` points: means of neighbours, the last point kept as it is."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil((len(points) - 1) / (limit - 1))
    means = []
    for start in range(0, len(points) - 1, size):
        group = _finite(points[start : min(start + size, len(points) - 1)])
        if group:
            means.append((sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)))
    return [*means, points[-1]]


def nice_ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers from low to high."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step *= min(factors, key=lambda factor: abs((high - low) / (step * factor) - count))
    step = max(step, 1) if whole else step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to the coordinates of the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        # Beyond the limits a line runs along the border instead of through the page.
        return HEIGHT - BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)

    def line(self, series: Series) -> str:
        path, pen_up = [], True
        for x, y in series.points:
            if not math.isfinite(y):
                pen_up = True
                continue
            path.append(f"{'M' if pen_up else 'L'}{self.x(x):.1f} {self.y(y):.1f}")
            pen_up = False
        drawn = f'<path class="line" d="{"".join(path)}" style="stroke:{series.colour}"/>'
        if len(series.points) <= DOTS_UP_TO:
            drawn += "".join(
                f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="2.4" style="fill:{series.colour}"/>'
                for x, y in _finite(series.points)
            )
        return drawn

    def mark(self, mark: Mark) -> str:
        x, y = self.x(mark.x), self.y(mark.y)
        anchor = "end" if x > WIDTH * 0.6 else "start"
        shift = -9 if anchor == "end" else 9
        below = y < TOP + 22
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="5"/>' + text_at(
            x + shift, y + (20 if below else -9), mark.text, anchor, "mark-text"
        )


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _robust(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value; a few values far above the rest (the first steps of a loss) do not flatten it."""
    ordered = sorted(values)
    usual = ordered[int(0.97 * (len(ordered) - 1))]
    low, high = ordered[0], ordered[-1]
    return (low, usual + 0.3 * (usual - low)) if high - low > 3 * (usual - low) > 0 else (low, high)


def _limits(axis: Axis, low: float, high: float) -> tuple[float, float]:
    room = 0.05 * (high - low)
    found = 0.0 if 0 <= low <= room else low - room
    low = found if axis.low is None else axis.low
    high = high + room if axis.high is None else axis.high
    if high <= low:
        room = abs(low) * 0.5 or 1.0
        return (low if axis.low is not None else low - room), low + room
    return low, high


def _frame(scale: _Scale, x_axis: Axis, y_axis: Axis, *, x_ticks: bool = True) -> list[str]:
    parts = []
    for value in nice_ticks(scale.y_low, scale.y_high):
        y = scale.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(text_at(LEFT - 7, y + 4.5, y_axis.show(value), "end"))
    if x_ticks:
        for value in nice_ticks(scale.x_low, scale.x_high, 6, whole=x_axis.whole):
            parts.append(text_at(scale.x(value), HEIGHT - BOTTOM + 16, x_axis.show(value), "middle"))
    parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    parts.append(text_at((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_axis.label, "middle"))
    return parts


def _bands(scale: _Scale, series: Sequence[Series], x_axis: Axis, y_axis: Axis) -> list[str]:
    """Invisible columns that show the values under the pointer."""
    xs = sorted({x for one in series for x, _ in one.points})
    xs = xs[:: math.ceil(len(xs) / MAX_BANDS)]
    edges = [scale.x_low, *((a + b) / 2 for a, b in pairwise(xs)), scale.x_high]
    bands = []
    for index, x in enumerate(xs):
        left, right = scale.x(edges[index]), scale.x(edges[index + 1])
        shown = [f"{x_axis.label} {x_axis.show(x)}".strip()]
        shown += [f"{one.name}: {y_axis.show(y)}" for one in series if (y := _nearest(one, x)) is not None]
        bands.append(
            f'<rect class="band" x="{left:.1f}" y="{TOP}" width="{max(right - left, 1):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{escape(chr(10).join(shown))}</title></rect>'
        )
    return bands


def _nearest(series: Series, x: float) -> float | None:
    """The series' value at the point nearest to x, unless that one is not finite."""
    place = bisect.bisect_left(series.points, (x, -math.inf))
    around = series.points[max(place - 1, 0) : place + 1]
    value = min(around, key=lambda point: abs(point[0] - x))[1]
    return value if math.isfinite(value) else None


def text_at(x: float, y: float, text: str, anchor: str, name: str = "tick") -> str:
    """anchor: start, middle or end; name: the text's class in the style sheet."""
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>' if text else ""


def svg(title: str, parts: Sequence[str], height: float = HEIGHT) -> str:
    """The whole picture; `title` is what a screen reader says."""
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
