"""The faults of the SDK (its own, of odd gateways, of the network below) in our words.

Never imports `minio`: the kinds are told by their names, so that this module is light.
"""

from __future__ import annotations

import email.utils
import time
from typing import Any

from detloom.errors import DataError, DetloomError, UnreachableError
from detloom.transfer import AccessError, ChangedError, CutError, NotThereError, redacted
from detloom_integrations.s3.access import Access

_BUSY = {
    "SlowDown", "SlowDownRead", "ServiceUnavailable", "InternalError", "RequestTimeout", "XMinioServerNotInitialized",
    "OperationAborted", "TooManyRequests", "RequestThrottled",
}  # fmt: skip
_BUSY_STATUS = {408, 429, 500, 502, 503, 504}
_NETWORK = {
    "ProtocolError", "IncompleteRead", "ReadTimeoutError", "ConnectTimeoutError", "NewConnectionError",
    "NameResolutionError", "MaxRetryError", "ParseError", "ConnectionResetError", "BrokenPipeError", "ClosedPoolError",
}  # fmt: skip
_CERTIFICATE = ("CERTIFICATE_VERIFY_FAILED", "certificate verify failed")
_WRONG_KEYS = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidTokenId", "InvalidToken", "ExpiredToken", "InvalidSecurity",
}  # fmt: skip
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden"}
_SKEWED = {"RequestTimeTooSkewed", "RequestExpired", "RequestNotReadyYet"}
_REGION = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}


def is_transient(error: Exception) -> bool:
    """Whether the same call may go well in a moment."""
    if isinstance(error, CutError | ConnectionError | TimeoutError):
        return True
    kind = type(error).__name__
    if kind == "SSLError" or (kind == "MaxRetryError" and "SSLError" in repr(getattr(error, "reason", ""))):
        return "EOF" in str(error)
    if kind in ("S3Error", "InvalidResponseError", "ServerError"):
        return code_of(error) in _BUSY or status_of(error) in _BUSY_STATUS
    return kind in _NETWORK


