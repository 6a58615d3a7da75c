"""`detloom clearml status`: which server this machine means, whether it answers, whether it takes the credentials."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from detloom.errors import DetloomError, UnreachableError
from detloom_integrations.clearml.environment import configuration_place
from detloom_integrations.clearml.server import NotConfiguredError, Server, ServerRefusedError, find_access


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """place: where the configuration came from. answers, accepted: whether the server answered and took the
    credentials. failure: the error that a run would have stopped with, or None."""

    place: str
    api: str = ""
    web: str = ""
    files: str = ""
    answers: bool = False
    accepted: bool = False
    server_version: str = ""
    api_version: str = ""
    failure: DetloomError | None = None

    def to_json(self) -> dict[str, Any]:
        """Of the failure, its sentences."""
        error = self.failure
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "failure"}
        return {**plain, "error": error.message if error else "", "hint": error.hint if error else ""}


def server_status() -> ServerStatus:
    """Never raises for what is wrong with the configuration or the server: that is the answer."""
    place = configuration_place(os.environ)
    try:
        access = find_access()
    except DetloomError as error:
        return ServerStatus(place if not isinstance(error, NotConfiguredError) else "", failure=error)
    answers, accepted = False, False
    versions: Mapping[str, Any] = {}
    failure: DetloomError | None = None
    try:
        versions = _versions(Server.open().authorization()["Authorization"])
        answers = accepted = True
    except UnreachableError as error:
        failure = error
    except ServerRefusedError as error:
        answers, failure = True, error
    return ServerStatus(
        place,
        access.api,
        access.web,
        access.files,
        answers,
        accepted,
        str(versions.get("server_version") or ""),
        str(versions.get("api_version") or ""),
        failure,
    )


def _versions(authorization: str) -> Mapping[str, Any]:
    """A server says its versions in the tokens that it issues."""
    try:
        middle = authorization.split(".")[1]
        payload = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return payload if isinstance(payload, dict) else {}
