"""Best value so far, and when to give up waiting for a better one."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(slots=True)
class BestSoFar:
    """patience: evaluations without improvement before `exhausted`; None: never. lower_is_better: for losses.

    reference: the value that an improvement is measured from; it moves only when one counts, so that steady gains
    smaller than `min_delta` add up. metric: what is compared; a state of another metric is not taken over.
    """

    lower_is_better: bool = False
    min_delta: float = 0.0
    patience: int | None = None
    best: float | None = None
    best_epoch: int = -1
    waited: int = 0
    reference: float | None = None
    metric: str = ""

    def update(self, value: float, epoch: int) -> bool:
        """True when `value` is the best yet; of equal ones the later, which has learned longer (a detector that finds
        nothing for some epochs has AP 0 in each). For patience, only a gain above `min_delta` counts."""
        if self._gain(value, self.reference) > self.min_delta:
            self.waited, self.reference = 0, value
        else:
            self.waited += 1
        if self._gain(value, self.best) >= 0:
            self.best, self.best_epoch = value, epoch
            return True
        return False

    def _gain(self, value: float, before: float | None) -> float:
        if before is None:
            return math.inf
        return before - value if self.lower_is_better else value - before

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> Self:
        """Progress only: patience and delta are the configuration's, which a resumed run may change."""
        if state["metric"] == self.metric:
            for name in ("best", "best_epoch", "waited", "reference"):
                setattr(self, name, state[name])
        return self
