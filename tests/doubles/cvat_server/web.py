"""HTTP in front of the API, and the paths by which a test steers the double."""

from __future__ import annotations

import contextlib
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .accounts import Refused
from .api import JSON, Api, Archive, Asked, Reply
from .transfer import send_archive


class Server(ThreadingHTTPServer):
    """On a free port of this machine; a thread a connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is what some tests are about."""


def handler(api: Api) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
            """Standard error is the test's."""

        def handle_any(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                if self.path.startswith("/_"):
                    status, value = steer(api, self.command, self.path, content)
                    self.reply(Reply(status, value, "application/json"))
                else:
                    self.answer(content)

        def answer(self, content: bytes) -> None:
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            asked = Asked(self.command, parts.path, query, self.headers, content)
            if slow := api.faults.take("slow"):
                time.sleep(float(slow.value))
            if hang := api.faults.take("hang", asked.kind):
                hang.released.wait(600)
                self.close_connection = True
                return
            try:
                answer = api.answer(asked, f"http://{self.headers.get('Host')}")
            except Refused as refusal:
                headers = {"WWW-Authenticate": "Token"} if refusal.status == 401 else {}
                headers |= {"Retry-After": "1"} if refusal.status in (429, 503) else {}
                answer = Reply(refusal.status, refusal.detail, refusal.kind, headers)
            if isinstance(answer, Archive):
                send_archive(self, answer.content, answer.name, api.faults)
            else:
                self.reply(answer)

        def reply(self, answer: Reply) -> None:
            if isinstance(answer.value, bytes):
                body = answer.value
            else:
                plain = isinstance(answer.value, str) and answer.kind != JSON
                body = str(answer.value).encode() if plain else json.dumps(answer.value).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            for cookie in answer.cookies:
                self.send_header("Set-Cookie", cookie)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any

    return Handler


def steer(api: Api, method: str, path: str, content: bytes) -> tuple[int, Any]:
    """GET reads, POST changes. Returns the HTTP status and what to answer as JSON."""
    asked = (method, path.strip("/"))
    try:
        if asked == ("POST", "_world"):
            api.reset(json.loads(content))
        elif asked == ("POST", "_fault"):
            api.faults.add(**json.loads(content))
        elif asked == ("POST", "_clear_faults"):
            api.faults.clear()
        elif asked != ("GET", "_state"):
            return 404, f"{method} {path} steers nothing"
    except (TypeError, ValueError, KeyError) as mistake:
        return 400, repr(mistake)
    return 200, api.state()
