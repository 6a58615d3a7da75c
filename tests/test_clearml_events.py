"""Events of a ClearML task."""

from __future__ import annotations

import json
import warnings
from typing import Any

import jsonschema
import pytest

from detloom_integrations.clearml import events
from detloom_integrations.clearml.logger import final_values

NAN, INF = float("nan"), float("inf")


def sdk_schema(kind: str) -> dict[str, Any]:
    """What the SDK itself says an event of this type holds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from clearml.backend_api.services.v2_23 import events as api
    names = {
        "training_stats_scalar": api.MetricsScalarEvent,
        "plot": api.MetricsPlotEvent,
        "training_debug_image": api.MetricsImageEvent,
        "log": api.TaskLogEvent,
    }
    levels = [level.value for level in api.LogLevelEnum]
    return {**names[kind]._schema, "definitions": {"log_level_enum": {"enum": levels}}}


@pytest.mark.parametrize(
    ("name", "title", "series"),
    [
        ("train/loss", "train", "loss"),
        ("val/AP", "val", "AP"),
        ("val/AP50", "val", "AP50"),
        ("best/val/AP", "best/val", "AP"),
        ("val/AP/RBC", "val/AP", "RBC"),
        ("val/AP/cat/dog", "val/AP", "cat/dog"),
        ("best/val/AP/RBC", "best/val/AP", "RBC"),
        ("val/PR at IoU 0.5", "val", "PR at IoU 0.5"),
        ("lr", "lr", "lr"),
    ],
)
def test_a_name_has_a_title_and_a_series_that_do_not_change(name: str, title: str, series: str) -> None:
    assert events.title_and_series(name) == (title, series)


def test_every_kind_of_event_is_what_the_sdk_would_send() -> None:
    made = [
        *events.scalars({"train/loss": 0.5, "train/lr": NAN}, 3, 1.5),
        *events.single_values({"best/val/AP": 0.5}, 1.5),
        *events.plot("val/PR", {"RBC": [(0.0, 1.0)]}, 3, 1.5),
        *events.table("val/classes", ["class"], [["RBC"]], 3, 1.5),
        events.debug_image("val/a.jpg", "http://files/a%20b.jpg", 3, 1.5),
    ]
    assert {event["type"] for event in made} == {"training_stats_scalar", "log", "plot", "training_debug_image"}
    for event in made:
        schema = sdk_schema(event["type"])
        assert set(event) <= set(schema["properties"]) | {"worker"}
        jsonschema.validate({**event, "task": "t"}, schema)


def test_a_scalar_keeps_its_absolute_step_and_its_time() -> None:
    [event] = events.scalars({"train/loss": 0.25}, 1234, 1700000000.5)
    assert (event["iter"], event["value"], event["timestamp"]) == (1234, 0.25, 1700000000500)


def test_a_number_that_is_not_finite_is_said_and_not_drawn() -> None:
    made = events.scalars({"a/x": NAN, "a/y": 1.0, "a/z": -INF}, 7, 0.0)
    assert [event["variant"] for event in made if event["type"] == "training_stats_scalar"] == ["y"]
    [line] = [event for event in made if event["type"] == "log"]
    assert line["level"] == "warning"
    assert "step 7: a/x is nan, a/z is -inf" in line["msg"]


def test_every_event_is_json_that_a_strict_parser_takes() -> None:
    made = [
        *events.scalars({"a/x": NAN}, 7, 0.0),
        *events.single_values({"a": INF, "b": 1.0}, 0.0),
        *events.plot("p/q", {"s": [(0.0, NAN), (INF, 1.0)]}, 7, 0.0),
        *events.table("t/u", ["a", "b"], [[NAN, None]], 7, 0.0),
    ]
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_a_single_value_has_the_iteration_that_makes_it_one() -> None:
    [event] = events.single_values({"best/val/AP": 0.5, "best/val/APs": NAN}, 0.0)
    assert (event["metric"], event["variant"], event["iter"]) == ("Summary", "best/val/AP", -2147483648)


def test_a_curve_has_a_gap_where_a_point_is_not_finite() -> None:
    [event] = events.plot("val/PR", {"RBC": [(0.0, 1.0), (0.5, NAN)], "WBC": [(0.0, 0.25)]}, 3, 0.0)
    figure = json.loads(event["plot_str"])
    assert [(curve["name"], curve["x"], curve["y"]) for curve in figure["data"]] == [
        ("RBC", [0.0, 0.5], [1.0, None]),
        ("WBC", [0.0], [0.25]),
    ]
    assert figure["layout"]["title"] == "val/PR"


def test_a_table_is_sent_by_columns_with_readable_cells() -> None:
    rows: list[list[object]] = [["RBC", 0.123456, 7, None], ["WBC", True]]
    [event] = events.table("val/classes", ["class", "AP", "objects", "threshold"], rows, 3, 0.0)
    [body] = json.loads(event["plot_str"])["data"]
    assert body["header"]["values"] == ["class", "AP", "objects", "threshold"]
    assert body["cells"]["values"] == [["RBC", "WBC"], ["0.1235", "True"], [7, ""], ["", ""]]


def test_a_picture_is_known_by_its_address_and_its_path() -> None:
    event = events.debug_image("val/a.jpg", "http://files:8081/p/a%20b.jpg", 3, 0.0)
    assert (event["metric"], event["variant"], event["key"]) == ("val", "a.jpg", "/p/a%20b.jpg")


def test_the_summary_takes_the_best_weights_or_else_the_last_validation() -> None:
    latest = {"train/loss": 1.0, "val/AP": 0.4, "val/AP/RBC": 0.4}
    assert final_values(latest) == {"val/AP": 0.4}
    assert final_values({**latest, "best/val/AP": 0.5, "best/val/AP/RBC": 0.5, "test/AP": 0.3}) == {
        "best/val/AP": 0.5,
        "test/AP": 0.3,
    }
