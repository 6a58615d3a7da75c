"""Secrets come from the environment by name, and appear in no message."""

from __future__ import annotations

import base64
import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence


def secret(names: Sequence[str], environ: Mapping[str, str] | None = None) -> str:
    """The value of the first of these environment variables that is set; empty when none is. Blanks around it, which
    copying leaves, are dropped."""
    values = os.environ if environ is None else environ
    return next((values[name].strip() for name in names if values.get(name, "").strip()), "")


_PASSWORD_IN_ADDRESS = re.compile(
    # A password may hold a slash; what follows the colon of http://host:9000/a@b is a port.
    r"(?<=://)(?P<hidden>[^/\s:@\[]*:(?!\d{1,5}(?:[/?#'\",;\s]|$))[^\s@]+)@"
)
_TOKEN_IN_QUERY = re.compile(
    r"[?&](?:[a-z-]*(?:token|signature|password|secret|api_?key)|sig)=(?P<hidden>[^&\s'\"]+)", re.IGNORECASE
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?P<hidden>.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_ACCESS_TOKEN = re.compile(
    r"\b(?P<hidden>gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_\w{20,}|sk-[\w-]{20,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*)"
)
_KINDS = {
    "an address with a password": _PASSWORD_IN_ADDRESS,
    "an address with a token": _TOKEN_IN_QUERY,
    "a private key": _PRIVATE_KEY,
    "an access token": _ACCESS_TOKEN,
}
"""What nobody writes into a configuration by chance. hidden: the part that nobody may see."""

_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s'\",]+@")
_IN_QUERY = re.compile(
    r"(?i)\b(x-amz-signature|x-amz-credential|x-amz-security-token|signature|token|password|passwd"
    r"|secret(?:[-_](?:access[-_])?key)?|(?:api|access|private)[-_]?key)(=|:\s*|%3D)([^\s&'\",;\]}]+)"
)
_IN_MAPPING = re.compile(
    r"(?i)((?P<key>['\"])[\w.-]*(?:token|password|passwd|secret|(?:api|access|private)[-_]?key)(?:[-_]key)?(?P=key)"
    r"\s*[:=]\s*)(?P<quote>['\"]).*?(?P=quote)"
)
_IN_HEADER = re.compile(
    r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?)(?:(basic|bearer|token|aws4-hmac-sha256)\s+)?[^'\"\n]+"
)
HIDDEN = "***"


def kind_of_secret(text: str) -> str:
    """What the text holds that nobody else may see, in words; empty when it is nothing that is known by its form."""
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(text)), "")


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without these secrets (also as they look in an address or in base64), and without whatever stands where
    secrets stand: user information of addresses, signatures, authorization headers; nor what has the form of one."""
    spellings = {spelling for value in secrets if value for spelling in _spellings(value)}
    for spelling in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelling, HIDDEN)
    for pattern in _KINDS.values():
        text = pattern.sub(_without_hidden, text)
    text = _IN_ADDRESS.sub(f"{HIDDEN}@", text)
    text = _IN_HEADER.sub(rf"\g<1>{HIDDEN}", text)
    text = _IN_MAPPING.sub(rf"\g<1>\g<quote>{HIDDEN}\g<quote>", text)
    return _IN_QUERY.sub(rf"\g<1>\g<2>{HIDDEN}", text)


def _without_hidden(found: re.Match[str]) -> str:
    start, end = (place - found.start() for place in found.span("hidden"))
    return f"{found[0][:start]}{HIDDEN}{found[0][end:]}"


def _spellings(value: str) -> set[str]:
    encoded = base64.b64encode(value.encode()).decode().rstrip("=")
    quoted = {urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value), urllib.parse.quote(value)}
    return {value, encoded, *quoted, repr(value)[1:-1]}
