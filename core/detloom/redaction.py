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


_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")
_IN_QUERY = re.compile(
    r"(?i)\b(x-amz-signature|x-amz-credential|x-amz-security-token|signature|token|password|secret|api[-_]?key)"
    r"(=|:\s*|%3D)([^\s&'\",;]+)"
)
_IN_HEADER = re.compile(
    r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?)(?:(basic|bearer|token|aws4-hmac-sha256)\s+)?[^'\"\n]+"
)
HIDDEN = "***"


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without these secrets (also as they look in an address or in base64), and without whatever stands where
    secrets stand: user information of addresses, signatures, authorization headers."""
    spellings = {spelling for value in secrets if value for spelling in _spellings(value)}
    for spelling in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelling, HIDDEN)
    text = _IN_ADDRESS.sub(f"{HIDDEN}@", text)
    text = _IN_HEADER.sub(rf"\g<1>{HIDDEN}", text)
    return _IN_QUERY.sub(rf"\g<1>\g<2>{HIDDEN}", text)


def _spellings(value: str) -> set[str]:
    encoded = base64.b64encode(value.encode()).decode().rstrip("=")
    quoted = {urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value), urllib.parse.quote(value)}
    return {value, encoded, *quoted, repr(value)[1:-1]}
