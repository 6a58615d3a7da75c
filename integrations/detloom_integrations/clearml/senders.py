"""The two streams of a delivery: each takes from the front of its spool what the server acknowledges."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from detloom.errors import DataError, UnreachableError
from detloom.redaction import redacted
from detloom_integrations.clearml.server import ServerRefusedError
from detloom_integrations.clearml.storage import StorageError
from detloom_integrations.clearml.uploads import Upload, Uploader

if TYPE_CHECKING:
    from detloom_integrations.clearml.server import Server
    from detloom_integrations.clearml.spool import Entry, Spool

log = logging.getLogger("detloom")


class Counts:
    """What became of the records, and what was said about it: each kind of trouble once."""

    def __init__(self) -> None:
        self.flushed = 0
        self.dropped = 0
        self.loss = ""
        """Why something was lost, the last reason."""
        self._held_up: dict[str, str] = {}
        self._said: set[str] = set()
        self._lock = threading.Lock()

    @property
    def problem(self) -> str:
        """Why delivery is held up now; empty when it is not."""
        return next(iter(self._held_up.values()), "")

    def arrive(self, records: int) -> None:
        with self._lock:
            self.flushed += records

    def lose(self, records: int, reason: str, *, kind: str = "") -> None:
        """Nothing is said about no records, and only the first of a kind is."""
        reason = redacted(reason)  # drivers of storages quote addresses with all that is in them
        if records:
            with self._lock:
                self.dropped += records
            self.loss = reason
            self.complain(f"lost for ClearML: {reason}", kind=kind)

    def complain(self, text: str, *, kind: str = "") -> None:
        if (kind or text) not in self._said:
            self._said.add(kind or text)
            log.warning("%s", redacted(text))

    def hold_up(self, stream: str, reason: str) -> None:
        """Delivery of one stream goes on later."""
        reason = redacted(reason)
        if stream not in self._held_up:
            log.warning("%s; %s wait in the run's folder until they can be sent", reason, stream)
        self._held_up[stream] = reason

    def go_on(self, stream: str) -> None:
        if self._held_up.pop(stream, ""):
            log.warning("ClearML takes %s again; what waited is being sent", stream)


class Sender(Protocol):
    """name: what it sends, in the plural."""

    name: str

    def send_some(self) -> int:
        """Records that left the spool, 0 when nothing waits. Raises DetloomError when it is to be tried again."""
        ...


class EventSender:
    """Numbers, curves, tables and lines, in the order in which they were reported."""

    name = "numbers"

    def __init__(self, server: Server, task_id: str, spool: Spool, counts: Counts) -> None:
        self._server, self._task, self._spool, self._counts = server, task_id, spool, counts

    def send_some(self) -> int:
        entries = self._spool.peek()
        if entries:
            self._deliver(entries)
        return len(entries)

    def _deliver(self, entries: Sequence[Entry]) -> None:
        """A batch that is refused is halved until the event is found that the server does not take."""
        try:
            added = self._server.add_events([{**entry.record, "task": self._task} for entry in entries])
        except ServerRefusedError as error:
            check_task(self._server, self._task, error)
            if len(entries) > 1:
                middle = len(entries) // 2
                self._deliver(entries[:middle])
                self._deliver(entries[middle:])
                return
            self._counts.lose(1, f"{error.message}: {str(entries[0].record)[:200]}", kind="refused event")
        else:
            self._counts.arrive(added.accepted)
            refusal = f"the server did not take {added.refused} events: {added.reason}"
            self._counts.lose(added.refused, refusal, kind="refused events")
        self._spool.acknowledge(entries[-1], len(entries))


class UploadSender:
    """Files, one after the other. One that its storage does not take goes to the end of the queue."""

    name = "files"

    def __init__(
        self, server: Server, task_id: str, run_dir: Path, spool: Spool, counts: Counts, output_uri: str | None = None
    ) -> None:
        self._server, self._task, self._spool, self._counts = server, task_id, spool, counts
        self._uploader = Uploader(server, task_id, run_dir, output_uri)

    def send_some(self) -> int:
        entries = self._spool.peek()
        if not entries:
            return 0
        first = entries[0]
        try:
            upload = Upload.from_record(first.record)
        except TypeError as error:
            self._counts.lose(1, f"{self._spool.path} holds a record that is none: {error}")
            self._spool.acknowledge(first, 1)
            return 1
        if not (upload.newest_only and _newer(upload, entries[1:])):
            self._deliver(upload, first)
        self._spool.acknowledge(first, 1)
        return 1

    def _deliver(self, upload: Upload, entry: Entry) -> None:
        try:
            remark = self._uploader.deliver(upload)
        except DataError as error:
            self._counts.lose(1, error.message)
        except ServerRefusedError as error:
            check_task(self._server, self._task, error)
            self._counts.lose(1, f"{upload.name}: {error.message}")
        except StorageError:
            waits = self._spool.peek()[1:]
            outdated = upload.newest_only and _newer(upload, waits)
            if outdated or self._spool.append([entry.record], sync=True) == 0:
                self._spool.acknowledge(entry, 1)
            raise
        else:
            self._counts.arrive(1)
            if remark:
                log.warning("%s", remark)


def _newer(upload: Upload, later: Sequence[Entry]) -> bool:
    """Whether another of its name waits."""
    return any(
        (entry.record.get("kind"), entry.record.get("name")) == (upload.kind, upload.name)
        and entry.record.get("step", 0) >= upload.step
        for entry in later
    )


def check_task(server: Server, task_id: str, refusal: ServerRefusedError) -> None:
    """Whether a refusal is about one record or about everything: rights, or a task that is gone. Raises
    UnreachableError in that case: nothing is lost, it waits."""
    everything = refusal.code in {401, 403}
    if not everything:
        found = server.call("tasks.get_all", id=[task_id], only_fields=["status"])["tasks"]
        everything = not found or found[0].get("status") == "published"
    if everything:
        raise UnreachableError(
            f"the ClearML server takes nothing for the task {task_id}: {refusal.reason}",
            hint="is the task deleted or published, or are the credentials of another workspace?",
        )
