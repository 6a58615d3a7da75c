"""Brings what a run reports to its task, without the run ever waiting for it.

Three threads beside the training. The first writes what was reported into two spools in the run's folder (numbers,
and files by their paths) about once a second and never touches the network. The second sends the numbers from their
spool, the third the files from theirs. What the server has acknowledged leaves the spool; when it does not answer,
everything simply waits there, for the next attempt, for the end of the run, or for `detloom clearml send`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detloom.errors import DetloomError
from detloom.files import sha256_of, write_json
from detloom_integrations.clearml.senders import Counts, EventSender, Sender, UploadSender
from detloom_integrations.clearml.spool import Spool
from detloom_integrations.clearml.uploads import FOLDER, Upload

if TYPE_CHECKING:
    from detloom_integrations.clearml.events import Event
    from detloom_integrations.clearml.server import Server

log = logging.getLogger("detloom")

TASK_FILE = "task.json"
EVENT_SPOOL = "spool.jsonl"
UPLOAD_SPOOL = "uploads.jsonl"

WRITE_INTERVAL_S = 1.0
QUEUE_LENGTH = 50_000
"""Calls between two writes at most; more are counted as lost."""

FIRST_PAUSE_S, LONGEST_PAUSE_S, CLOSING_PAUSE_S = 1.0, 60.0, 1.0


@dataclass(frozen=True, slots=True)
class CloseReport:
    """Records. flushed: acknowledged by the server. dropped: lost for good. waiting: in the run's folder, to be sent
    later. error: why something waits or was lost, empty when nothing did. seconds: that closing took."""

    flushed: int
    dropped: int
    waiting: int
    seconds: float
    error: str = ""


class Delivery:
    """server or task_id None (or empty): everything waits in the run's folder.

    `report`, `upload` and `checkpoint` cost microseconds and never block or raise. `close` ends within close_timeout
    seconds; its threads are daemons, so that one that hangs does not outlive the process.
    """

    def __init__(
        self,
        server: Server | None,
        task_id: str | None,
        run_dir: Path,
        *,
        record: Mapping[str, Any] | None = None,
        limit_bytes: int = 256 << 20,
        close_timeout: float = 120.0,
        output_uri: str | None = None,
    ) -> None:
        """record: what `task.json` keeps of the task, so that it can be made later. limit_bytes: of the numbers that
        wait on the disk."""
        self.run_dir = run_dir
        self._folder = run_dir / FOLDER
        self._close_timeout = close_timeout
        self._queue: deque[tuple[Callable[..., list[Event]], tuple[Any, ...], int]] = deque()
        self._uploads: deque[Upload] = deque()
        self._overflow = 0
        self._counts = Counts()
        self._events = Spool(self._folder / EVENT_SPOOL, limit_bytes)
        self._files = Spool(self._folder / UPLOAD_SPOOL, limit_bytes)
        self._closing, self._written, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._report: CloseReport | None = None
        if record is not None:
            remember_task(self._folder / TASK_FILE, {**record, "task": task_id or "", "output_uri": output_uri})
        self._online = server is not None and bool(task_id)
        self._threads = [threading.Thread(target=self._write, name="clearml-spool", daemon=True)]
        if server is not None and task_id:
            senders: list[Sender] = [
                EventSender(server, task_id, self._events, self._counts),
                UploadSender(server, task_id, run_dir, self._files, self._counts, output_uri),
            ]
            self._threads += [
                threading.Thread(target=self._send, args=(one,), name=f"clearml-{one.name}", daemon=True)
                for one in senders
            ]
        for thread in self._threads:
            thread.start()

    # ---- called by the training -------------------------------------------------------------------------------

    def report(self, build: Callable[..., list[Event]], *arguments: Any, records: int = 1) -> None:
        """`build(*arguments)` gives the events, later and in another thread. records: how many it stands for."""
        if self._closing.is_set() or len(self._queue) >= QUEUE_LENGTH:
            self._overflow += records
            return
        self._queue.append((build, arguments, records))

    def upload(self, upload: Upload) -> None:
        """The file is read later. Its size and time are noted now, so that a change is noticed."""
        if self._closing.is_set() or len(self._uploads) >= QUEUE_LENGTH:
            self._overflow += 1
            return
        size, mtime_ns = _size_and_time(upload.path)
        self._uploads.append(replace(upload, size_bytes=size, mtime_ns=mtime_ns, timestamp_s=time.time()))

    def checkpoint(self, kind: str, path: Path, step: int) -> None:
        """A state of the run, as the model `last` or `best` of the task. When one still waits, only the newest goes."""
        self.upload(Upload("model", kind, str(path), step=step, tags=(kind, "checkpoint"), newest_only=True))

    def base_weights(self, name: str, address: str) -> None:
        """What the run began with: a URL or a file. Becomes the task's input model; nothing is uploaded."""
        self.upload(Upload("base", name, address, tags=("pretrained",)))

    def close(self) -> CloseReport:
        """Deliver what waits for `close_timeout` seconds at most. The second call returns the first one's report."""
        if self._report is not None:
            return self._report
        start = time.monotonic()
        self._closing.set()
        for thread in self._threads:
            thread.join(max(0.0, start + self._close_timeout - time.monotonic()))
        self._stopped.set()
        waiting = self._events.waiting + self._files.waiting
        dropped = self._counts.dropped + self._overflow
        error = self._counts.loss
        if waiting:
            reason = f" ({self._counts.problem})" if self._counts.problem else ""
            wait = f"{waiting} records wait in {self._folder}: detloom clearml send {self.run_dir}{reason}"
            error = "; ".join(filter(None, (error, wait)))
        if not any(thread.is_alive() for thread in self._threads):
            self._events.close()
            self._files.close()
        self._report = CloseReport(self._counts.flushed, dropped, waiting, time.monotonic() - start, error)
        return self._report

    # ---- threads ------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """From memory to the spools."""
        while True:
            last = self._closing.wait(WRITE_INTERVAL_S)
            try:
                self._write_events()
                self._write_uploads()
            except Exception as error:  # a plugin's odd value must not end the thread that all others need
                self._counts.complain(f"a report could not be kept: {describe(error)}")
            if last and not self._queue and not self._uploads:
                self._written.set()
                return

    def _write_events(self) -> None:
        batch: list[Event] = []
        for _ in range(len(self._queue)):
            build, arguments, records = self._queue.popleft()
            try:
                batch.extend(build(*arguments))
            except Exception as error:  # see above: one report, not all of them
                self._counts.lose(records, f"a report could not be read: {describe(error)}")
        self._keep(self._events, batch, sync=not self._online or bool(self._counts.problem))

    def _keep(self, spool: Spool, batch: Sequence[Mapping[str, Any]], *, sync: bool) -> None:
        if not batch:
            return
        try:
            lost = spool.append(batch, sync=sync)
        except (TypeError, ValueError) as error:  # a value that is no JSON: from a plugin
            if len(batch) == 1:
                self._counts.lose(1, f"a report could not be written: {describe(error)}")
                return
            for one in batch:
                self._keep(spool, [one], sync=False)
        else:
            self._counts.lose(lost, f"{spool.path} is full (experiment.clearml.spool_mb) or the disk is")

    def _write_uploads(self) -> None:
        batch = []
        for _ in range(len(self._uploads)):
            upload = self._uploads.popleft()
            if not self._online:  # the folder may travel before it is sent: times do not, contents do
                with contextlib.suppress(OSError):
                    upload = replace(upload, sha256=sha256_of(Path(upload.path)))
            batch.append(replace(upload, path=_below(upload.path, self.run_dir)).record())
        self._keep(self._files, batch, sync=True)

    def _send(self, sender: Sender) -> None:
        """From a spool to the server, until the run is over and nothing waits any more."""
        pause = FIRST_PAUSE_S
        while not self._stopped.is_set():
            written = self._written.is_set()
            try:
                sent = sender.send_some()
            except Exception as error:  # whatever it is, the record waits in the spool
                log.debug("delivery to ClearML failed", exc_info=error)
                self._counts.hold_up(sender.name, error.message if isinstance(error, DetloomError) else describe(error))
                self._wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            pause = FIRST_PAUSE_S
            if sent:
                self._counts.go_on(sender.name)
            elif written:
                return
            else:
                self._written.wait(0.05 if self._closing.is_set() else WRITE_INTERVAL_S / 2)

    def _wait(self, seconds: float) -> None:
        """A run that is closing asks often, there is little time left; and the beginning of the end cuts a pause
        short."""
        if self._closing.is_set():
            self._stopped.wait(min(seconds, CLOSING_PAUSE_S))
        else:
            self._closing.wait(seconds)


def remember_task(path: Path, record: Mapping[str, Any]) -> None:
    """Write task.json. A run that goes on without the server keeps the task that it had."""
    kept = dict(record)
    if not kept["task"]:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            before = json.loads(path.read_text(encoding="utf-8"))
            kept.update({key: before[key] for key in ("task", "mark") if before.get(key)})
    write_json(path, kept)


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _size_and_time(path: str) -> tuple[int, int]:
    """Bytes, and nanoseconds of the last change; zeros for what is no file."""
    with contextlib.suppress(OSError):
        found = Path(path).stat()
        if stat.S_ISREG(found.st_mode):
            return found.st_size, found.st_mtime_ns
    return 0, 0


def _below(path: str, run_dir: Path) -> str:
    """Relative to the run's folder where it is inside."""
    if "://" in path:
        return path
    absolute, base = Path(path).absolute(), run_dir.absolute()
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else str(absolute)
