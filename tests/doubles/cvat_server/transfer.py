"""How an archive is sent: whole, cut, stalled, in drops."""

from __future__ import annotations

import socket
import time
from http.server import BaseHTTPRequestHandler

from .faults import Faults

PIECE = 512


def send_archive(handler: BaseHTTPRequestHandler, content: bytes, name: str, faults: Faults) -> None:
    """Ranges are ignored, as in the real server."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/zip")
    handler.send_header("Content-Disposition", f'attachment; filename="{name}"')
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    if handler.command == "HEAD":
        return
    if drop := faults.take("drop"):
        handler.wfile.write(content[: int(drop.value)])
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True
    elif stall := faults.take("stall"):
        handler.wfile.write(content[:100])
        handler.wfile.flush()
        stall.released.wait(float(stall.value))
        handler.close_connection = True
    elif trickle := faults.take("trickle"):
        for start in range(0, len(content), PIECE):
            handler.wfile.write(content[start : start + PIECE])
            handler.wfile.flush()
            time.sleep(float(trickle.value))
    else:
        handler.wfile.write(content)
