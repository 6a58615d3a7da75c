"""Runs of several processes: who talks to the outside world, and how the others learn what it said.

The launcher (torchrun) says in the environment which process this is. Only the process of global rank 0 opens
trackers and loggers and writes into the run's folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from detloom.errors import DetloomError

T = TypeVar("T")


def rank() -> int:
    """Global rank of this process; 0 when it runs alone."""
    return int(os.environ.get("RANK") or 0)


def world_size() -> int:
    """How many processes make up this run."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def told_by_rank_zero(ask: Callable[[], T]) -> T:
    """What `ask` returned in the process of rank 0, in every process; what it raised there is raised everywhere.

    The value must be plain data. Uses torch.distributed, which the caller has initialised when there is more than one
    process.
    """
    if world_size() == 1:
        return ask()
    from torch import distributed

    answer: list[object] = [None, None]
    failure: BaseException | None = None
    if rank() == 0:
        try:
            answer[0] = ask()
        except BaseException as error:
            failure = error
            answer[1] = str(error) or type(error).__name__
    distributed.broadcast_object_list(answer, src=0)
    if failure is not None:
        raise failure
    if answer[1] is not None:
        raise DetloomError(f"the process of rank 0 stopped: {answer[1]}")
    return answer[0]  # type: ignore[return-value]
