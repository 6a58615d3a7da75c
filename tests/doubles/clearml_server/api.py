"""One request to the API: fault, authorization, schema, action, answer."""

from __future__ import annotations

import json
import re
import threading
import traceback
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from . import accounts, events, models, projects, queues, search, task_parts, task_status, tasks
from .faults import Faults
from .schemas import Schemas
from .store import Action, Body, Record, Refused, Store, new_id
from .tokens import API_VERSION, Tokens

PARTS = (search, accounts, projects, tasks, task_status, task_parts, models, queues, events)
ACTIONS: dict[str, Action] = {name: act for part in PARTS for name, act in part.ACTIONS.items()}
ABSENT_BY_DESIGN = ("workers.get_runtime_properties",)  # the agent asks for it, and the real server answers 404 too


@dataclass
class Request:
    method: str
    path: str
    authorization: str
    content: bytes
    from_the_test: bool = False  # faults do not befall it, and it is not counted

    @property
    def name(self) -> str:
        return urlsplit(self.path).path.strip("/").rpartition("/")[2]

    @property
    def version(self) -> str:
        found = re.match(r"/v(\d+\.\d+)/", self.path)
        return found[1] if found else API_VERSION


@dataclass
class Answer:
    status: int
    content: bytes


class Cut(Exception):
    """The connection is to be closed without an answer."""


class Api:
    """Holds what the server knows; answers requests from several threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.schemas = Schemas()
        self.faults = Faults()
        self.tokens = Tokens()
        self.reset()

    def reset(self) -> None:
        """A server that has seen nothing yet; tokens stay valid."""
        with self.lock:
            self.faults.clear()
            self.store = Store()
            self.violations: list[str] = []
            self.counts: Counter[str] = Counter()

    def state(self) -> Record:
        with self.lock:
            events = {id_: list(of_one.values()) for id_, of_one in self.store.events.items()}
            whole = {**self.store.records, "events": events, "counts": self.counts}
            state: Record = json.loads(json.dumps(whole))
            return state

    def answer(self, request: Request) -> Answer:
        """Raises Cut when a fault says so."""
        code, subcode, message, data = 200, 0, "OK", {}
        try:
            data = self._executed(request)
        except Refused as refusal:
            code, subcode, message = refusal.code, refusal.subcode, refusal.message
        except Cut:
            raise
        except Exception as bug:
            code, subcode, message = 500, 100, f"Internal server error: {bug!r}"
            self._violation(f"{request.name}: {traceback.format_exc()[-800:]}")
        if code == 404 and request.name not in ABSENT_BY_DESIGN:
            self._violation(f"unknown endpoint {request.method} {request.path}")
        meta = {
            "id": new_id(),
            "trx": new_id(),
            "endpoint": {"name": request.name, "requested_version": request.version, "actual_version": "1.0"},
            "result_code": code,
            "result_subcode": subcode,
            "result_msg": message,
            "error_stack": None,
            "error_data": {},
        }
        return Answer(code, json.dumps({"meta": meta, "data": data}).encode())

    def _executed(self, request: Request) -> Record:
        fault = None
        if not request.from_the_test:
            with self.lock:
                self.counts[request.name] += 1
            fault = self.faults.take(request.name)
        if fault:
            fault.wait()
            if fault.cut == "before":
                raise Cut
            if fault.status:
                raise Refused(fault.status, 0, "injected fault")
        data = self._asked(request)
        if fault and fault.cut:
            raise Cut
        return data

    def _asked(self, request: Request) -> Record:
        if not re.fullmatch(r"/(v\d+\.\d+/)?\w+\.\w+", urlsplit(request.path).path):
            raise Refused(404, 0, f"Unable to find endpoint for path {request.path}")
        name = request.name
        if name != "auth.login" and name not in ACTIONS:
            raise Refused(404, 0, f"Unable to find endpoint for name {name}")
        self.tokens.authorize(request.authorization, name)
        body = _body(request)
        if name != "events.add_batch":
            self._check(request, body)
        with self.lock:
            if name == "auth.login":
                lifetime = body.get("expiration_sec")
                return {"token": self.tokens.issue(int(lifetime) if lifetime else None)}
            return ACTIONS[name](self.store, body)

    def _check(self, request: Request, body: Body) -> None:
        mistakes = self.schemas.mistakes(request.name, body)
        for mistake in mistakes:
            self._violation(f"{request.name} v{request.version}: {mistake}")
        if mistakes:
            raise Refused(400, 12, f"Validation error ({mistakes[0]})")

    def _violation(self, text: str) -> None:
        with self.lock:
            self.violations.append(text)


def _body(request: Request) -> Body:
    try:
        if request.name == "events.add_batch":
            rows = [json.loads(line) for line in request.content.decode().splitlines() if line.strip()]
            if not rows:
                raise Refused(400, 3, "batch request with no rows")
            return Body(batch=rows)
        given: Any = json.loads(request.content) if request.content else {}
    except ValueError as mistake:
        raise Refused(400, 12, f"the body is not JSON: {mistake}") from None
    if not isinstance(given, dict):
        raise Refused(400, 12, "body must be an object")
    in_address = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
    return Body(given, **in_address)
