"""Questions to a CVAT server: repeated while the fault is passing, ended in time, every refusal told in our words."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from detloom.errors import DetloomError, UnreachableError
from detloom.transfer import AccessError, Deadline, NotThereError, Patience, redacted, retried
from detloom_integrations.cvat.access import Access
from detloom_integrations.cvat.channel import (
    Call,
    Channel,
    ChannelError,
    LoginError,
    PlainChannel,
    Query,
    Reply,
    sentence,
)

log = logging.getLogger("detloom")
T = TypeVar("T")

SDK_FROM = (2, 42)
"""The oldest server that the SDK was tried with; older ones are spoken to in plain HTTP."""
PAGE = 100
_BUSY = (429, 500, 502, 503, 504)
_CHUNK = 1 << 18
_LARGEST_ANSWER = 1 << 28


class RefusedError(Exception):
    """The server said no: asking again will not help. said: its own words."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status} {said}".strip())
        self.status, self.said = status, said


class BusyError(Exception):
    """A status that may be another one in a moment. pause_s: what the server asked for."""

    def __init__(self, status: int, said: str, pause_s: float | None) -> None:
        super().__init__(f"it answers {status}{f' ({said})' if said else ''}")
        self.status, self.said, self.pause_s = status, said, pause_s


@dataclass(frozen=True, slots=True)
class Limits:
    """timeout_s: seconds that the server may be silent."""

    deadline: Deadline
    timeout_s: float
    patience: Patience


