"""Best value so far, and when to give up waiting for a better one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(slots=True)
class BestSoFar:
    """patience: evaluations without improvement before `exhausted`; None: never. lower_is_better: for losses."""

    lower_is_better: bool = False
    min_delta: float = 0.0
    patience: int | None = None
    best: float | None = None
    best_epoch: int = -1
    waited: int = 0

    def update(self, value: float, epoch: int) -> bool:
        """True when `value` is the best yet. For patience, only an improvement above `min_delta` counts."""
        gain = None if self.best is None else (self.best - value if self.lower_is_better else value - self.best)
        self.waited = 0 if gain is None or gain > self.min_delta else self.waited + 1
        if gain is None or gain > 0:
            self.best, self.best_epoch = value, epoch
            return True
        return False

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> Self:
        """Progress only: patience and delta are the configuration's, which a resumed run may change."""
        self.best, self.best_epoch, self.waited = state["best"], state["best_epoch"], state["waited"]
        return self
