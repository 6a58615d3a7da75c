"""What sends requests to a CVAT server: a contract, and the channel that needs nothing but the standard library.

A channel sends one request and gives back the answer whatever its status is. It repeats nothing and judges nothing;
what keeps an answer from coming at all is a ChannelError.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

from detloom_integrations.cvat.access import Access

MIME = "application/vnd.cvat+json"
Query = Mapping[str, str | int]


class ChannelError(Exception):
    """No answer, or the answer ended too early. lasting: trying again will not help."""

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.lasting = lasting


class LoginError(Exception):
    """The server did not take the credentials; the text is the server's."""


@dataclass(frozen=True, slots=True)
class Reply:
    """headers: names in small letters. read: up to so many bytes, as soon as some are there; empty at the end; raises
    ChannelError. close: always call it."""

    status: int
    headers: Mapping[str, str]
    read: Callable[[int], bytes]
    close: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Call:
    """path: below the server's address, percent-encoded. body: to be written as JSON. timeout_s: without a byte."""

    method: str
    path: str
    query: Query
    timeout_s: float
    body: Mapping[str, Any] | None = None

    def address(self, base: str) -> str:
        asked = f"?{urlencode(self.query)}" if self.query else ""
        return f"{base}{self.path}{asked}"


class Channel(Protocol):
    """May be used from several threads once it has logged in."""

    name: str

    @property
    def secrets(self) -> tuple[str, ...]:
        """What the server gave for the credentials."""
        ...

    def log_in(self, timeout_s: float) -> None:
        """Raises LoginError or ChannelError; what else it raises means that this channel does not fit the server."""
        ...

    def send(self, call: Call) -> Reply:
        """Raises ChannelError."""
        ...


class PlainChannel:
    """The standard library. Proxies and additional certificates come from the environment (http_proxy, no_proxy,
    SSL_CERT_FILE)."""

    name = "plain HTTP"

    def __init__(self, access: Access) -> None:
        self._access = access
        self._authorization = ""
        self._opener = urllib.request.build_opener(_Redirects())

    @property
    def secrets(self) -> tuple[str, ...]:
        token = self._authorization.partition(" ")[2]
        return (token,) if token else ()

    def log_in(self, timeout_s: float) -> None:
        access = self._access
        if access.access_token:
            self._authorization = f"Bearer {access.access_token}"
        elif access.token:
            self._authorization = f"Token {access.token}"
        else:
            self._authorization = ""
            self._authorization = f"Token {self._token(timeout_s)}"

    def _token(self, timeout_s: float) -> str:
        body = {"username": self._access.user, "password": self._access.password}
        reply = self.send(Call("POST", "/api/auth/login", {}, timeout_s, body))
        with contextlib.closing(reply):
            content = reply.read(1 << 16)
        if reply.status in (400, 401, 403):
            raise LoginError(sentence(content))
        try:
            token = json.loads(content)["key"] if reply.status == 200 else None
        except (ValueError, KeyError, TypeError):
            token = None
        if not isinstance(token, str):
            raise ChannelError(
                f"it answers {reply.status} to a login, and not as a CVAT server", lasting=reply.status < 500
            )
        return token

    def send(self, call: Call) -> Reply:
        headers = {"Accept": f"{MIME}, */*"}
        if self._authorization:
            headers["Authorization"] = self._authorization
            if self._access.organization is not None:
                headers["X-Organization"] = self._access.organization
        data = None if call.body is None else json.dumps(call.body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(
            call.address(self._access.address), data=data, headers=headers, method=call.method
        )
        with _told():
            try:
                answer: Any = self._opener.open(request, timeout=call.timeout_s)
            except urllib.error.HTTPError as refusal:
                answer = refusal
        return _as_reply(answer)


def _as_reply(answer: Any) -> Reply:
    """answer: what the standard library gives, also for refusals; its `read1` does not tell when the end is missing."""
    length = answer.headers.get("Content-Length") or ""
    left = int(length) if length.isdigit() else None

    def read(size: int) -> bytes:
        nonlocal left
        with _told():
            content: bytes = answer.read1(size)
        if left is not None:
            left -= len(content)
            if not content and left > 0:
                raise ChannelError(f"the connection was cut, {left:,} bytes too early")
        return content

    return Reply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, read, answer.close)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Faults of the standard library as ChannelError."""
    try:
        yield
    except urllib.error.URLError as error:
        raise _fault(error.reason if isinstance(error.reason, BaseException) else error) from error
    except (OSError, http.client.HTTPException) as error:
        raise _fault(error) from error


def _fault(error: BaseException) -> ChannelError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return ChannelError(f"its certificate is not trusted: {error.verify_message}", lasting=True)
    if isinstance(error, ssl.SSLError):
        reason = (
            "it does not speak TLS: write its address with http://" if "WRONG_VERSION" in str(error) else str(error)
        )
        return ChannelError(f"no safe connection: {reason}", lasting=True)
    if isinstance(error, TimeoutError):
        return ChannelError("no answer in time")
    if isinstance(error, http.client.IncompleteRead):
        return ChannelError("the connection was cut in the middle of an answer")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return ChannelError(reason)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Credentials stay with the server that they are for, and a request to do something is not turned into a
    question."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.get_method() not in ("GET", "HEAD"):
            raise ChannelError(f"it sends us to {newurl.partition('?')[0]}: name that address", lasting=True)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and not stays(req.full_url, newurl):
            for name in ("Authorization", "X-organization", "Cookie"):
                request.remove_header(name)
        return request


def stays(before: str, after: str) -> bool:
    """Whether both addresses are of one server, reached no less safely."""
    old, new = urlsplit(before), urlsplit(after)
    if old.hostname != new.hostname:
        return False
    return (old.scheme, old.port) == (new.scheme, new.port) or (old.scheme, new.scheme) == ("http", "https")


def sentence(content: bytes) -> str:
    """What a server says in a refusal: the text of its JSON, or its plain text, in one line."""
    try:
        value = json.loads(content)
    except ValueError:
        text = content.decode("utf-8", "replace")
        return "" if "<html" in text.lower() or "<h1" in text.lower() else _line(text)
    return _line("; ".join(_texts(value)))


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for part in value.values() for text in _texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [str(value)]


def _line(text: str) -> str:
    short = " ".join(text.split())
    return short if len(short) <= 300 else short[:297] + "..."