class Server:
    """One server, one user, one deadline. May be used from several threads after `open`."""

    def __init__(self, access: Access, channel: Channel, limits: Limits) -> None:
        self.access, self.channel, self.limits = access, channel, limits
        self.deadline, self.patience = limits.deadline, limits.patience
        self._login = threading.Lock()
        self._logins = 0

    @classmethod
    def open(cls, access: Access, limits: Limits, wanted: str) -> Server:
        """A server that answered and took the credentials.

        wanted: "sdk", "http", or "auto" (the SDK where it fits). Raises UnreachableError, AccessError, or PluginError
        when the SDK is wanted and is not here.
        """
        server = cls(access, PlainChannel(access), limits)
        version = server.without_organization(logged_in=False)._version()
        if wanted == "sdk" or (wanted == "auto" and version >= SDK_FROM):
            server._use_sdk(demanded=wanted == "sdk")
        elif wanted == "auto":
            shown = ".".join(map(str, version))
            log.info("CVAT %s is older than what the cvat-sdk fits: it is asked in plain HTTP", shown)
        server._log_in()
        return server

    def without_organization(self, *, logged_in: bool = True) -> Server:
        """The same server; one that does not know an organisation answers nothing within it."""
        access = self.access.without_organization()
        other = Server(access, PlainChannel(access), self.limits)
        if logged_in:
            other._log_in()
        return other

    def _version(self) -> tuple[int, ...]:
        """Of the server; also finds out whether there is one."""
        try:
            about = self.json("/api/server/about")
        except RefusedError:
            about = None
        if not isinstance(about, dict) or "version" not in about:
            self._fail(UnreachableError, "it answers, but not as a CVAT server", self._where())
        return tuple(int(part) for part in re.findall(r"\d+", str(about["version"]))[:2])

    def _use_sdk(self, *, demanded: bool) -> None:
        from detloom_integrations.cvat.sdk import SDKChannel

        try:
            self.channel = SDKChannel(self.access)
        except ImportError as error:
            if demanded:
                from detloom.errors import PluginError

                raise PluginError(f"the cvat-sdk cannot be used: {error}", hint="pip install cvat-sdk") from error
            log.info("the cvat-sdk is not installed (%s): CVAT is asked in plain HTTP", error)

    # ---- credentials ------------------------------------------------------------------------------------------

    def _log_in(self) -> None:
        """Through the channel, or through the plain one where the SDK does not fit."""
        try:
            self._tried(lambda: self.channel.log_in(self._timeout()), "logging in")
        except LoginError as error:
            self._refuse_credentials(str(error))
        except (DetloomError, ChannelError):
            raise
        except Exception as error:  # whatever the SDK makes of an answer that it does not expect
            if isinstance(self.channel, PlainChannel):
                raise
            log.info("the cvat-sdk does not fit this server (%s): it is asked in plain HTTP", type(error).__name__)
            self.channel = PlainChannel(self.access)
            self._log_in()

    def _renew(self, logins: int) -> bool:
        """Log in again after a session has ended, once for all threads; False where that cannot help."""
        if not self.access.password:
            return False
        with self._login:
            if self._logins == logins:
                self._logins += 1
                self._log_in()
        return True

    def _refuse_credentials(self, said: str) -> NoReturn:
        self._fail(
            AccessError,
            f"it does not take the credentials of {self.access.named}{f': {said}' if said else ''}",
            f"check {self.access.named} in the environment or in .env"
            + ("" if self.access.password else "; tokens are made in CVAT under Profile > Security"),
        )

    # ---- requests ---------------------------------------------------------------------------------------------

    def json(self, path: str, query: Query | None = None, method: str = "GET") -> Any:
        """The answer as a value. Raises RefusedError, UnreachableError, AccessError, and what a deadline raises."""

        def ask() -> Any:
            with self.open_reply(path, query, method) as reply:
                content = self._content(reply)
            if not content and reply.status != 200:
                return None
            try:
                return json.loads(content)
            except ValueError:
                raise ChannelError("it answers, but not as a CVAT server", lasting=True) from None

        return self._tried(ask, path)

    def pages(self, path: str, query: Query, most: int = 1_000_000) -> list[dict[str, Any]]:
        """The entries of all pages of a list."""
        found: list[dict[str, Any]] = []
        for page in range(1, 1_000_000):
            answer = self.json(path, {**query, "page": page, "page_size": PAGE})
            entries = answer.get("results") if isinstance(answer, dict) else None
            if not isinstance(entries, list):
                self._fail(UnreachableError, "it answers, but not as a CVAT server", self._where())
            found += entries
            if not answer.get("next") or len(found) >= most:
                break
        return found

    def status(self, path: str, query: Query) -> int:
        """Of an answer whose content does not matter. Raises as `json` does."""

        def ask() -> int:
            with self.open_reply(path, query) as reply:
                return reply.status

        return self._tried(ask, path)

    @contextlib.contextmanager
    def open_reply(self, path: str, query: Query | None = None, method: str = "GET") -> Iterator[Reply]:
        """One request, once. Raises ChannelError and BusyError, which may be passing, RefusedError and AccessError."""
        logins = self._logins
        reply = self._sent(Call(method, path, query or {}, self._timeout()))
        if reply.status == 401 and self._renew(logins):
            reply.close()
            reply = self._sent(Call(method, path, query or {}, self._timeout()))
        with contextlib.closing(reply):
            if reply.status >= 400:
                said = sentence(self._content(reply)[: 1 << 16])
                if reply.status == 401:
                    self._refuse_credentials(said)
                if reply.status in _BUSY:
                    asked = reply.headers.get("retry-after", "")
                    raise BusyError(reply.status, said, float(asked) if asked.isdigit() else None)
                raise RefusedError(reply.status, said)
            yield reply

    def _sent(self, call: Call) -> Reply:
        self.deadline.check()
        return self.channel.send(call)

    def chunks(self, reply: Reply) -> Iterator[bytes]:
        """What comes, as it comes. Raises ChannelError when it ends too early."""
        while content := reply.read(_CHUNK):
            self.deadline.check()
            yield content

    def _content(self, reply: Reply) -> bytes:
        content = bytearray()
        for chunk in self.chunks(reply):
            content += chunk
            if len(content) > _LARGEST_ANSWER:
                raise ChannelError("an answer is larger than makes sense", lasting=True)
        return bytes(content)

    def _timeout(self) -> float:
        """Seconds to wait for a byte: never past the deadline."""
        self.deadline.check()
        return max(0.05, min(self.limits.timeout_s, self.deadline.left()))

    # ---- patience ---------------------------------------------------------------------------------------------

    def _tried(self, ask: Callable[[], T], what: str) -> T:
        try:
            return retried(
                ask,
                deadline=self.deadline,
                is_transient=is_transient,
                patience=self.patience,
                asked_pause=lambda error: error.pause_s if isinstance(error, BusyError) else None,
            )
        except (ChannelError, BusyError) as error:
            self.deadline.check()  # when its end was the reason, that is what to say
            self.give_up(error, what)

    def give_up(self, error: Exception, what: str) -> NoReturn:
        """After the last attempt."""
        at = f" (asked for {what})" if what.startswith("/api/") else ""
        self._fail(UnreachableError, f"{error}{at}", self._where())

    def _where(self) -> str:
        return (
            "check the address (CVAT_URL or data.cvat.url), that the server runs, and the way there "
            "(http_proxy, no_proxy, SSL_CERT_FILE)"
        )

    def _fail(self, kind: type[DetloomError], reason: str, hint: str) -> NoReturn:
        raise kind(self.clean(f"CVAT at {self.access.address}: {reason}"), hint=self.clean(hint)) from None

    def clean(self, text: str) -> str:
        """Without secrets."""
        return redacted(text, (*self.access.secrets, *self.channel.secrets))

    def denied(self, refusal: RefusedError, what: str) -> DetloomError:
        """A refusal of something that was asked for by its number or name."""
        said = f": {refusal.said}" if refusal.said else ""
        text = self.clean(f"CVAT at {self.access.address} refuses {what} ({refusal.status}){said}")
        if refusal.status == 403:
            asker = self.access.user or f"the owner of {self.access.named}"
            return AccessError(text, hint=f"{asker} needs the right to see and export it; ask whoever owns it")
        if refusal.status == 404:
            return NotThereError(text, hint="check the numbers, and data.cvat.organization")
        return UnreachableError(text, hint="the server's own words say why")


def is_transient(error: Exception) -> bool:
    """Whether the same request may go well in a moment."""
    return isinstance(error, BusyError) or (isinstance(error, ChannelError) and not error.lasting)
