"""The logger of a tracked run: what was not uploaded of its state goes up when the run ends before its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from detloom_integrations.clearml.logger import ClearMLLogger

if TYPE_CHECKING:
    from detloom.specs import LoggerContext
    from detloom_integrations.clearml.delivery import Delivery


class RunLogger(ClearMLLogger):
    """keep_state: hands the newest checkpoints that were not uploaded yet to the delivery."""

    def __init__(self, delivery: Delivery, context: LoggerContext, keep_state: Callable[[], None]) -> None:
        super().__init__(delivery, context)
        self._keep_state = keep_state

    def scalars(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        """The means of an epoch come at the step of its last record: under one name they would be two values of one
        point."""
        if "epoch/time_s" in values:
            values = {name.replace("train/", "train, mean of epoch/", 1): value for name, value in values.items()}
        super().scalars(values, step, epoch)

    def close(self, status: str) -> None:
        if status in {"interrupted", "failed"}:
            self._keep_state()
        super().close(status)
