"""Real git repositories for tests."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

IDENTITY = {
    **{f"GIT_{who}_NAME": "A Tester" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "tester@example.com" for who in ("AUTHOR", "COMMITTER")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git(folder: Path, *arguments: str | Path) -> str:
    # Submodules from folders are off by default since git 2.38.1.
    command = ["git", "-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **IDENTITY}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def commit(folder: Path, files: dict[str, str] | None = None, message: str = "work") -> str:
    """Everything in the folder, and these files; returns the commit."""
    write(folder, files or {})
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    return git(folder, "rev-parse", "HEAD")


def new_repository(folder: Path, files: dict[str, str] | None = None) -> str:
    """One commit with these files; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet")
    return commit(folder, files if files is not None else {"README.md": "hello\n"})


def push_to_bare(folder: Path, bare: Path, remote: str = "origin") -> None:
    """Give the repository a bare remote of its own and push the branch there."""
    git(folder.parent, "init", "--quiet", "--bare", bare)
    git(folder, "remote", "add", remote, bare.as_uri())
    git(folder, "push", "--quiet", "--set-upstream", remote, "HEAD")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def served(bare: Path) -> Iterator[str]:
    """The bare repository at an http address, by git's protocol for plain file servers, until the block ends."""
    git(bare, "update-server-info")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(bare.parent))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/{bare.name}"
        finally:
            server.shutdown()
            thread.join()