def asked_pause(error: Exception) -> float | None:
    """Seconds of Retry-After."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    text = str(headers.get("Retry-After", ""))
    return float(text) if text.isdigit() else None


def code_of(error: Exception) -> str:
    return str(getattr(error, "code", "") or "") if type(error).__name__ == "S3Error" else ""


def status_of(error: Exception) -> int:
    """HTTP status; 0 where there was no answer."""
    response = getattr(error, "response", None)
    for value in (
        getattr(response, "status", None),
        getattr(error, "_code", None),
        getattr(error, "_status_code", None),
    ):
        if isinstance(value, int):
            return value
    return 0


def translated(error: Exception, access: Access, key: str = "") -> DetloomError:
    """key: the object that was asked for; empty for the bucket."""
    if isinstance(error, DetloomError):
        return error
    kind = type(error).__name__
    if kind == "S3Error":
        made = _of_server(error, access, key)
    elif kind in ("InvalidResponseError", "ServerError"):
        made = _of_gateway(error, access, key)
    else:
        made = _of_network(error, access)
    return type(made)(redacted(made.message, access.secrets), hint=redacted(made.hint, access.secrets))


def _of_server(error: Any, access: Access, key: str) -> DetloomError:
    code, what = code_of(error), f"{access.bucket}/{key}" if key else f"the bucket {access.bucket}"
    said = f"{code}: {error.message}" if error.message else code
    if code in _WRONG_KEYS:
        return _wrong_keys(code, said, access)
    if code in _SKEWED:
        return _skewed(error, access)
    if code in _DENIED:
        return _denied(access, what, said)
    if code == "NoSuchBucket":
        return NotThereError(f"{access.address} has no bucket {access.bucket!r}", hint="set data.s3.bucket")
    if code in ("NoSuchKey", "NoSuchVersion", "PreconditionFailed", "InvalidRange"):
        return ChangedError(
            f"{what} was {'removed' if code.startswith('NoSuch') else 'changed'} after it was listed",
            hint="run the command again; what has arrived is not fetched again",
        )
    if code == "InvalidObjectState":
        return DataError(f"{what} lies in an archive class of the storage", hint="restore it there, then try again")
    if code in _REGION:
        return AccessError(f"{access.address} wants another region ({said})", hint="set data.s3.region to the bucket's")
    if code in _BUSY or status_of(error) in _BUSY_STATUS:
        return UnreachableError(f"{access.address} is busy and stayed so ({said})", hint="try again later")
    return UnreachableError(f"{access.address} refused to give {what} ({said})", hint="see the server's log")


def _wrong_keys(code: str, said: str, access: Access) -> AccessError:
    key_name, secret_name = access.names
    if "Token" in code or "Security" in code:
        return AccessError(f"{access.address} does not take the session token ({said})", hint="get a new one")
    wrong = f"access key ({key_name})" if code == "InvalidAccessKeyId" else f"secret key ({secret_name})"
    return AccessError(
        f"{access.address} does not accept the {wrong}: {code}",
        hint=f"check {key_name} and {secret_name} in the environment and in .env; the environment comes first",
    )


def _skewed(error: Any, access: Access) -> AccessError:
    parsed = email.utils.parsedate_tz(str(getattr(error.response, "headers", {}).get("Date", "")))
    seconds = abs(time.time() - email.utils.mktime_tz(parsed)) if parsed else 0.0
    off = f" by {seconds:.0f} s" if seconds > 60 else ""
    return AccessError(
        f"this machine's clock and that of {access.address} differ{off}: the server refuses the signature",
        hint="set the clock (for example: timedatectl set-ntp true); up to 15 minutes are borne",
    )


def _denied(access: Access, what: str, said: str) -> AccessError:
    if not access.key:
        return AccessError(
            f"{access.address} does not give {what} to everybody ({said})",
            hint="set data.s3.anonymous=false, and the keys in the environment",
        )
    return AccessError(
        f"{access.address} denies {what} to these keys ({access.names[0]}): {said}",
        hint="they need s3:ListBucket on the bucket and s3:GetObject on what is in it",
    )


def _of_gateway(error: Any, access: Access, key: str) -> DetloomError:
    """Answers that are no S3 errors: gateways that write them in their own way, web servers, consoles."""
    status, what = status_of(error), f"{access.bucket}/{key}" if key else f"the bucket {access.bucket}"
    kind = str(getattr(error, "_content_type", "") or "")
    if status in (401, 403):
        return _denied(access, what, f"HTTP {status}")
    if status == 412:
        return ChangedError(f"{what} was changed after it was listed", hint="run the command again")
    if "html" in kind:
        return UnreachableError(
            f"{access.address} answers with a web page (HTTP {status}): it is no S3 server",
            hint="MinIO listens on two ports: name that of the API (9000), not that of the console (9001)",
        )
    if status == 404:
        return NotThereError(f"{access.address} has no {what}", hint="set data.s3.bucket and data.s3.prefix")
    if status in _BUSY_STATUS:
        return UnreachableError(f"{access.address} answers HTTP {status} and stayed so", hint="try again later")
    return UnreachableError(
        f"{access.address} gives an answer (HTTP {status}) that S3 does not know", hint="check data.s3.endpoint"
    )


def _of_network(error: Exception, access: Access) -> DetloomError:
    text = f"{error} {getattr(error, 'reason', '')}"
    if any(sign in text for sign in _CERTIFICATE):
        return UnreachableError(
            f"the certificate of {access.address} is not trusted here",
            hint="name the file of your authority in the environment variable SSL_CERT_FILE",
        )
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return UnreachableError(f"{access.host} does not speak TLS", hint=f"write the endpoint as http://{access.host}")
    if isinstance(error, ValueError | TypeError | KeyError) and not text.strip().startswith("HTTP"):
        return DataError(f"{access.address} gave an answer that cannot be used: {error}", hint="see the server's log")
    name = type(getattr(error, "reason", None) or error).__name__
    hints = {
        "NameResolutionError": "its name is not known here: check data.s3.endpoint",
        "NewConnectionError": "nobody listens there: check host and port of data.s3.endpoint, and that it runs",
        "ConnectTimeoutError": "no answer in time: check data.s3.endpoint, the firewall and the proxy",
    }
    hint = hints.get(name, "the connection broke again and again: check the network, and start it again to go on")
    return UnreachableError(f"{access.address} cannot be reached ({name})", hint=hint)
