"""Connections that notice when they are cut among the headers of an answer.

Python's `http.client` takes the end of the stream for the end of the headers: half an etag or half a length would look
like a whole one, and an object that is whole like one that was changed.
"""

from __future__ import annotations

import http.client
from typing import Any, cast

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class _Lines:
    """A stream whose lines are whole. An end before the first line is left to http.client, which knows it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._begun = False

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._stream.readline(limit)
        cut = not line.endswith(b"\n") and not 0 <= limit <= len(line)
        if cut and (line or self._begun):
            raise ConnectionResetError("the connection was closed among the headers of an answer")
        self._begun = True
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Answer(http.client.HTTPResponse):
    def begin(self) -> None:
        stream, self.fp = self.fp, _Lines(self.fp)  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            if self.fp is not None:  # None: it was closed
                self.fp = stream


class _Connection(HTTPConnection):
    response_class = _Answer


class _SecureConnection(HTTPSConnection):
    response_class = _Answer


class _Pool(HTTPConnectionPool):
    ConnectionCls = cast("Any", _Connection)


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = cast("Any", _SecureConnection)


def noticing(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    """The manager, which opens such connections from now on."""
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager
