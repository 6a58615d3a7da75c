"""Failures on demand, by action.

Names: an action ("events.add_batch"), "*" for every action of the API, "files.upload", "files.download",
"files.delete", and "files.*" for all of the file server. The most exact name counts.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """hang_s: wait so long, or until the fault is cleared; then status: answer so; cut: close the connection without
    an answer, "before" or "after" the action was executed; with neither, do what was asked."""

    action: str
    status: int | None = None
    hang_s: float = 0.0
    cut: str = ""
    times: int = -1  # -1: until cleared
    hits: int = 0
    released: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        if self.cut not in ("", "before", "after"):
            raise ValueError(f"cut is 'before' or 'after' the action, not {self.cut!r}")
        if not (self.status or self.hang_s or self.cut):
            raise ValueError(f"the fault for {self.action} names neither a status, nor hang_s, nor cut")

    def wait(self) -> None:
        if self.hang_s:
            self.released.wait(self.hang_s)


class Faults:
    """The faults that are set. One a name: a new one takes the place of the old."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set: dict[str, Fault] = {}

    def add(self, **what: Any) -> None:
        fault = Fault(**what)
        with self._lock:
            old = self._set.pop(fault.action, None)
            self._set[fault.action] = fault
        if old:
            old.released.set()

    def clear(self) -> None:
        with self._lock:
            old, self._set = self._set, {}
        for fault in old.values():
            fault.released.set()

    def take(self, action: str) -> Fault | None:
        """The fault that befalls this request, counted."""
        everything = "files.*" if action.startswith("files.") else "*"
        with self._lock:
            for name in (action, everything):
                fault = self._set.get(name)
                if fault and fault.times != 0:
                    fault.times -= fault.times > 0
                    fault.hits += 1
                    return fault
        return None

    def listed(self) -> list[dict[str, Any]]:
        with self._lock:
            return [
                {name: value for name, value in vars(fault).items() if name != "released"}
                for fault in self._set.values()
            ]
