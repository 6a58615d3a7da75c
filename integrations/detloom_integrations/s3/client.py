# ruff: noqa: TID253
"""A bucket: what it holds, and the bytes of one object from any place on. Patient, and silent about secrets."""

from __future__ import annotations

import contextlib
import os
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

import certifi
import urllib3
from minio import Minio

from detloom.errors import DetloomError
from detloom.transfer import ChangedError, CutError, Deadline, NotThereError, Patience, retried
from detloom_integrations.s3.access import Access
from detloom_integrations.s3.errors import asked_pause, is_transient, translated
from detloom_integrations.s3.listing import StoredObject, below
from detloom_integrations.s3.wire import noticing

if TYPE_CHECKING:
    from minio.datatypes import Object

CONNECT_S, READ_S = 5.0, 30.0
_CHUNK = 1 << 17
T = TypeVar("T")


class Bucket:
    """May be used from several threads. connections: how many are kept open."""

    def __init__(self, access: Access, *, connections: int = 8, patience: Patience | None = None) -> None:
        self.access, self.patience = access, patience or Patience()
        self._pool = _pool(access, connections)
        self._client = Minio(
            access.host,
            access.key or None,
            access.secret or None,
            access.token or None,
            secure=access.secure,
            region=access.region,
            http_client=self._pool,
        )

    def close(self) -> None:
        self._pool.clear()

    def objects(self, deadline: Deadline) -> list[StoredObject]:
        """Everything below the prefix, current versions only. Raises NotThereError when there is nothing."""
        with self._speaking():
            found = [one for one in self._listed(deadline) if below(one.key, self.access.prefix)]
            if not any(not one.key.endswith("/") or one.size for one in found):
                raise self._nothing(deadline)
        return found

    @contextlib.contextmanager
    def opened(self, stored: StoredObject, offset: int) -> Iterator[tuple[int, Iterable[bytes]]]:
        """The bytes of this very content from an offset on, for `detloom.transfer.download`. Raises the SDK's errors,
        and ChangedError when the server would send another content."""
        response = self._client.get_object(
            self.access.bucket,
            stored.key,
            offset=offset,
            request_headers={"If-Match": f'"{stored.etag}"'} if stored.etag else None,
            version_id=stored.version or None,
        )
        try:
            yield self._beginning(response, stored, offset), response.stream(_CHUNK, decode_content=False)
        except BaseException:
            response.close()  # the rest of this body must not be taken for the answer to another call
            raise
        finally:
            response.release_conn()

    def head(self, stored: StoredObject, part: int = 0, deadline: Deadline | None = None) -> tuple[int, dict[str, str]]:
        """Size and headers of an object, or of one part of an upload in parts (counted from 1)."""
        query: dict[str, Any] | None = {"partNumber": str(part)} if part else None

        def ask() -> Object:
            return self._client.stat_object(
                self.access.bucket, stored.key, version_id=stored.version or None, extra_query_params=query
            )

        with self._speaking(stored.key):
            answer = self._patiently(ask, deadline or Deadline(READ_S))
        headers = {str(name).lower(): str(value) for name, value in (answer.metadata or {}).items()}
        return answer.size or 0, headers

    @contextlib.contextmanager
    def _speaking(self, key: str = "") -> Iterator[None]:
        """Every fault leaves in our words."""
        try:
            yield
        except (DetloomError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise self.explained(error, key) from None

    def explained(self, error: Exception, key: str = "") -> DetloomError:
        made = translated(error, self.access, key)
        if getattr(error, "code", "") != "NoSuchBucket":
            return made
        near = get_close_matches(self.access.bucket, self._buckets(), n=1, cutoff=0.6)
        return NotThereError(made.message, hint=f"did you mean {near[0]!r}?") if near else made

    def _patiently(self, call: Callable[[], T], deadline: Deadline) -> T:
        return retried(
            call, deadline=deadline, is_transient=is_transient, patience=self.patience, asked_pause=asked_pause
        )

    def _listed(self, deadline: Deadline) -> list[StoredObject]:
        if self._keeps_versions(deadline):
            with contextlib.suppress(_refusals()):  # the right to list versions is one of its own
                return self._walk(deadline, versions=True)
        return self._walk(deadline, versions=False)

    def _walk(self, deadline: Deadline, *, versions: bool) -> list[StoredObject]:
        """All pages; after a fault it goes on behind the last key that came."""
        found: list[StoredObject] = []

        def go_on() -> None:
            for one in self._client.list_objects(
                self.access.bucket,
                prefix=self.access.prefix or None,
                recursive=True,
                start_after=found[-1].key if found else None,
                include_version=versions,
            ):
                deadline.check()
                if not one.is_delete_marker and (not versions or one.is_latest == "true"):
                    version = one.version_id if versions and one.version_id not in (None, "null") else ""
                    found.append(StoredObject(one.object_name or "", _bare(one.etag), one.size or 0, version or ""))

        self._patiently(go_on, deadline)
        return found

    def _keeps_versions(self, deadline: Deadline) -> bool:
        """Servers without versions, and keys that may not ask, count as no."""
        try:
            return self._patiently(
                lambda: self._client.get_bucket_versioning(self.access.bucket).status == "Enabled", deadline
            )
        except _refusals():
            return False

    def _nothing(self, deadline: Deadline) -> NotThereError:
        access, parent = self.access, self.access.prefix.rpartition("/")[0]
        if not access.prefix:
            return NotThereError(f"the bucket {access.bucket} is empty", hint="put the data there, or name another one")
        listed = self._patiently(
            lambda: list(self._client.list_objects(access.bucket, prefix=f"{parent}/" if parent else None)), deadline
        )
        names = [(one.object_name or "").rstrip("/") for one in listed]
        near = get_close_matches(access.prefix, names, n=1, cutoff=0.6)
        shown = ", ".join(repr(name) for name in names[:8]) or "nothing"
        hint = f"did you mean {near[0]!r}?" if near else f"{parent or access.bucket} holds {shown}"
        return NotThereError(f"nothing lies below {access.prefix!r} in the bucket {access.bucket}", hint=hint)

    def _buckets(self) -> list[str]:
        """For suggestions only; these keys may not be allowed to know."""
        with contextlib.suppress(Exception):
            return [bucket.name for bucket in self._client.list_buckets() or []]
        return []

    def _beginning(self, response: Any, stored: StoredObject, offset: int) -> int:
        """Where the bytes of an answer begin. Not every gateway heeds If-Match and Range, or says so by its status."""
        etag = _bare(response.headers.get("ETag"))
        if etag and stored.etag and etag != stored.etag:
            raise ChangedError(
                f"{stored.key} was changed after it was listed",
                hint="run the command again; what has arrived is not fetched again",
            )
        length = response.headers.get("Content-Length", "")
        if length not in ("", str(stored.size), str(stored.size - offset)):
            raise CutError(f"{length} bytes were announced of {stored.size}")
        if length:
            return 0 if length == str(stored.size) else offset
        return offset if response.status == 206 else 0


def _bare(etag: str | None) -> str:
    return (etag or "").strip('"')


def _refusals() -> type[Exception]:
    from minio.error import MinioException

    return MinioException


def _pool(access: Access, connections: int) -> urllib3.PoolManager:
    """Retries are ours: the SDK's own would begin again from the first byte, and hide what was wrong."""
    options: dict[str, Any] = {
        "timeout": urllib3.Timeout(connect=CONNECT_S, read=READ_S),
        "maxsize": connections,
        "block": False,
        "cert_reqs": "CERT_REQUIRED",
        "ca_certs": os.environ.get("SSL_CERT_FILE") or certifi.where(),
        "retries": False,
    }
    proxy = urllib.request.getproxies().get("https" if access.secure else "http")
    if proxy and not urllib.request.proxy_bypass(access.host):
        return noticing(urllib3.ProxyManager(proxy, **options))
    return noticing(urllib3.PoolManager(**options))
