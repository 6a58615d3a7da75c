"""Logging in: key and secret for a signed token, the token for everything else."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time

from .store import COMPANY, USER, Refused, new_id

ACCESS_KEY = "ACCEPTANCEKEY0000000000000001"
SECRET_KEY = "acceptance-secret-0000000000000000000001"
API_VERSION = "2.34"
SERVER_VERSION = "2.3.0"
LIFETIME_S = 30 * 24 * 3600
SIGNING_KEY = b"signing key of the double"


class Tokens:
    """Issues and checks tokens."""

    def __init__(self) -> None:
        self._expired: set[str] = set()
        self._issued: set[str] = set()

    def issue(self, lifetime_s: int | None = None) -> str:
        """A JSON web token. The SDK reads exp, api_version, server_version and feature_set out of it."""
        session, issued = new_id(), int(time.time())
        self._issued.add(session)
        payload = {
            "auth_type": "Bearer",
            "identity": {
                "company_name": "acceptance",
                "role": "user",
                "user": USER,
                "user_name": "tests",
                "company": COMPANY,
            },
            "iat": issued,
            "exp": issued + (lifetime_s or LIFETIME_S),
            "env": "<unknown>",
            "session_id": session,
            "api_version": API_VERSION,
            "server_version": SERVER_VERSION,
            "server_build": "",
            "feature_set": "basic",
        }
        head, body = _text(b'{"alg":"HS256","typ":"JWT"}'), _text(json.dumps(payload).encode())
        return f"{head}.{body}.{_signature(head, body)}"

    def expire_all(self) -> None:
        """Every token issued until now counts as expired."""
        self._expired |= self._issued

    def authorize(self, header: str, action: str) -> None:
        """Raises Refused (401) unless the Authorization header proves who asks."""
        if action == "debug.ping":
            return
        kind, _, proof = header.partition(" ")
        if kind == "Basic":
            if base64.b64decode(proof).decode() != f"{ACCESS_KEY}:{SECRET_KEY}":
                raise Refused(401, 20, "Unauthorized (invalid credentials) (failed to locate provided credentials)")
        elif kind == "Bearer":
            self._check(proof)
        else:
            raise Refused(401, 21, f"Unauthorized (missing or invalid token) {kind}")

    def _check(self, token: str) -> None:
        try:
            head, body, signature = token.split(".")
            payload = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (ValueError, binascii.Error):
            raise Refused(401, 21, "Unauthorized (missing or invalid token) Bearer") from None
        if not hmac.compare_digest(signature, _signature(head, body)):
            raise Refused(401, 21, "Unauthorized (missing or invalid token) Bearer")
        if payload["exp"] < time.time() or payload["session_id"] in self._expired:
            raise Refused(401, 30, "invalid token (invalid jwt token, reason=Signature has expired)")


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _signature(head: str, body: str) -> str:
    return _text(hmac.new(SIGNING_KEY, f"{head}.{body}".encode(), hashlib.sha256).digest())
