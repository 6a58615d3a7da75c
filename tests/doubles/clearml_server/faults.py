"""Failures on demand, by action.

Names: an action ("events.add_batch"), "*" for every action of the API, "files.upload", "files.download",
"files.delete", and "files.*" for all of the file server. The most exact name counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..fault_set import Fault as AnyFault
from ..fault_set import FaultSet


@dataclass
class Fault(AnyFault):
    """hang_s: wait so long, or until the fault is cleared; then status: answer so; cut: close the connection without
    an answer, "before" or "after" the action was executed; with neither, do what was asked."""

    action: str
    status: int | None = None
    hang_s: float = 0.0
    cut: str = ""

    def __post_init__(self) -> None:
        if self.cut not in ("", "before", "after"):
            raise ValueError(f"cut is 'before' or 'after' the action, not {self.cut!r}")
        if not (self.status or self.hang_s or self.cut):
            raise ValueError(f"the fault for {self.action} names neither a status, nor hang_s, nor cut")

    @property
    def key(self) -> str:
        return self.action

    def wait(self) -> None:
        if self.hang_s:
            self.released.wait(self.hang_s)


class Faults(FaultSet[Fault]):
    def __init__(self) -> None:
        super().__init__(Fault)

    def take(self, action: str) -> Fault | None:
        """The fault that befalls this request, counted."""
        return self.first((action, "files.*" if action.startswith("files.") else "*"))

    def listed(self) -> list[dict[str, Any]]:
        return [{name: value for name, value in vars(fault).items() if name != "released"} for fault in self.all()]
