"""Charts of the report: lines, bars, axes, and which classes are taken for which."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import run_folders
from detloom.report.charts import Axis, Mark, Series, bar_chart, line_chart, nice_ticks, number, thinned
from detloom.report.confusion import confusion_chart
from detloom_schemas.run_files import SplitEvaluation
from report_tools import Page, report

# Charts


def coordinates(svg: str) -> list[tuple[float, float]]:
    path = svg.split('class="line" d="')[1].split('"', maxsplit=1)[0]
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_a_line_goes_where_its_values_are() -> None:
    svg = line_chart("t", [Series("a", [(0, 0), (5, 0.5), (10, 1)])], Axis(low=0, high=10), Axis(low=0, high=1))
    (x0, y0), (x1, y1), (x2, y2) = coordinates(svg)
    assert (x1, y1) == (pytest.approx((x0 + x2) / 2), pytest.approx((y0 + y2) / 2))
    assert x0 < x2
    assert y0 > y2, "up is more"


@pytest.mark.parametrize(
    "points",
    [
        [(0, 1.0)],
        [(0, 2.0), (1, 2.0)],
        [(3, 0.0), (3, 0.0)],
        [(0, -5e9), (1, 5e9)],
        [(0, math.inf), (1, 1.0), (2, math.nan)],
    ],
)
def test_odd_values_give_a_chart(points: list[tuple[float, float]]) -> None:
    svg = line_chart("t", [Series("a", points)], Axis("x"), Axis(), Mark(points[0][0], 1.0, "here"))
    Page(f"<p>{svg}</p>")
    assert "nan" not in svg
    assert "inf" not in svg


@pytest.mark.parametrize("make", [lambda: line_chart("t", [], Axis(), Axis()), lambda: bar_chart("t", [], "x")])
def test_nothing_to_show_gives_no_chart(make: Callable[[], str]) -> None:
    assert make() == ""
    assert line_chart("t", [Series("a", [(0, math.nan)])], Axis(), Axis()) == ""


def test_first_steps_far_above_the_rest_do_not_flatten_a_loss() -> None:
    points = [(0.0, 5000.0), *((float(i), 5.0 - i / 100) for i in range(1, 200))]
    ys = [y for _, y in coordinates(line_chart("t", [Series("a", points)], Axis(), Axis()))]
    assert max(ys[1:]) - min(ys[1:]) > 100, "the rest takes most of the height"


def test_many_points_are_thinned_to_means_and_the_last_is_kept() -> None:
    points = [(float(i), float(i % 2)) for i in range(10_001)]
    fewer = thinned(points)
    assert len(fewer) <= 300
    assert fewer[-1] == points[-1]
    assert all(0.4 < y < 0.6 for _, y in fewer[:-1])
    assert thinned(points[:300]) == points[:300]


def test_marks_on_axes_are_round_numbers_inside_the_limits() -> None:
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(0.5, 3, whole=True) == [1, 2, 3]
    for low, high in ((0, 1e-6), (-3, 17), (0.1234, 0.1239), (0, 34_000)):
        ticks = nice_ticks(low, high)
        assert 2 <= len(ticks) <= 9
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0, 3.0, 0.25, 1.2e-5, 8e-4, 12345, -0.5)] == [
        "0", "3", "0.25", "1.2e-5", "8e-4", "12.35k", "-0.5",
    ]  # fmt: skip


def test_bars_are_as_high_as_their_values() -> None:
    svg = bar_chart("t", [("a", 10), ("b", 20), ("c<", 0)], "x")
    heights = [float(h) for h in re.findall(r'class="bar"[^>]*height="([\d.]+)"', svg)]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    assert heights[2] == 0
    assert "c&lt;: 0" in svg


# Confusion


def confused(classes: int, cells: list[tuple[int, int, int]]) -> SplitEvaluation:
    per_class = [{"index": i, "id": i, "name": f"class {i}", "truths": 100} for i in range(classes)]
    values = {"per_class": per_class, "confusion": cells, "truths": 100 * classes, "threshold": 0.42}
    return SplitEvaluation.model_validate(values)


def drawn_cells(svg: str) -> dict[str, tuple[float, float, str, float, str]]:
    """What the pointer is told -> x, y, colour, opacity, number."""
    cell = re.compile(
        r'<g class="cell"><title>([^<]*)</title><rect x="([\d.]+)" y="([\d.]+)" [^>]*style="fill:([^;]*);'
        r'fill-opacity:([\d.]+)"/>(?:<text[^>]*>([^<]*)</text>)?</g>'
    )
    return {m[1]: (float(m[2]), float(m[3]), m[4], float(m[5]), m[6] or "") for m in cell.finditer(svg)}


def test_each_count_stands_in_the_row_of_its_truth_and_the_column_of_its_prediction() -> None:
    chart = confusion_chart("val", confused(2, [(0, 0, 90), (0, 1, 4), (0, 2, 6), (1, 1, 1234), (2, 0, 3), (2, 1, 1)]))
    assert chart is not None and chart.title == "Confusion matrix, val" and "score 0.42" in chart.note
    Page(f"<p>{chart.svg}</p>")
    cells = drawn_cells(chart.svg)
    assert {title: cell[4] for title, cell in cells.items()} == {
        "class 0 found: 90 of 100 (90%)": "90",
        "class 0 taken for class 1: 4 of 100 (4%)": "4",
        "class 0 missed: 6 of 100 (6%)": "6",
        "class 1 taken for class 0: 0 of 1234 (0%)": "",
        "class 1 found: 1234 of 1234 (100%)": "1.2k",
        "class 1 missed: 0 of 1234 (0%)": "",
        "class 0 where nothing is: 3 of 4 (75%) such detections": "3",
        "class 1 where nothing is: 1 of 4 (25%) such detections": "1",
    }
    placed = list(cells.values())
    assert len({y for _, y, *_ in placed}) == 3 and len({x for x, *_ in placed}) == 3
    assert placed[0][0] < placed[1][0] < placed[2][0] and placed[0][1] == placed[1][1] == placed[2][1]
    assert placed[0][0] == placed[3][0] == placed[6][0] and placed[0][1] < placed[3][1] < placed[6][1]
    right, wrong = placed[0], placed[1]
    assert right[2] == "var(--c0)" and wrong[2] == "var(--c1)" and right[3] > wrong[3] > 0.1


def test_long_names_and_twelve_classes_stay_inside_the_picture() -> None:
    split = confused(12, [(i, i, 5 * i + 1) for i in range(12)])
    named = [c.model_copy(update={"name": "a very long class name & more"}) for c in split.per_class]
    chart = confusion_chart("val", split.model_copy(update={"per_class": tuple(named)}))
    assert chart is not None
    width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', chart.svg)[0])
    for x, y, w, h in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', chart.svg):
        assert float(x) + float(w) <= width + 0.1 and float(y) + float(h) <= height + 0.5
    assert chart.svg.count(">a very long cl…</text>") == 24
    assert "a very long class name &amp; more found: 1 of 1 (100%)" in chart.svg


def test_of_many_classes_the_pairs_that_are_confused_most_are_bars() -> None:
    cells = [(i, i, 50) for i in range(80)] + [(i, (i + 1) % 80, i) for i in range(1, 80)] + [(0, 80, 7), (80, 3, 9)]
    chart = confusion_chart("val", confused(80, cells))
    assert chart is not None and chart.title == "Classes confused most, val"
    Page(f"<p>{chart.svg}</p>")
    tips = re.findall(r"<title>([^<]*)</title>", chart.svg)
    assert len(tips) == 15 and tips[0] == "class 79 taken for class 0: 79 of 100 (79%)"
    widths = [float(w) for w in re.findall(r'class="bar"[^>]*width="([\d.]+)"', chart.svg)]
    assert widths == sorted(widths, reverse=True) and widths[14] == pytest.approx(widths[0] * 65 / 79, abs=0.2)
    assert "class 79 → class 0" in chart.svg
    assert "15 of 79 pairs" in chart.note and "7 of 8000 objects were missed, 9 detections had no object" in chart.note


def test_without_anything_to_confuse_there_is_no_chart(tmp_path: Path) -> None:
    assert confusion_chart("val", confused(3, [])) is None
    assert confusion_chart("val", confused(40, [(i, i, 5) for i in range(40)])) is None
    folder = run_folders.whole_run(tmp_path)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    for split in evaluation["splits"].values():
        del split["confusion"]
    run_folders.write(folder / "evaluation.json", evaluation)
    page = report(folder)
    assert "Confusion" not in page.shown and "Precision over recall" in page.shown
