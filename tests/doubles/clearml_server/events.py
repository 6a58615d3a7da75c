"""events: what tasks report."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from .store import Action, Body, Record, Refused, Store, new_id, now

NEEDED = {
    "log": ("msg",),
    "training_stats_scalar": ("metric", "variant", "value"),
    "plot": ("metric", "variant", "plot_str"),
    "training_debug_image": ("metric", "variant", "url"),
}
SINGLE_VALUE = -(2**31)  # the iteration of a scalar that is reported once
SAME_EVENT = ("task", "iter", "metric", "variant", "key")  # with equal values the later event replaces the earlier
NOT_COUNTED = (":monitor:machine", ":monitor:gpu")  # metrics whose iterations are not the task's


def check(event: Record) -> None:
    kind = event.get("type")
    if kind not in NEEDED:
        raise Refused(400, 12, f"unknown event type {kind!r}")
    missing = [name for name in (*NEEDED[kind], "task") if event.get(name) is None]
    if missing:
        raise Refused(400, 12, f"event {kind} lacks {missing}: {str(event)[:300]}")
    if kind == "training_stats_scalar" and not isinstance(event["value"], int | float):
        raise Refused(400, 12, f"scalar value must be a number: {event}")
    if kind == "plot":
        try:
            json.loads(event["plot_str"])
        except ValueError as mistake:
            raise Refused(400, 12, f"plot_str is not JSON: {mistake}") from None


def add_all(store: Store, given: Sequence[Record]) -> Record:
    """Malformed events are refused with all that came with them; of the others, those whose task takes none are left
    out and told of."""
    events = [{name: value for name, value in event.items() if name != "method"} for event in given]
    locks: dict[str, bool] = {}
    for event in events:
        check(event)
        locked = bool(event.pop("allow_locked", False))
        if locks.setdefault(event["task"], locked) != locked:
            raise Refused(400, 12, f"Inconsistent allow_locked setting in the passed events for {event['task']}")
    mistakes: Counter[str] = Counter()
    for event in events:
        owner = _owner(store, event, locks[event["task"]])
        if owner is None:
            mistakes[f"Invalid {'model' if event.get('model_event') else 'task'} id {event['task']}"] += 1
        else:
            _keep(store, owner, event)
    added = len(events) - mistakes.total()
    if not added:
        raise Refused(400, 131, f"Events not added: {dict(mistakes)}")
    return {"added": added, "errors": mistakes.total(), "errors_info": dict(mistakes)}


def _owner(store: Store, event: Record, allow_locked: bool) -> Record | None:
    """The task or model; None when there is none, or when it is published and takes no more events."""
    kind = "model" if event.get("model_event") else "task"
    owner = store.records[kind].get(event["task"])
    if owner is None:
        return None
    locked = owner["ready"] if kind == "model" else owner["status"] == "published"
    return None if locked and not allow_locked else owner


def _keep(store: Store, owner: Record, event: Record) -> None:
    event.setdefault("timestamp", int(time.time() * 1000))
    iteration = event.get("iter")
    if isinstance(iteration, int) and event.get("metric") not in NOT_COUNTED:
        owner["last_iteration"] = max(owner["last_iteration"], iteration)
    if event["type"] == "training_stats_scalar":
        _summarize(owner["last_metrics"], event)
    owner["last_update"] = now()
    same = "-".join(str(event[name]) for name in SAME_EVENT if name in event)
    key = new_id() if event["type"] == "log" else f"{event['type']}-{same}"
    store.events.setdefault(event["task"], {})[key] = event


def _summarize(metrics: Record, event: Record) -> None:
    """Last, least, greatest and mean value of the curve, under the MD5 sums of its names."""
    value, iteration = event["value"], event.get("iter") or 0
    first = {"metric": event["metric"], "variant": event["variant"], "count": 0, "mean_value": 0.0}
    for name in ("first", "min", "max"):
        first |= {f"{name}_value": value, f"{name}_value_iteration": iteration}
    curve = metrics.setdefault(_md5(event["metric"]), {}).setdefault(_md5(event["variant"]), first)
    curve["value"] = value
    curve["mean_value"] = (curve["mean_value"] * curve["count"] + value) / (curve["count"] + 1)
    curve["count"] += 1
    if value < curve["min_value"]:
        curve.update(min_value=value, min_value_iteration=iteration)
    if value > curve["max_value"]:
        curve.update(max_value=value, max_value_iteration=iteration)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def add(store: Store, body: Body) -> Record:
    return add_all(store, [body])


def add_batch(store: Store, body: Body) -> Record:
    return add_all(store, body["batch"])


def of_type(store: Store, task: str, kind: str) -> list[Record]:
    return [event for event in store.events.get(task, {}).values() if event["type"] == kind]


def scalar_curves(store: Store, body: Body) -> Record:
    curves: Record = {}
    for event in of_type(store, body["task"], "training_stats_scalar"):
        fresh: Record = {"name": event["variant"], "x": [], "y": []}
        curve = curves.setdefault(event["metric"], {}).setdefault(event["variant"], fresh)
        curve["x"].append(event.get("iter", 0))
        curve["y"].append(event["value"])
    return curves


def single_values(store: Store, body: Body) -> Record:
    shown = ("metric", "variant", "value", "timestamp")

    def values(task: str) -> list[Record]:
        scalars = of_type(store, task, "training_stats_scalar")
        return [{name: event[name] for name in shown} for event in scalars if event.get("iter") == SINGLE_VALUE]

    return {"tasks": [{"task": task, "values": values(task)} for task in body["tasks"]]}


def _counted(name: str, events: list[Record], **more: Any) -> Record:
    return {name: events, "returned": len(events), "total": len(events), **more}


def task_log(store: Store, body: Body) -> Record:
    return _counted("events", sorted(of_type(store, body["task"], "log"), key=lambda event: event["timestamp"]))


def task_plots(store: Store, body: Body) -> Record:
    return _counted("plots", of_type(store, body["task"], "plot"), scroll_id="x")


def task_events(store: Store, body: Body) -> Record:
    return _counted("events", of_type(store, body["task"], body.get("event_type", "log")), scroll_id=None)


def debug_images(store: Store, body: Body) -> Record:
    def iterations(task: str) -> list[Record]:
        images = of_type(store, task, "training_debug_image")
        return [{"iter": event.get("iter"), "events": [event]} for event in images]

    metrics = [{"task": asked["task"], "iterations": iterations(asked["task"])} for asked in body["metrics"]]
    return {"metrics": metrics, "scroll_id": "x"}


def task_metrics(store: Store, body: Body) -> Record:
    kind = body.get("event_type", "training_stats_scalar")

    def names(task: str) -> list[str]:
        return sorted({event["metric"] for event in of_type(store, task, kind)})

    return {"metrics": [{"task": task, "metrics": names(task)} for task in body["tasks"]]}


def latest_scalars(store: Store, body: Body) -> Record:
    def described(curves: Record) -> Record:
        variants = [
            {"name": curve["variant"], "last_value": curve["value"], "last_100_value": curve["value"]}
            for curve in curves.values()
        ]
        return {"name": next(iter(curves.values()))["metric"], "variants": variants}

    return {"metrics": [described(curves) for curves in store.get("task", body["task"])["last_metrics"].values()]}


ACTIONS: dict[str, Action] = {
    "events.add": add,
    "events.add_batch": add_batch,
    "events.scalar_metrics_iter_histogram": scalar_curves,
    "events.get_task_single_value_metrics": single_values,
    "events.get_task_log": task_log,
    "events.get_task_plots": task_plots,
    "events.get_task_events": task_events,
    "events.debug_images": debug_images,
    "events.get_task_metrics": task_metrics,
    "events.get_task_latest_scalar_values": latest_scalars,
}
