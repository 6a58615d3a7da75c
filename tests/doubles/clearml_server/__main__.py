"""Starts both servers; prints {"api": ADDRESS, "files": ADDRESS, "access_key": .., "secret_key": ..} as one line."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path

from .api import Api
from .file_server import file_handler
from .tokens import ACCESS_KEY, SECRET_KEY
from .web import Server, api_handler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files-dir", type=Path, required=True, help="where uploaded files are kept")
    folder: Path = parser.parse_args().files_dir
    folder.mkdir(parents=True, exist_ok=True)
    api = Api()
    servers = {"api": Server(api_handler(api)), "files": Server(file_handler(folder, api.faults))}
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    addresses = {name: server.address for name, server in servers.items()}
    print(json.dumps({**addresses, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY}), flush=True)
    sys.stdin.buffer.read()  # ends with the process that started this one, however that ends


if __name__ == "__main__":
    main()
