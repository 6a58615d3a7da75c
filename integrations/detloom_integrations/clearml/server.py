"""Calls of the ClearML API that always come back: in seconds, with an answer or with an error.

The SDK's own session cannot be used for this. It retries 240 times with pauses of up to two minutes, gives bodies
above 15 kB five minutes, and loops for ever on TLS errors, on cut connections and, through a setting of the whole
process, on 503. The address, the credentials and the rules about certificates are still the SDK's own.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detloom.errors import DetloomError, UnreachableError

if TYPE_CHECKING:
    import requests  # type: ignore[import-untyped]

READ_TIMEOUT_S = 10.0
RENEW_BEFORE_S = 60.0
"""A token is renewed so long before it expires."""

_UNAUTHORIZED = 401
_TOO_LARGE = 413
_TOO_MANY_REQUESTS = 429


class NotConfiguredError(DetloomError):
    """There are no ClearML credentials on this machine."""


class ServerRefusedError(DetloomError):
    """The server understood the call and said no: asking again will not help.

    action: such as `tasks.edit`. code: HTTP status, 400 to 499. subcode: ClearML's own number, 0 without one.
    reason: the server's own words.
    """

    def __init__(self, action: str, code: int, subcode: int, reason: str, *, hint: str = "") -> None:
        super().__init__(f"the ClearML server refused {action} ({code}/{subcode}): {reason}", hint=hint)
        self.action, self.code, self.subcode, self.reason = action, code, subcode, reason


@dataclass(frozen=True, slots=True)
class Access:
    """Where the server is and who asks. token: given instead of key and secret, as agents may do."""

    api: str
    web: str
    files: str
    key: str = ""
    secret: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True)
class Added:
    """What the server made of a batch of events. reason: why it refused some of them."""

    accepted: int
    refused: int
    reason: str = ""


class Server:
    """One server and one user. Every call ends within the timeouts. May be used from several threads."""

    def __init__(self, access: Access, http: requests.Session, *, timeout: float = 3.0) -> None:
        """timeout: seconds to connect. Nothing is asked yet."""
        self.access = access
        self.http = http
        self._timeouts = (timeout, READ_TIMEOUT_S)
        self._token, self._expires = access.token, _expiry(access.token)
        self._renewal = threading.Lock()

    @classmethod
    def open(cls, timeout: float = 3.0) -> Server:
        """A server that answered and took the credentials.

        timeout: seconds after which a server that does not answer counts as absent.
        Raises NotConfiguredError, UnreachableError or, for wrong credentials, ServerRefusedError.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the SDK's parser of clearml.conf calls what its own libraries deprecate
            server = cls(find_access(), _http(), timeout=timeout)
        server.probe(timeout)
        server._login("")
        return server

    def probe(self, timeout: float) -> None:
        """Raises UnreachableError unless the server answers in `timeout` seconds, the time for its name included."""
        outcome: list[UnreachableError | None] = []

        def ask() -> None:
            try:
                self._exchange("debug.ping", b"{}", "application/json", {}, (timeout, timeout))
            except UnreachableError as error:
                outcome.append(error)
            except ServerRefusedError:
                outcome.append(None)  # it is there, that is all that was asked
            else:
                outcome.append(None)

        # In a thread of its own: a resolver that does not answer blocks for longer than any timeout of a socket.
        thread = threading.Thread(target=ask, name="clearml-probe", daemon=True)
        thread.start()
        thread.join(timeout)
        if not outcome:
            raise self._unreachable(f"no answer in {timeout:g} s")
        if outcome[0] is not None:
            raise outcome[0]

    def call(self, action: str, /, **body: Any) -> dict[str, Any]:
        """The data of the answer to `action`, such as `tasks.edit`.

        Raises UnreachableError (no connection, no answer in time, a fault of the server, too many requests) or
        ServerRefusedError.
        """
        payload = json.dumps(body, allow_nan=False).encode()
        return self._authorized(action, payload, "application/json")

    def add_events(self, events: Sequence[Mapping[str, Any]]) -> Added:
        """Raises as `call` does: the server then refused all of them, or cannot be asked."""
        lines = "\n".join(json.dumps(event, allow_nan=False) for event in events)
        data = self._authorized("events.add_batch", lines.encode(), "application/json-lines")
        refused = int(data.get("errors") or 0)
        return Added(len(events) - refused, refused, _reasons(data.get("errors_info")))

    def authorization(self) -> dict[str, str]:
        """The header that tells the file server who asks. Raises as `call` does."""
        return _bearer(self._current_token())

    def web_address(self, task_id: str, project_id: str) -> str:
        """The task's page; empty when the address of the web server is not configured and cannot be guessed."""
        return f"{self.access.web}/projects/{project_id}/experiments/{task_id}/output/log" if self.access.web else ""

    def _authorized(self, action: str, payload: bytes, content_type: str) -> dict[str, Any]:
        token = self._current_token()
        try:
            return self._exchange(action, payload, content_type, _bearer(token))
        except ServerRefusedError as error:
            if error.code != _UNAUTHORIZED:
                raise
        # The server may forget a token before its time: a restart with another secret, changed rights.
        return self._exchange(action, payload, content_type, _bearer(self._login(token)))

    def _current_token(self) -> str:
        token = self._token
        return token if token and time.time() < self._expires - RENEW_BEFORE_S else self._login(token)

    def _login(self, stale: str) -> str:
        """A new token, unless another thread has replaced the stale one meanwhile."""
        with self._renewal:
            if self._token != stale:
                return self._token
            if self.access.key and self.access.secret:
                pair = f"{self.access.key}:{self.access.secret}".encode()
                headers = {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
            else:
                headers = _bearer(stale or self.access.token)
            try:
                token = self._exchange("auth.login", b"{}", "application/json", headers).get("token")
            except ServerRefusedError as error:
                if error.code == _UNAUTHORIZED:
                    error.hint = (
                        f"{self.access.api} does not take these credentials: make new ones in its web interface "
                        "(Settings, Workspace, Create new credentials) and put them into clearml.conf"
                    )
                raise
            if not isinstance(token, str):
                raise self._unreachable("it answers, but not as a ClearML API server")
            self._token, self._expires = token, _expiry(token)
            return token

    def _exchange(
        self,
        action: str,
        payload: bytes,
        content_type: str,
        headers: Mapping[str, str],
        timeouts: tuple[float, float] | None = None,
    ) -> dict[str, Any]:
        """One request and its answer."""
        import requests

        sent = {"Content-Type": content_type, "X-ClearML-Client": "detloom", **headers}
        address = f"{self.access.api}/{action}"
        try:
            answer = self.http.request("POST", address, data=payload, headers=sent, timeout=timeouts or self._timeouts)
        except requests.Timeout as error:
            raise self._unreachable("no answer in time") from error
        except requests.RequestException as error:
            raise self._unreachable(cause(error)) from error
        meta, data = _envelope(answer)
        reason = str(meta.get("result_msg") or answer.reason or "")
        code = answer.status_code
        # A refusal without ClearML's envelope comes from something in between, except for a body that is too large.
        if code == _TOO_LARGE or (meta and 400 <= code < 500 and code != _TOO_MANY_REQUESTS):
            raise ServerRefusedError(action, code, int(meta.get("result_subcode") or 0), reason)
        if code != 200:
            raise self._unreachable(f"it answers {code} {reason}".rstrip())
        if not meta:
            raise self._unreachable("it answers, but not as a ClearML API server")
        return data

    def _unreachable(self, reason: str) -> UnreachableError:
        return UnreachableError(
            f"the ClearML server {self.access.api} cannot be used: {reason}",
            hint="check the network and api.api_server in clearml.conf (or CLEARML_API_HOST), or work without the "
            "server: --set experiment.clearml.mode=offline now, `detloom clearml send RUN` later",
        )


def find_access() -> Access:
    """From clearml.conf and CLEARML_* by the SDK's own rules. Raises NotConfiguredError or, for a file that cannot be
    read, DetloomError."""
    from clearml.backend_api.session import defs
    from clearml.backend_api.session.session import Session
    from clearml.config import config_obj

    try:
        key = defs.ENV_ACCESS_KEY.get(default=config_obj.get("api.credentials.access_key", None)) or ""
        secret = defs.ENV_SECRET_KEY.get(default=config_obj.get("api.credentials.secret_key", None)) or ""
        api = Session.get_api_server_host()
    except Exception as error:  # the reader of the file has a dozen kinds
        raise DetloomError(f"clearml.conf cannot be used: {error}", hint="correct it or run: clearml-init") from error
    token = defs.ENV_AUTH_TOKEN.get() or ""
    if not token and not (key and secret):
        raise NotConfiguredError(
            "ClearML is not configured on this machine: no credentials in clearml.conf or the environment",
            hint="run clearml-init, or set CLEARML_API_HOST, CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, "
            "or switch it off: --set experiment.clearml.mode=off",
        )
    web, files = _derived(Session.get_app_server_host), _derived(Session.get_files_server_host)
    return Access(api.strip("/"), web, files, key, secret, token)


def _derived(find: Callable[[], str]) -> str:
    """An address that is configured or follows from that of the API; empty when neither."""
    try:
        return find().strip("/")
    except ValueError:
        return ""


def _http() -> requests.Session:
    """A session with the SDK's rules about certificates and no retry."""
    from clearml.backend_api.utils import get_http_session_with_retry
    from clearml.config import config_obj

    session = get_http_session_with_retry(total=0, config=config_obj)
    # The SDK's own session gives larger bodies five minutes.
    session.request_size_threshold = sys.maxsize
    return session


def _envelope(answer: requests.Response) -> tuple[dict[str, Any], dict[str, Any]]:
    """meta and data of an answer; meta is empty when it is not one of a ClearML API server."""
    try:
        document = answer.json()
        meta, data = dict(document["meta"]), dict(document.get("data") or {})
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}, {}
    return meta, data


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _expiry(token: str) -> float:
    """Seconds since 1970; infinite for a token that does not say. Nothing is verified: the server does that."""
    try:
        middle = token.split(".")[1]
        payload = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        return float(payload["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return float("inf")


def _reasons(info: object) -> str:
    """errors_info of events.add_batch as one line."""
    if not isinstance(info, Mapping):
        return str(info or "")
    return "; ".join(f"{reason} ({count})" for reason, count in info.items())


def cause(error: BaseException) -> str:
    """The innermost reason of a failed connection: the outer ones repeat the address."""
    seen: set[int] = set()
    reason = type(error).__name__
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, OSError) and current.strerror:
            reason = current.strerror
        inner = next((part for part in current.args if isinstance(part, BaseException)), None)
        current = inner or getattr(current, "reason", None) or current.__cause__ or current.__context__
        if not isinstance(current, BaseException):
            break
    return reason
