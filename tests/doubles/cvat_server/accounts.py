"""Who may ask: passwords, tokens, access tokens, sessions."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field


class Refused(Exception):
    """The server answers with this status. detail: text, or a value to be written as JSON."""

    def __init__(self, status: int, detail: object, kind: str = "application/vnd.cvat+json") -> None:
        super().__init__(status, detail)
        self.status, self.detail, self.kind = status, detail, kind


@dataclass
class Accounts:
    passwords: dict[str, str] = field(default_factory=lambda: {"admin": "adminpass123", "bob": "bobpass123"})
    access_tokens: dict[str, str] = field(default_factory=lambda: {"pat-admin-0123456789": "admin"})
    tokens: dict[str, str] = field(default_factory=lambda: {"legacytoken9876543210": "admin"})
    sessions: dict[str, tuple[str, str]] = field(default_factory=dict)

    def log_in(self, user: object, password: object) -> tuple[str, str, str]:
        """(session, csrf, token)."""
        if not isinstance(user, str) or self.passwords.get(user) != password:
            raise Refused(400, {"non_field_errors": ["Unable to log in with provided credentials."]})
        session, csrf, token = secrets.token_hex(16), secrets.token_hex(16), secrets.token_hex(20)
        self.sessions[session] = (user, csrf)
        self.tokens[token] = user
        return session, csrf, token

    def user(self, method: str, headers: Mapping[str, str]) -> str:
        """Raises Refused."""
        kind, _, credentials = (headers.get("Authorization") or "").partition(" ")
        known = {"Token": self.tokens, "Bearer": self.access_tokens}
        if kind in known:
            if credentials not in known[kind]:
                raise Refused(401, {"detail": "Invalid token."})
            return known[kind][credentials]
        if kind == "Basic":
            return self._basic(credentials)
        session = re.search(r"sessionid=(\w+)", headers.get("Cookie") or "")
        if session and session[1] in self.sessions:
            user, csrf = self.sessions[session[1]]
            if method not in ("GET", "HEAD") and headers.get("X-CSRFToken") != csrf:
                raise Refused(403, {"detail": "CSRF Failed: CSRF token missing."})
            return user
        raise Refused(401, {"detail": "Authentication credentials were not provided."})

    def _basic(self, credentials: str) -> str:
        try:
            user, _, password = base64.b64decode(credentials).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user = password = ""
        if user and self.passwords.get(user) == password:
            return user
        raise Refused(401, {"detail": "Invalid username/password."})
