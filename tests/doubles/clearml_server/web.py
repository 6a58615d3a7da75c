"""HTTP in front of the API, and the paths by which a test steers the double."""

from __future__ import annotations

import gzip
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .api import Api, Cut, Request

OF_THE_TEST = "X-Double-Control"


class Server(ThreadingHTTPServer):
    """On a free port of this machine; a thread a connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[Handler]):
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    """What both servers share."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Standard error is the test's."""

    def content(self) -> bytes:
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            return b"".join(iter(self._chunk, b""))
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline().split(b";")[0], 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def reply(self, status: int, content: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    def cut(self) -> None:
        """Close without an answer."""
        self.close_connection = True


def api_handler(api: Api) -> type[Handler]:
    class ApiHandler(Handler):
        def handle_any(self) -> None:
            content = self.content()
            if self.headers.get("Content-Encoding") == "gzip":
                content = gzip.decompress(content)
            if self.path.startswith("/_"):
                self._json(*steer(api, self.command, self.path, content))
                return
            authorization = self.headers.get("Authorization") or ""
            control = self.headers.get(OF_THE_TEST) is not None
            try:
                answer = api.answer(Request(self.command, self.path, authorization, content, control))
            except Cut:
                self.cut()
            else:
                self.reply(answer.status, answer.content, "application/json")

        def _json(self, status: int, value: Any) -> None:
            self.reply(status, json.dumps(value).encode(), "application/json")

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any

    return ApiHandler


def steer(api: Api, method: str, path: str, content: bytes) -> tuple[int, Any]:
    """GET reads, POST changes. Returns the HTTP status and what to answer as JSON."""
    asked = (method, path.strip("/"))
    if asked == ("GET", "_state"):
        return 200, api.state()
    if asked == ("GET", "_violations"):
        return 200, list(api.violations)
    if asked == ("POST", "_fault"):
        try:
            api.faults.add(**json.loads(content))
        except (TypeError, ValueError) as mistake:
            return 400, str(mistake)
    elif asked == ("POST", "_clear_faults"):
        api.faults.clear()
    elif asked == ("POST", "_expire_tokens"):
        api.tokens.expire_all()
    elif asked == ("POST", "_reset"):
        api.reset()
    elif asked != ("GET", "_fault"):
        return 404, f"{method} {path} steers nothing"
    return 200, api.faults.listed()
