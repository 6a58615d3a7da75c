"""The channel through the cvat-sdk: its login, session, headers and connections.

The SDK's own calls cannot be used as they are: they wait for an export for ever, give up at the first 500 or 429 or
cut connection, and refuse answers of servers whose fields differ from their own.
"""

from __future__ import annotations

import contextlib
import logging
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from detloom_integrations.cvat.access import Access
from detloom_integrations.cvat.channel import Call, ChannelError, LoginError, Reply, sentence

if TYPE_CHECKING:
    from cvat_sdk.core.client import Client

_REDIRECTS = 5


class SDKChannel:
    name = "cvat-sdk"

    def __init__(self, access: Access) -> None:
        """Raises ImportError where the SDK is not installed."""
        self._access = access
        self._client = _client(access.address)

    def log_in(self, timeout_s: float) -> None:
        from cvat_sdk.api_client.exceptions import ApiException
        from cvat_sdk.core.client import AccessTokenCredentials

        client, access = self._client, self._access
        client.organization_slug = None
        if access.access_token:
            client.login(AccessTokenCredentials(access.access_token))
        elif access.token:
            client.api_client.configuration.api_key["tokenAuth"] = access.token
        else:
            client._clear_credentials()  # a session that has ended cannot be logged out of
            try:
                with _told():
                    self._with_password(timeout_s)
            except ApiException as refusal:
                raise _login_error(refusal) from None
        client.organization_slug = access.organization

    def _with_password(self, timeout_s: float) -> None:
        """What Client.login does, with an end."""
        from cvat_sdk.api_client import models

        asked: Any = models.LoginSerializerExRequest(username=self._access.user, password=self._access.password)
        api = self._client.api_client
        api.auth_api.create_login(asked, _request_timeout=(timeout_s, timeout_s))
        # Without them the SDK has no session: a proxy in between has eaten them.
        api.configuration.api_key["csrfHeaderAuth"] = api.cookies["csrftoken"].value
        if "sessionid" not in api.cookies:
            raise LookupError("the login brought no session")

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(cookie.value for cookie in self._client.api_client.cookies.values() if cookie.value)

    def send(self, call: Call) -> Reply:
        from cvat_sdk.core.helpers import make_request_headers

        api = self._client.api_client
        with _told():
            answer = api.rest_client.request(
                call.method,
                call.address(self._access.address),
                headers=make_request_headers(api),
                body=call.body,
                _parse_response=False,
                _request_timeout=(call.timeout_s, call.timeout_s),
                _check_status=False,
            )
        headers = {name.lower(): value for name, value in answer.headers.items()}

        def read(size: int) -> bytes:
            with _told():
                content: bytes = answer.read1(size, decode_content=False)
            return content

        def close() -> None:
            answer.close()
            answer.release_conn()

        return Reply(answer.status, headers, read, close)


def _client(address: str) -> Client:
    """With no retries of its own: they would not know our deadline. Proxies as for everybody else in this process."""
    import urllib3
    from cvat_sdk.api_client import ApiClient, Configuration
    from cvat_sdk.core.client import Client

    client = Client(address, logger=logging.getLogger("detloom.cvat_sdk"), check_server_version=False)
    configuration: Any = Configuration(host=client.api_map.host)
    configuration.retries = urllib3.Retry(
        total=None, connect=0, read=0, status=0, other=0, redirect=_REDIRECTS, raise_on_status=False
    )
    parts = urlsplit(address)
    if not urllib.request.proxy_bypass(parts.hostname or ""):
        configuration.proxy = urllib.request.getproxies().get(parts.scheme)
    client.api_client.close()
    client.api_client = ApiClient(configuration)
    return client


def _login_error(refusal: Any) -> Exception:
    body = refusal.body if isinstance(refusal.body, bytes) else str(refusal.body or "").encode()
    if refusal.status in (400, 401, 403):
        return LoginError(sentence(body))
    return ChannelError(f"it answers {refusal.status} to a login", lasting=400 <= refusal.status < 500)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Faults of urllib3 as ChannelError."""
    import urllib3
    from cvat_sdk.api_client.exceptions import ApiException

    try:
        yield
    except urllib3.exceptions.HTTPError as error:
        raise _fault(error) from error
    except OSError as error:
        raise ChannelError(error.strerror or str(error)) from error
    except ApiException as refusal:
        if refusal.status == 0:  # so it tells of certificates
            reason = str(refusal.reason).splitlines()[-1]
            raise ChannelError(f"no safe connection: {reason}", lasting=True) from None
        raise


def _fault(error: Exception) -> ChannelError:
    """The innermost reason: the outer ones repeat addresses."""
    import urllib3

    reason: Any = error
    while isinstance(reason, urllib3.exceptions.MaxRetryError) and reason.reason is not None:
        reason = reason.reason
    if isinstance(reason, urllib3.exceptions.SSLError):
        return ChannelError(f"no safe connection: {reason}", lasting=True)
    if isinstance(reason, urllib3.exceptions.TimeoutError):
        return ChannelError("no answer in time")
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        cause = reason.__cause__ or reason.__context__
        return ChannelError(getattr(cause, "strerror", None) or "it cannot be connected to")
    if isinstance(reason, urllib3.exceptions.ProtocolError):
        return ChannelError("the connection was cut")
    return ChannelError(type(reason).__name__)
