"""`get_all`: which records a request means, in which order, and which of their fields."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from .store import Action, Body, Record, Store, new_id

# Fields of a request that steer the search and are not compared with the records.
# fmt: off
STEERING = {
    "only_fields", "order_by", "page", "page_size", "search_hidden", "method", "scroll_id", "refresh_scroll",
    "size", "shallow_search", "include_stats", "allow_public", "check_own_contents", "search_text", "_all_",
    "_any_", "filters", "stats_for_state", "non_public", "include_dataset_stats", "include_stats_filter",
    "stats_with_children", "include_subprojects", "active_users", "permission_roots_only", "exclude_root",
    "range", "children_type", "max_task_entries",
}
# fmt: on


def get_all(kind: str, plural: str) -> Action:
    def search(store: Store, body: Body) -> Record:
        rows = _ordered([row for row in store.all(kind) if _fits(row, body)], body.get("order_by") or [])
        found: Record = {}
        if "size" in body or "scroll_id" in body:
            found["scroll_id"] = body.get("scroll_id") or new_id()
            start, size = store.scrolls.get(found["scroll_id"], 0), body.get("size") or 500
            store.scrolls[found["scroll_id"]] = start + size
            rows = rows[start : start + size]
        elif body.get("page_size"):
            rows = rows[(body.get("page") or 0) * body["page_size"] :][: body["page_size"]]
        return {plural: [_chosen_fields(row, body.get("only_fields")) for row in rows], **found}

    return search


ACTIONS: dict[str, Action] = {
    f"{kind}s.{name}": get_all(kind, f"{kind}s")
    for kind in ("project", "task", "model", "queue")
    for name in ("get_all", "get_all_ex")
}


def _fits(row: Record, body: Mapping[str, Any]) -> bool:
    plain = {name: value for name, value in body.items() if name not in STEERING and value is not None}
    return (
        all(_field_fits(row, name, value) for name, value in plain.items())
        and _pattern_fits(row, body.get("_all_"), all)
        and _pattern_fits(row, body.get("_any_"), any)
        and all(_filter_fits(row, name, wanted) for name, wanted in (body.get("filters") or {}).items())
    )


def _field_fits(row: Record, name: str, wanted: Any) -> bool:
    have = _dotted(row, name.replace("__", "."))
    if name == "id":
        return have in _listed(wanted)
    if name in ("name", "basename", "comment") and isinstance(wanted, str):
        return re.search(wanted, have or "") is not None
    if name in ("tags", "system_tags"):
        return _list_fits(have, wanted)
    if name == "project":
        return not wanted or have in _listed(wanted)
    if isinstance(wanted, list):
        return not wanted or _list_fits(_listed(have), wanted)
    return bool(have == wanted)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _list_fits(have: Sequence[Any] | None, wanted: Sequence[Any]) -> bool:
    """A plain list means any of; "-x" and what follows "__$not" exclude; "__$all" and "__$and" mean all of."""
    present, together, excluded_next = set(have or []), any, False
    included, excluded = [], []
    for want in wanted:
        if want in ("__$all", "__$and"):
            together = all
        elif want in ("__$any", "__$or"):
            together = any
        elif want == "__$not":
            excluded_next = True
        elif excluded_next:
            excluded.append(want)
            excluded_next = False
        elif isinstance(want, str) and want.startswith("-"):
            excluded.append(want[1:])
        else:
            included.append(want)
    if present.intersection(excluded):
        return False
    return not included or together(want in present for want in included)


def _pattern_fits(row: Record, search: Mapping[str, Any] | None, together: Any) -> bool:
    if not search:
        return True
    texts = [str(_dotted(row, name) or "") for name in search["fields"]]
    return bool(together(re.search(search["pattern"], text) for text in texts))


def _filter_fits(row: Record, name: str, wanted: Mapping[str, Any]) -> bool:
    if name not in ("tags", "system_tags"):
        return True
    have, every, some = set(row.get(name) or []), wanted.get("all") or {}, wanted.get("any") or {}
    if not have.issuperset(every.get("include") or []) or have.intersection(every.get("exclude") or []):
        return False
    return not some.get("include") or bool(have.intersection(some["include"]))


def _ordered(rows: list[Record], order: Sequence[str]) -> list[Record]:
    """Rows without the field come last in both directions, as on the real server."""
    for name in reversed(order):
        path = name.lstrip("-")
        with_value = [row for row in rows if _dotted(row, path) is not None]
        without = [row for row in rows if _dotted(row, path) is None]
        with_value.sort(key=lambda row: _sortable(_dotted(row, path)), reverse=name.startswith("-"))
        rows = with_value + without
    return rows


def _sortable(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


def _dotted(record: Any, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(record, dict):
            return None
        record = record.get(part)
    return record


def _chosen_fields(row: Record, only: Sequence[str] | None) -> Record:
    if not only:
        return deepcopy(row)
    chosen: Record = {"id": row["id"]}
    for path in only:
        *parents, last = path.split(".")
        value = _dotted(row, path)
        if value is None:
            # The real server returns the empty parent of a dotted field.
            if parents and isinstance(row.get(parents[0]), dict):
                chosen.setdefault(parents[0], {})
            continue
        place = chosen
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = deepcopy(value)
    return chosen
