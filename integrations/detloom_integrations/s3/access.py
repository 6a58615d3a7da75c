"""Where the server is, and who asks: settings and environment. Light: no `minio` is needed to name a mistake."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from detloom.errors import UsageError
from detloom.transfer import AccessError, secret

if TYPE_CHECKING:
    from detloom_schemas.data_config import MinIODataSource

ENDPOINTS = ("MINIO_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
PAIRS = (
    ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MINIO_SESSION_TOKEN"),
    ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", ""),
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""Names of the access key, the secret key and the session token, in the order they are looked for."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{1,61}[A-Za-z0-9]")
_REGIONS = ("MINIO_REGION", "AWS_REGION", "AWS_DEFAULT_REGION")


@dataclass(frozen=True, slots=True)
class Access:
    """host: name and port; key, secret, token: empty for anonymous access, and never shown; names: of the environment
    variables that the keys came from."""

    host: str
    secure: bool
    bucket: str
    prefix: str
    region: str | None
    key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    names: tuple[str, str] = ("", "")

    @property
    def address(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.host}"

    @property
    def identity(self) -> str:
        return f"{self.address}/{self.bucket}/{self.prefix}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may show."""
        return tuple(value for value in (self.key, self.secret, self.token) if value)


def access_of(settings: MinIODataSource, environ: Mapping[str, str] | None = None) -> Access:
    """Raises UsageError for settings that cannot be meant, AccessError where keys are missing."""
    values = os.environ if environ is None else environ
    host, secure = _endpoint(settings, values)
    key, hidden, token, names = ("", "", "", ("", "")) if settings.anonymous else _keys(settings, values)
    region = settings.region or secret(_REGIONS, values) or None
    return Access(host, secure, _bucket(settings), _prefix(settings), region, key, hidden, token, names)


def _endpoint(settings: MinIODataSource, values: Mapping[str, str]) -> tuple[str, bool]:
    """(host and port, whether it speaks TLS)."""
    written = settings.endpoint or secret(ENDPOINTS, values)
    if not written:
        raise UsageError(
            "no S3 server was named",
            hint="set data.s3.endpoint (http://HOST:9000 for MinIO, s3.amazonaws.com for Amazon), or the environment "
            f"variable {ENDPOINTS[0]}",
        )
    scheme, separator, rest = written.strip().partition("://")
    address = urllib.parse.urlsplit(f"//{rest if separator else scheme}")
    fault = _fault(scheme.lower() if separator else "", address)
    if fault:
        raise UsageError(f"data.s3.endpoint {fault}", hint="it reads http://HOST:PORT, https://HOST or HOST:PORT")
    if not separator:
        said = secret(("MINIO_SECURE",), values).lower()
        secure = settings.secure if settings.secure is not None else said not in ("0", "false", "no", "off")
        return address.netloc, secure
    secure = scheme.lower() == "https"
    if settings.secure is not None and settings.secure != secure:
        raise UsageError(
            f"data.s3.secure is {str(settings.secure).lower()}, and data.s3.endpoint begins with {scheme}://",
            hint="keep one of them",
        )
    return address.netloc, secure


def _fault(scheme: str, address: urllib.parse.SplitResult) -> str:
    """What is wrong with an address; never shows user information, which may be a password."""
    if scheme not in ("", "http", "https"):
        return f"begins with {scheme}://"
    if "@" in address.netloc:
        return "holds user information; keys come from the environment"
    if address.path.strip("/") or address.query or address.fragment:
        return "goes on after the host; bucket and prefix have settings of their own"
    try:
        named = bool(address.hostname) and (address.port is None or address.port > 0)
    except ValueError:
        named = False
    return "" if named and not re.search(r"\s", address.netloc) else "names no host and port"


def _keys(settings: MinIODataSource, values: Mapping[str, str]) -> tuple[str, str, str, tuple[str, str]]:
    """The first pair of which either is set: a lonely half is told, not passed over."""
    own = (settings.access_key_env, settings.secret_key_env)
    if any(own):
        pairs = [(own[0] or PAIRS[0][0], own[1] or PAIRS[0][1], settings.session_token_env or "")]
    else:
        pairs = [(key, hidden, settings.session_token_env or token) for key, hidden, token in PAIRS]
    for key_name, secret_name, token_name in pairs:
        key, hidden = secret([key_name], values), secret([secret_name], values)
        if key and hidden:
            return key, hidden, secret([token_name], values) if token_name else "", (key_name, secret_name)
        if key or hidden:
            missing, there = (secret_name, key_name) if key else (key_name, secret_name)
            raise AccessError(
                f"the environment has {there} but not {missing}", hint=f"set {missing} too (a .env file will do)"
            )
    named = " and ".join(pairs[0][:2])
    raise AccessError(
        "the environment holds no keys for the S3 server",
        hint=f"set {named} (a .env file will do), or data.s3.anonymous=true for a public bucket",
    )


def _bucket(settings: MinIODataSource) -> str:
    name = settings.bucket.strip()
    if not name:
        raise UsageError("no bucket was named", hint="set data.s3.bucket, or give --minio-bucket NAME")
    if not _BUCKET.fullmatch(name) or ".." in name:
        hint = "3 to 63 letters, digits, dots and hyphens"
        if "/" in name:
            hint = "it is the name alone; what follows it belongs into data.s3.prefix"
        raise UsageError(f"{name!r} cannot name a bucket (data.s3.bucket)", hint=hint)
    return name


def _prefix(settings: MinIODataSource) -> str:
    """Without slashes around it: a prefix names a folder, or one object."""
    return settings.prefix.strip("/")
