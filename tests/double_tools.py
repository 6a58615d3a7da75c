"""Servers of tests/doubles in processes of their own: started, steered, stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent


class ServerRefused(Exception):
    """A double refused what a test asked of it; the message is the server's."""


def started(name: str, *arguments: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """The process of a package of tests/doubles, and its addresses."""
    command = [sys.executable, "-m", f"doubles.{name}", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the double {name} did not start (exit status {process.wait(10)})"
    return process, json.loads(line)


def stopped(process: subprocess.Popen[str]) -> None:
    """From now on connections are refused."""
    if process.poll() is None:
        process.terminate()
    process.wait(10)
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()


def steer(url: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Any:
    """The JSON that a double answers, past every proxy. Raises ServerRefused."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/{path}", data=content, headers=dict(headers))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            raise ServerRefused(f"{path}: {refusal.code} {refusal.read().decode()}") from None
