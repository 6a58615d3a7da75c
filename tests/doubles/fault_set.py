"""What the doubles share: faults that are set, cleared and counted while requests come."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar


@dataclass(kw_only=True)
class Fault:
    times: int = -1  # -1: until cleared
    hits: int = 0
    released: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def key(self) -> str:
        raise NotImplementedError

    def befalls(self, kind: str | None) -> bool:
        """kind: what is asked of the one that may strike it; None when it does not matter."""
        return True


F = TypeVar("F", bound=Fault)


class FaultSet(Generic[F]):
    """The faults that are set. One a key: a new one takes the place of the old."""

    def __init__(self, kind: type[F]) -> None:
        self._kind = kind
        self._lock = threading.Lock()
        self._set: dict[str, F] = {}

    def add(self, **what: Any) -> None:
        fault = self._kind(**what)
        with self._lock:
            old = self._set.pop(fault.key, None)
            self._set[fault.key] = fault
        if old:
            old.released.set()

    def clear(self) -> None:
        with self._lock:
            old, self._set = self._set, {}
        for fault in old.values():
            fault.released.set()

    def first(self, keys: Sequence[str], kind: str | None = None) -> F | None:
        """The fault of the first key that has one which befalls this, counted."""
        with self._lock:
            for key in keys:
                fault = self._set.get(key)
                if fault and fault.times != 0 and fault.befalls(kind):
                    fault.times -= fault.times > 0
                    fault.hits += 1
                    return fault
        return None

    def all(self) -> list[F]:
        with self._lock:
            return list(self._set.values())
