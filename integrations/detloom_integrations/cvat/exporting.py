"""Archives that the server makes on request: the present way, and that of old servers.

    CVATSDKDownloader       the present way, through the cvat-sdk
    CVATHTTPDownloaderV2    the present way, in plain HTTP: ask, wait for the request, fetch its result
    CVATHTTPDownloaderV1    the old way: ask for the data set again and again until it is there

The server cannot go on with a download that was cut: each attempt fetches the whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import quote, urlsplit

from detloom.errors import DataError
from detloom.transfer import Deadline, Meter, TimedOutError, demand_space, download
from detloom_integrations.cvat.channel import ChannelError
from detloom_integrations.cvat.server import BusyError, RefusedError, Server, is_transient
from detloom_integrations.cvat.units import FORMAT

log = logging.getLogger("detloom")

FIRST_POLL_S, LONGEST_POLL_S, POLL_GROWTH = 0.2, 15.0, 1.5
_NO_SUCH_WAY = (404, 405, 410, 501)


class OtherWayError(Exception):
    """This server exports in another way."""


class ExportFailedError(Exception):
    """The server could not make or deliver the archive; a smaller one may go well. The text says why."""


class _GoneError(Exception):
    """The result was there, and has expired."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An export of a task or a job. path: of it on the server; label: for people."""

    path: str
    label: str
    images: bool = True


class CVATHTTPDownloaderV2:
    """Asks for an export, waits for the request to end, fetches its result; once more when it has expired."""

    way: ClassVar[Literal["present", "old"]] = "present"

    def __init__(self, server: Server, meter: Meter) -> None:
        self.server = server
        self._meter = meter

    def archive(self, wanted: Wanted, file: Path, deadline: Deadline) -> None:
        """Raises OtherWayError, ExportFailedError, TimedOutError and what a server raises.

        deadline: for this export; the server's own holds as well.
        """
        for again in (True, False):
            result = self._result(wanted, deadline)
            try:
                self._fetch(result, {}, wanted, file, deadline)
                return
            except _GoneError as gone:
                if not again:
                    raise ExportFailedError(f"its export of {wanted.label} expires before it is fetched") from gone
                log.info("CVAT: the export of %s has expired: it is made again", wanted.label)

    def _result(self, wanted: Wanted, deadline: Deadline) -> str:
        """Path and query of the archive, once it is there."""
        request = self._asked(wanted)
        with _waiting_for(wanted, deadline):
            for pause in _pauses():
                # Slashes too: the id is one part of the path.
                try:
                    answer = self.server.json(f"/api/requests/{quote(request, safe='')}")
                except RefusedError as refusal:
                    raise ExportFailedError(f"it has lost its request to export {wanted.label} ({refusal})") from None
                status = answer.get("status") if isinstance(answer, dict) else None
                if status == "finished":
                    return _result_path(answer, wanted)
                if status == "failed":
                    raise ExportFailedError(_last_line(str(answer.get("message") or "without a reason")))
                deadline.pause(pause)
        raise AssertionError("waiting has no end but these")

    def _asked(self, wanted: Wanted) -> str:
        """The id of the request; asking twice gives the same one."""
        query = {"format": FORMAT, "save_images": str(wanted.images), "location": "local"}
        try:
            answer = self.server.json(f"{wanted.path}/dataset/export", query, "POST")
        except RefusedError as refusal:
            raise _refused(self.server, refusal, wanted) from None
        request = answer.get("rq_id") if isinstance(answer, dict) else None
        if not isinstance(request, str):
            raise OtherWayError("it names no request")
        return request

    def _fetch(self, path: str, query: dict[str, str | int], wanted: Wanted, file: Path, deadline: Deadline) -> None:
        @contextmanager
        def open_at(offset: int) -> Iterator[tuple[int, Iterable[bytes]]]:
            with self.server.open_reply(path, query) as reply:
                if reply.status != 200:  # an old server is still, or again, at work
                    raise _GoneError
                if reply.headers.get("content-type", "").startswith("text/html"):
                    raise ChannelError("it sends a page where the archive was asked for", lasting=True)
                size = reply.headers.get("content-length", "")
                if size.isdigit():
                    self._meter.total = max(self._meter.total, self._meter.done + int(size))
                    demand_space(file.parent, 2 * int(size))  # packed and unpacked
                yield 0, self.server.chunks(reply)

        try:
            download(file, open_at, None, deadline=deadline, is_transient=is_transient, meter=self._meter,
                     patience=self.server.patience)  # fmt: skip
        except RefusedError as refusal:
            if refusal.status == 404 or (self.way == "old" and refusal.status == 400):
                raise _GoneError from None
            raise ExportFailedError(f"it does not deliver {wanted.label} ({refusal})") from None
        except (ChannelError, BusyError) as error:
            deadline.check()
            raise ExportFailedError(f"fetching {wanted.label} broke off each time: {error}") from error


