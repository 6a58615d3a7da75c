"""What has to be asked of the SDK's insides, in one place.

The SDK's reporting process is switched off (it would fork a process with threads), its end of a task is given the
status that the run really has, and its warnings about its own doings stay out of the run's.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from typing import Any

log = logging.getLogger("detloom")


ABORT_GRACE_S = 10.0
"""More than Detloom takes for an abort: the SDK breaks off what takes longer, with a traceback."""


REFRESH_S = 10.0


@contextlib.contextmanager
def quiet_sdk() -> Iterator[None]:
    """Import and call the SDK as Detloom uses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from clearml import Task

        setattr(Task, "_report_subprocess_enabled", False)  # noqa: B010 - typed as a lazy value
        yield


def leave_signals_alone(task_class: Any) -> None:
    """Undo what `Task.init` does to signals. Its handlers swallow SIGTERM where nobody else handles it, and a memory
    fault (SIGSEGV) becomes an endless loop. Nor does the SDK wake up in processes that are forked: those that read
    pictures would each get its threads, and its end, which asks the server."""
    from clearml.binding.environ_bind import PatchOsFork

    task_class._remove_signal_hooks()
    PatchOsFork._current_task = None


def refresh(task: Any) -> None:
    """Let the SDK read its task again: what plugins do with it would otherwise undo what was written past the SDK. In a
    thread: without an answer the SDK asks for ever."""
    thread = threading.Thread(target=task.reload, name="clearml-refresh", daemon=True)
    thread.start()
    thread.join(REFRESH_S)


def close_task(task: Any, status: str, error: str) -> None:
    """Flush and end the SDK's task. A run that failed or was interrupted must not be marked completed by the SDK,
    which judges by the exceptions that its own hooks have seen."""
    hook = getattr(type(task), "_Task__exit_hook", None)
    if hook is not None and status != "completed":
        hook.exception = KeyboardInterrupt() if status == "interrupted" else RuntimeError(error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task.close()


def abandon_sdk() -> None:
    """The SDK did not come back from its own end: nothing of it may hold up the end of the process either. At exit
    `logging` would close its handlers, which wait for the server without limit."""
    for reference in list(getattr(logging, "_handlerList", ())):
        handler = reference()
        if handler is not None and type(handler).__module__.partition(".")[0] == "clearml":
            handler.flush = handler.close = lambda: None
            logging.getLogger().removeHandler(handler)
