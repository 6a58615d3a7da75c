"""Failures on demand. Each has a name, a value and a number of times; they may be set and cleared at any moment."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

NAMES = {
    "slow": "each answer comes so many seconds late",
    "hang": "requests of this kind (export, request, download, frame, login, other, any) get no answer until cleared",
    "http500": "requests of this kind get 500",
    "http503": "requests of this kind get 503 with Retry-After",
    "http429": "requests of this kind get 429 with Retry-After",
    "drop": "the connection is cut after so many bytes of an archive",
    "stall": "an archive stops after 100 bytes, for so many seconds",
    "trickle": "so many seconds between two pieces of 512 bytes of an archive",
    "fail_request": "exports fail with this message",
    "never_finish": "exports stay where they are",
    "too_big": "exports of whole tasks with images fail, as those do that the server's time limit ends",
    "expired": "a finished export is gone when it is fetched",
    "expire_auth": "after so many more requests no credentials are valid any more",
    "corrupt_zip": "archives are damaged in the middle and at the end",
    "zip_slip": "archives hold members outside of themselves",
    "zip_symlink": "archives hold a link to /etc/passwd",
    "zip_bomb": "archives hold a member of so many MiB of nothing",
    "truncated_jpeg": "the picture of this frame ends in the middle",
    "bad_filename": "the archive is called ../../evil.zip",
    "html": "a page of a proxy instead of JSON for requests of this kind",
    "no_cookies": "logging in gives a token and no session",
    "redirect": "archives are to be fetched at this other address",
    "missing_frame": "the archive lacks the picture of this frame",
}


@dataclass
class Fault:
    name: str
    value: Any = 1
    times: int = -1  # -1: until cleared
    hits: int = 0
    released: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"no fault is called {self.name!r}; there are {', '.join(NAMES)}")


class Faults:
    """The faults that are set. One a name: a new one takes the place of the old."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set: dict[str, Fault] = {}

    def add(self, **what: Any) -> None:
        fault = Fault(**what)
        with self._lock:
            old = self._set.pop(fault.name, None)
            self._set[fault.name] = fault
        if old:
            old.released.set()

    def clear(self) -> None:
        with self._lock:
            old, self._set = self._set, {}
        for fault in old.values():
            fault.released.set()

    def take(self, name: str, kind: str | None = None) -> Fault | None:
        """The fault when it befalls this, counted. kind: it must be of this kind, or of any."""
        with self._lock:
            fault = self._set.get(name)
            if fault is None or fault.times == 0 or (kind is not None and fault.value not in (kind, "any")):
                return None
            fault.times -= fault.times > 0
            fault.hits += 1
            return fault

    def countdown(self, name: str) -> bool:
        """True once the fault has been passed by as often as its value says."""
        with self._lock:
            fault = self._set.get(name)
            if fault is None:
                return False
            fault.hits += 1
            return fault.hits > int(fault.value)

    def hits(self) -> dict[str, int]:
        with self._lock:
            return {fault.name: fault.hits for fault in self._set.values()}
