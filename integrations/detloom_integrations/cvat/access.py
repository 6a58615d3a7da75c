"""Who asks: an address, an organisation, and credentials that come from the environment by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from detloom.errors import UsageError
from detloom.transfer import AccessError, secret

if TYPE_CHECKING:
    from detloom_schemas.data_config import CVATDataSource

ADDRESS = ("CVAT_URL", "CVAT_HOST")
"""Variables that name the server when the configuration does not."""


@dataclass(frozen=True, slots=True)
class Access:
    """address: without a slash at its end. organization: its short name; empty: the personal space; None: everything
    that the user may see. access_token, token, password: the first that is there is used. named: the variables that
    they came from, for people."""

    address: str
    organization: str | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    access_token: str = field(default="", repr=False)
    named: str = ""

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(value for value in (self.password, self.token, self.access_token) if value)

    def without_organization(self) -> Access:
        return replace(self, organization=None)


def find_access(settings: CVATDataSource, environ: Mapping[str, str] | None = None) -> Access:
    """Raises UsageError without an address, or with one that cannot be, and AccessError without credentials."""
    address = _address(settings.url or secret(ADDRESS, environ))
    names = (
        settings.access_token_env or "CVAT_ACCESS_TOKEN",
        settings.token_env or "CVAT_TOKEN",
        settings.username_env or "CVAT_USERNAME",
        settings.password_env or "CVAT_PASSWORD",
    )
    access_token, token, user, password = (secret([name], environ) for name in names)
    organization = settings.organization
    if access_token:
        return Access(address, organization, access_token=access_token, named=names[0])
    if token:
        return Access(address, organization, token=token, named=names[1])
    if user and password:
        return Access(address, organization, user, password, named=f"{names[2]} and {names[3]}")
    half = f"{names[2]} is set, {names[3]} is not; " if user else ""
    half = f"{names[3]} is set, {names[2]} is not; " if password else half
    raise AccessError(
        f"CVAT at {address} asks who you are, and no credentials are in the environment",
        hint=f"{half}set {names[0]}, {names[1]}, or {names[2]} and {names[3]} (a file .env is read too)",
    )


def _address(text: str) -> str:
    example = "for example CVAT_URL=https://app.cvat.ai in the environment or in .env, or data.cvat.url"
    if not text:
        raise UsageError("no CVAT server was named", hint=f"say where it is, {example}")
    # As the SDK does, except where nobody has a certificate.
    near = re.match(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:|/|$)", text)
    whole = text if "://" in text else f"{'http' if near else 'https'}://{text}"
    parts = _parsed(whole)
    if parts is None:
        raise UsageError(f"{text.rpartition('@')[2]!r} is no address of a CVAT server", hint=example)
    if parts.username or parts.password:
        raise UsageError(
            "the address of the CVAT server holds credentials",
            hint="leave them out of it, and set CVAT_USERNAME and CVAT_PASSWORD in the environment",
        )
    # People copy the address of the page that they look at.
    path = re.sub(r"/(tasks|projects|jobs|api|organization|cloudstorages|auth)(/.*)?$", "", parts.path)
    return f"{parts.scheme}://{parts.netloc}{path}".rstrip("/")


def _parsed(address: str) -> SplitResult | None:
    """None for what cannot be asked."""
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if sound and " " not in parts.netloc else None
