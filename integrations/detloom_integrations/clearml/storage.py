"""Where files of a task go: ClearML's file server, or what the SDK reaches (`s3://`, `gs://`, `azure://`, folders).

The file server gets its files from here and not through the SDK, whose way there waits for the API server without
end. Every wait has a limit; a file that takes long because it is large does not run into it.
"""

from __future__ import annotations

import contextlib
import hashlib
import mimetypes
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlsplit

from detloom.errors import DetloomError
from detloom.redaction import redacted

if TYPE_CHECKING:
    from detloom_integrations.clearml.server import Server

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0
"""For the answer after the last byte, and for each stretch in which no byte is taken."""


class StorageError(DetloomError):
    """A file did not reach its place; another time it may. Addresses are said without their passwords."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class Storage:
    """Files below one address, such as `http://host:8081` or `s3://bucket/folder`."""

    def __init__(self, server: Server, base: str) -> None:
        self.base = base.rstrip("/")
        self._server = server
        self._is_http = urlsplit(self.base).scheme in {"http", "https"}

    def put(self, path: Path, key: str) -> str:
        """Store a file below the base and check that it arrived whole; returns its address.

        key: the place below the base; what no storage takes in a name is replaced.
        Raises StorageError, or OSError when `path` cannot be read.
        """
        size = path.stat().st_size
        key = plain_key(key)
        url = f"{self.base}/{quote(key) if self._is_http else key}"
        if self._is_http:
            with path.open("rb") as file:
                self._post(file, key)
            arrived = self._length(url)
        else:
            arrived = _put_elsewhere(path, url)
        if arrived is not None and arrived != size:
            raise StorageError(f"{url} holds {arrived} bytes instead of the {size} of {path}")
        return url

    def _post(self, file: BinaryIO, key: str) -> None:
        """A part of a multipart body, named as its place: the file server's way of taking files."""
        import requests  # type: ignore[import-untyped]
        from clearml.utilities.requests_toolbelt import MultipartEncoder

        kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
        body: Any = MultipartEncoder({key: (key, file, kind)})  # type: ignore[no-untyped-call]
        headers = {"Content-Type": body.content_type, **self._authorization()}
        try:
            answer = self._server.http.post(
                self.base, data=body, headers=headers, timeout=(CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S)
            )
        except requests.RequestException as error:
            from detloom_integrations.clearml.server import cause

            raise StorageError(f"{key} could not be sent to {self.base}: {cause(error)}") from error
        if answer.status_code != 200:
            raise StorageError(f"{self.base} did not take {key}: {answer.status_code} {answer.reason}")

    def _length(self, url: str) -> int | None:
        """Bytes behind an address; None when the server does not say."""
        import requests

        with contextlib.suppress(requests.RequestException, KeyError, ValueError):
            answer = self._server.http.head(
                url, headers={**self._authorization(), "Accept-Encoding": "identity"}, timeout=CONNECT_TIMEOUT_S
            )
            if answer.status_code == 200:
                return int(answer.headers["Content-Length"])
        return None

    def _authorization(self) -> dict[str, str]:
        """The token goes to the configured file server and to nobody else."""
        files = self._server.access.files
        return self._server.authorization() if files and f"{self.base}/".startswith(f"{files}/") else {}


def plain_key(key: str) -> str:
    """Names that every storage, every multipart parser and every browser read alike. One that had to be changed is told
    apart from others by a few digits of its hash."""
    parts = []
    for part in key.split("/"):
        plain = re.sub(r"[^A-Za-z0-9 _.()=+,-]", "_", part)
        if plain.strip(". ") != "" and plain == part:
            parts.append(part)
        else:
            name, dot, suffix = plain.strip(". ").rpartition(".")
            digits = hashlib.sha256(part.encode()).hexdigest()[:8]
            parts.append(f"{name or suffix}-{digits}{dot}{suffix if name else ''}".rstrip("."))
    return "/".join(parts)


def fetch(server: Server, url: str, dest: Path) -> Path:
    """Write what is stored at `url` to the file `dest`. Raises StorageError."""
    from detloom.files import atomic_path

    storage = Storage(server, url)
    if urlsplit(url).scheme not in {"http", "https"}:
        return _fetch_elsewhere(url, dest)
    import requests

    try:
        with (
            server.http.get(
                url, headers=storage._authorization(), stream=True, timeout=(CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S)
            ) as answer,
            atomic_path(dest) as part,
        ):
            if answer.status_code != 200:
                raise StorageError(f"{url} cannot be fetched: {answer.status_code} {answer.reason}")
            with part.open("wb") as file:
                for block in answer.iter_content(1 << 20):
                    file.write(block)
            expected = answer.headers.get("Content-Length")
            if expected is not None and part.stat().st_size != int(expected):
                raise StorageError(f"{url} cannot be fetched: {part.stat().st_size} of {expected} bytes came")
    except requests.RequestException as error:
        from detloom_integrations.clearml.server import cause

        raise StorageError(f"{url} cannot be fetched: {cause(error)}") from error
    return dest


def _put_elsewhere(path: Path, target: str) -> int | None:
    """Through the SDK's drivers. Returns the bytes that arrived, None when the storage does not say."""
    manager = _storage_manager()
    try:
        manager.upload_file(str(path), target, wait_for_upload=True, retries=1)
        size = manager.get_file_size_bytes(target, silence_errors=True)
    except Exception as error:  # each driver has errors of its own
        raise StorageError(f"{path.name} could not be stored at {target}: {error}") from error
    return int(size) if size else None


def _fetch_elsewhere(url: str, dest: Path) -> Path:
    import shutil

    from detloom.files import atomic_path

    try:
        found = _storage_manager().get_local_copy(url, extract_archive=False)
    except Exception as error:  # each driver has errors of its own
        raise StorageError(f"{url} cannot be fetched: {error}") from error
    if found is None:
        raise StorageError(f"{url} cannot be fetched: nothing is there")
    with atomic_path(dest) as part:
        shutil.copyfile(found, part)
    return dest


def _storage_manager() -> Any:
    try:
        from clearml import StorageManager
    except ImportError as error:
        raise StorageError(f"the storage cannot be used: {error}") from error
    return StorageManager
