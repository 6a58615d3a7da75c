"""Starts the server; prints {"url": ADDRESS} as one line."""

from __future__ import annotations

import json
import sys
import threading

from .api import Api
from .web import Server, handler


def main() -> None:
    server = Server(handler(Api()))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"url": server.address}), flush=True)
    sys.stdin.buffer.read()  # ends with the process that started this one, however that ends


if __name__ == "__main__":
    main()
