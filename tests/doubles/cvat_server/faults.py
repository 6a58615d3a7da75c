"""Failures on demand. Each has a name, a value and a number of times; they may be set and cleared at any moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..fault_set import Fault as AnyFault
from ..fault_set import FaultSet

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
class Fault(AnyFault):
    name: str
    value: Any = 1

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"no fault is called {self.name!r}; there are {', '.join(NAMES)}")

    @property
    def key(self) -> str:
        return self.name

    def befalls(self, kind: str | None) -> bool:
        return kind is None or self.value in (kind, "any")


class Faults(FaultSet[Fault]):
    def __init__(self) -> None:
        super().__init__(Fault)

    def take(self, name: str, kind: str | None = None) -> Fault | None:
        """The fault when it befalls this, counted. kind: it must be of this kind, or of any."""
        return self.first((name,), kind)

    def countdown(self, name: str) -> bool:
        """True once the fault has been passed by as often as its value says."""
        with self._lock:
            fault = self._set.get(name)
            if fault is None:
                return False
            fault.hits += 1
            return fault.hits > int(fault.value)

    def hits(self) -> dict[str, int]:
        return {fault.name: fault.hits for fault in self.all()}