class CVATSDKDownloader(CVATHTTPDownloaderV2):
    """The same, on a server that was opened through the SDK."""


class CVATHTTPDownloaderV1(CVATHTTPDownloaderV2):
    """Old servers: 202 while the archive is made, 201 when it is there, and `action=download` to fetch it."""

    way = "old"

    def archive(self, wanted: Wanted, file: Path, deadline: Deadline) -> None:
        """The server forgets an archive once it has sent it, whole or not: after a cut it is made again."""
        path = f"{wanted.path}/{'dataset' if wanted.images else 'annotations'}"
        query: dict[str, str | int] = {"format": FORMAT}
        for attempt in range(self.server.patience.attempts):
            self._wait(path, query, wanted, deadline)
            try:
                self._fetch(path, {**query, "action": "download"}, wanted, file, deadline)
                return
            except _GoneError:
                deadline.pause(self.server.patience.pause(attempt + 1))
        raise ExportFailedError(f"fetching {wanted.label} broke off each time")

    def _wait(self, path: str, query: dict[str, str | int], wanted: Wanted, deadline: Deadline) -> None:
        with _waiting_for(wanted, deadline):
            for pause in _pauses():
                try:
                    status = self.server.status(path, query)
                except RefusedError as refusal:
                    raise _refused(self.server, refusal, wanted) from None
                if status == 201:
                    return
                deadline.pause(pause)


def _pauses() -> Iterator[float]:
    pause = FIRST_POLL_S
    while True:
        yield pause
        pause = min(LONGEST_POLL_S, pause * POLL_GROWTH)


@contextmanager
def _waiting_for(wanted: Wanted, deadline: Deadline) -> Iterator[None]:
    """Says what was waited for, when the time is over."""
    try:
        yield
    except TimedOutError as over:
        raise TimedOutError(
            f"CVAT did not finish the export of {wanted.label} within {deadline.seconds:.3g} s",
            hint=over.hint,
        ) from None


def _result_path(answer: dict[str, Any], wanted: Wanted) -> str:
    """Credentials go to no other server than the one that was named, whatever the answer says."""
    address = answer.get("result_url")
    if not isinstance(address, str) or not address:
        raise ExportFailedError(f"it exported {wanted.label} to a place of its own, not to us")
    parts = urlsplit(address)
    place = parts.path[parts.path.find("/api/") :] if "/api/" in parts.path else parts.path
    return f"{place}?{parts.query}" if parts.query else place


def _last_line(message: str) -> str:
    """A failed request has the server's traceback as its message: the last line says what happened."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    line = lines[-1] if lines else "without a reason"
    return line if len(line) <= 300 else line[:297] + "..."


def _refused(server: Server, refusal: RefusedError, wanted: Wanted) -> Exception:
    # A path that a server does not know is refused without a word about tasks or jobs.
    if refusal.status in _NO_SUCH_WAY and not (refusal.status == 404 and "matches the given query" in refusal.said):
        return OtherWayError(str(refusal))
    if refusal.status == 400 and "format" in refusal.said.lower():
        return DataError(
            server.clean(f"CVAT at {server.access.address} cannot write {FORMAT!r}: {refusal.said}"),
            hint=f"it writes {', '.join(_formats(server)) or 'nothing'}; have its administrator enable {FORMAT!r}",
        )
    if refusal.status in (403, 404):
        return server.denied(refusal, f"the export of {wanted.label}")
    return ExportFailedError(f"it refuses to export {wanted.label} ({refusal})")


def _formats(server: Server) -> list[str]:
    try:
        answer = server.json("/api/server/annotation/formats")
        return [str(one["name"]) for one in answer["exporters"] if one.get("enabled", True)]
    except (RefusedError, KeyError, TypeError):
        return []
