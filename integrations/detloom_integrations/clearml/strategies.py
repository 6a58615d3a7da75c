"""ClearML's search strategies, held to what was asked: not one trial more, none after the stop, and an end that tells.

As they come they start up to `concurrent - 1` trials too many when several end at once, Optuna's cannot be stopped
from outside, and a strategy that fails leaves an optimizer that says it is running.
"""

# ruff: noqa: TID253

from __future__ import annotations

import threading
from typing import Any

from clearml.automation import (
    DiscreteParameterRange,
    GridSearch,
    LogUniformParameterRange,
    RandomSearch,
    UniformIntegerParameterRange,
    UniformParameterRange,
)
from clearml.automation.optimization import SearchStrategy
from clearml.automation.parameters import Parameter

from detloom_integrations.clearml.space import Between, Dimension


class Exact(SearchStrategy):  # type: ignore[misc,unused-ignore]
    """Makes `total_max_jobs` trials at most. finished: set when no more will be made. failure: why, when it broke."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.finished = threading.Event()
        self.failure: Exception | None = None

    def start(self) -> None:
        try:
            super().start()
        except _StoppedError:
            pass
        except Exception as error:
            self.failure = error
        finally:
            self.finished.set()

    @property
    def exhausted(self) -> bool:
        made: int = len(self.get_created_jobs_ids())
        return self._stop_event.is_set() or (self.total_max_jobs is not None and made >= self.total_max_jobs)


class _StoppedError(Exception):
    """Ends Optuna's own loop."""


class Random(Exact, RandomSearch):  # type: ignore[misc,unused-ignore]
    def create_job(self) -> Any:
        return None if self.exhausted else super().create_job()


class Grid(Exact, GridSearch):  # type: ignore[misc,unused-ignore]
    def create_job(self) -> Any:
        return None if self.exhausted else super().create_job()


def optuna_strategy() -> type[Exact]:
    """Raises ImportError when Optuna is not installed."""
    import optuna
    from clearml.automation.optuna import OptimizerOptuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    class Optuna(Exact, OptimizerOptuna):  # type: ignore[misc,unused-ignore]
        def helper_create_job(self, *args: Any, **kwargs: Any) -> Any:
            if self.exhausted:
                raise _StoppedError
            return super().helper_create_job(*args, **kwargs)

        def monitor_job(self, job: Any) -> bool:
            # Its loop asks without a pause until a trial has reported its first number.
            if self._stop_event.wait(self.pool_period_minutes * 60.0):
                job.abort()  # a job that is given up is forgotten, and would run on
                return False
            return bool(super().monitor_job(job))

    return Optuna


def optuna_settings(seed: int) -> dict[str, Any]:
    """A sampler that can be repeated, and no trial cut short: curves of unlike batch sizes cannot be compared."""
    import optuna

    return {"optuna_sampler": optuna.samplers.TPESampler(seed=seed), "optuna_pruner": optuna.pruners.NopPruner()}


def parameter_of(dimension: Dimension) -> Parameter:
    """What ClearML draws from. Values go to the task as the texts they were written as."""
    drawn, name = dimension.drawn, dimension.parameter
    if not isinstance(drawn, Between):
        return DiscreteParameterRange(name, values=list(drawn.texts))
    if drawn.whole:
        return UniformIntegerParameterRange(name, min_value=int(drawn.low), max_value=int(drawn.high))
    if drawn.log:
        low, high = (float(end.log10()) for end in (drawn.low, drawn.high))
        return LogUniformParameterRange(name, min_value=low, max_value=high)
    return UniformParameterRange(name, min_value=float(drawn.low), max_value=float(drawn.high))
