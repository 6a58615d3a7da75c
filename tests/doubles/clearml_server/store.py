"""What the server remembers: records by kind, and events by task."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

Record = dict[str, Any]
COMPANY = "c" * 32
USER = "__tests__"


class Refused(Exception):
    """The server answers `code` (HTTP), `subcode` (ClearML's own number of the mistake) and a sentence."""

    def __init__(self, code: int, subcode: int, message: str):
        super().__init__(message)
        self.code = code
        self.subcode = subcode
        self.message = message


class Body(dict[str, Any]):
    """The body of a request. A field that is needed and absent is the client's mistake."""

    def __missing__(self, field: str) -> Any:
        raise Refused(400, 12, f"Validation error (missing required field '{field}')")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def new_id() -> str:
    return uuid.uuid4().hex


class Store:
    """Projects, tasks, models, queues and workers by id; events by task id."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Record]] = {
            kind: {} for kind in ("project", "task", "model", "queue", "worker")
        }
        self.events: dict[str, dict[str, Record]] = {}  # by task or model, and by what makes an event the same event
        self.scrolls: dict[str, int] = {}
        self.new("queue", name="default", entries=[], tags=[], system_tags=["default"])

    def new(self, kind: str, **fields: Any) -> Record:
        created = now()
        record = {
            "id": new_id(),
            "company": COMPANY,
            "user": USER,
            "created": created,
            "last_update": created,
            **fields,
        }
        self.records[kind][record["id"]] = record
        return record

    def get(self, kind: str, id_: str) -> Record:
        """Raises Refused with the number that ClearML gives to an unknown id of this kind."""
        try:
            return self.records[kind][id_]
        except KeyError:
            subcode = {"task": 101, "model": 201, "project": 401, "queue": 701}[kind]
            raise Refused(400, subcode, f"Invalid {kind} id: id={id_}, company={COMPANY}") from None

    def all(self, kind: str) -> list[Record]:
        return list(self.records[kind].values())


Action = Callable[[Store, Body], Record]
