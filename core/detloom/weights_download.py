"""Published weights: downloaded once, gone on with where a connection was cut, compared with their hash, and kept."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

from detloom.errors import DataError, UnreachableError, WeightsError
from detloom.files import atomic_path, cache_dir, sha256_of, write_json
from detloom.specs import WeightsFile
from detloom.transfer import CutError, Deadline, Meter, Patience, TimedOutError, download, retried

Progress = Callable[[int, int], None]
"""(bytes so far, bytes in all, 0 when the server does not say)."""

HUB = "https://huggingface.co/"
"""HF_ENDPOINT names a mirror of it, and HF_HUB_OFFLINE=1 forbids to ask it: the hub's own variables."""

_CHUNK = 1 << 18
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BUSY = {408, 429, 500, 502, 503, 504}
_OUR_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds to wait: for a connection and for the next bytes, for the whole file."""

    answer_s: float = 15.0
    total_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known of a downloaded file. revision: the publisher's commit, where it says one."""

    sha256: str = ""
    revision: str = ""


def fetch_weights(
    file: WeightsFile,
    cache: Path | None = None,
    *,
    progress: Progress = lambda done, total: None,
    announce: Callable[[], None] = lambda: None,
    limits: Limits | None = None,
    patience: Patience | None = None,
) -> Path:
    """The official file on this machine, downloaded once. announce: called before anything is asked for, and not at
    all when the file is here.

    Its hash must be the one of `file`, else the one that the hub tells for it; where neither is known, the file must
    be readable as weights. The hash on arrival is recorded beside it and checked from then on. Raises UnreachableError
    when it cannot be had, WeightsError when something else came, DetloomError when the cache cannot be written.
    """
    path = _cached_path(file, cache or cache_dir())
    if path.is_file() and _intact(path, file.sha256 or arrival_of(path).sha256):
        return path
    announce()
    limits = limits or Limits()
    with atomic_path(path) as part, closing(_Remote(file, limits.answer_s)) as remote:
        with _explaining(file, path, part, remote, limits):
            deadline, is_transient = Deadline(limits.total_s), partial(_is_transient, part=part)
            retried(
                remote.ask,
                deadline=deadline,
                is_transient=is_transient,
                patience=patience,
                asked_pause=_asked_pause,
            )
            download(
                part,
                remote.opened,
                remote.size,
                deadline=deadline,
                is_transient=is_transient,
                patience=patience,
                meter=Meter(remote.size or 0, lambda done, total: progress(done, total if remote.size else 0)),
            )
        sha256 = sha256_of(part)
        _accept(file, part, sha256, remote.sha256)
    write_json(_note(path), asdict(Arrival(sha256, remote.revision)))
    return path


def arrival_of(path: Path) -> Arrival:
    """What was recorded when the file came; nothing for one that somebody put there by hand."""
    try:
        return Arrival(**json.loads(_note(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Arrival()


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".arrival.json")


def _cached_path(file: WeightsFile, cache: Path) -> Path:
    if Path(file.name).name != file.name or file.name in {"", ".", ".."}:
        raise WeightsError(f"{file.name!r} cannot name a weights file: it must be a plain file name")
    # Two publishers may use one file name: the folder says which address it came from.
    return cache / "weights" / hashlib.sha256(file.url.encode()).hexdigest()[:12] / file.name


def _intact(path: Path, expected: str) -> bool:
    """A file that somebody put there by hand has no recorded hash and is taken as it is."""
    return not expected or sha256_of(path) == expected


def _accept(file: WeightsFile, part: Path, arrived: str, told: str) -> None:
    """Raises WeightsError for anything but the file that was asked for. told: the hash that the hub gave."""
    from detloom.weights import is_web_page, read_weights

    if is_web_page(part):
        raise WeightsError(
            f"{file.url} gave a web page instead of weights",
            hint="a proxy or a login page may stand in between: open the address in a browser, save the file and "
            "name it in `model.pretrain_weights`",
        )
    expected = file.sha256 or told
    if expected and arrived != expected:
        raise WeightsError(
            f"{file.url} gave a file with SHA-256 {arrived}, but {expected} was expected",
            hint="the file was changed or damaged on its way; it was not kept",
        )
    if not file.sha256:
        read_weights(part, file.url)


# ---- the server ---------------------------------------------------------------------------------------------------


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps what the hub says of a file before it sends us on to where the bytes are."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        self.told |= {name.lower(): value for name, value in headers.items()}
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            fp.close()
            raise urllib.error.URLError(f"it sends us on to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Remote:
    """A file at its publisher. After `ask`: size in bytes (None when it is not told), and what the hub says of it."""

    def __init__(self, file: WeightsFile, answer_s: float) -> None:
        self.url, self._answer_s = _address(file), answer_s
        self.size: int | None = None
        self.sha256 = self.revision = self._etag = ""
        self._first: http.client.HTTPResponse | None = None

    def ask(self) -> None:
        """Opens the first connection, which `opened` then reads."""
        redirects = _Redirects()
        response = self._open({}, redirects)
        told = redirects.told | {name.lower(): value for name, value in response.headers.items()}
        length = response.headers.get("Content-Length", "")
        self.size = int(length) if length.isdigit() else None
        self._etag = response.headers.get("ETag", "")
        linked = told.get("x-linked-etag", "").strip('"')
        self.sha256 = linked if _SHA256.fullmatch(linked) else ""
        self.revision = told.get("x-repo-commit", "")
        self._first = response

    @contextmanager
    def opened(self, offset: int) -> Iterator[tuple[int, Iterable[bytes]]]:
        """The bytes from this offset on if the server still has the same content, else from the beginning."""
        response, self._first = self._first, None
        if response is None:
            strong = self._etag and not self._etag.startswith("W/")
            response = self._open({"Range": f"bytes={offset}-", "If-Range": self._etag} if offset and strong else {})
        with response:
            begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            start = int(begins[1]) if response.status == http.client.PARTIAL_CONTENT and begins else 0
            yield start, iter(lambda: response.read1(_CHUNK), b"")

    def close(self) -> None:
        """For who does not come to read it."""
        if self._first is not None:
            self._first.close()

    def _open(self, headers: dict[str, str], redirects: _Redirects | None = None) -> http.client.HTTPResponse:
        opener = urllib.request.build_opener(redirects or _Redirects())
        accept = {"User-Agent": "detloom", "Accept": "application/octet-stream, */*;q=0.1"}
        request = urllib.request.Request(self.url, headers={**accept, **headers})
        try:
            response: http.client.HTTPResponse = opener.open(request, timeout=self._answer_s)
        except urllib.error.HTTPError as error:
            error.close()  # its code and headers stay
            raise
        return response


def _address(file: WeightsFile) -> str:
    """Where to ask. Raises WeightsError for what is no web address, UnreachableError when the hub may not be asked."""
    if not file.url.startswith(("https://", "http://")):
        raise WeightsError(f"{file.url!r} is not an http(s) address")
    if not file.url.startswith(HUB):
        return file.url
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        raise UnreachableError(
            f"the weights {file.name} are not here, and HF_HUB_OFFLINE forbids to download them from {file.url}",
            hint="unset HF_HUB_OFFLINE, or fetch the file elsewhere and give it with `--weights FILE`",
        )
    return os.environ.get("HF_ENDPOINT", HUB).rstrip("/") + "/" + file.url.removeprefix(HUB)


def _is_transient(error: Exception, part: Path) -> bool:
    """A line that worked may work again; a server that was never reached is not waited for."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _BUSY
    if getattr(error, "errno", None) in _OUR_DISK:
        return False
    return isinstance(error, OSError | http.client.HTTPException) and part.stat().st_size > 0


def _asked_pause(error: Exception) -> float | None:
    """Seconds of Retry-After."""
    text = (error.headers.get("Retry-After") or "") if isinstance(error, urllib.error.HTTPError) else ""
    return float(text) if text.isdigit() else None


@contextmanager
def _explaining(file: WeightsFile, kept: Path, part: Path, remote: _Remote, limits: Limits) -> Iterator[None]:
    """Faults of the network in our words. kept: where the file will stay. Those of our own disk pass."""
    try:
        yield
    except TimedOutError as error:
        _unreachable(file, kept, f"not finished within {limits.total_s:g} s ({part.stat().st_size} bytes)", error)
    except DataError as error:
        _unreachable(file, kept, error.message, error)
    except (CutError, OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in _OUR_DISK:
            raise
        arrived, reason = part.stat().st_size, _reason(error)
        size = f" of {remote.size}" if remote.size else ""
        _unreachable(file, kept, f"it broke off after {arrived}{size} bytes{reason}" if arrived else reason[2:], error)


def _reason(error: Exception) -> str:
    """`: why`, or nothing for a connection that simply ended."""
    if isinstance(error, CutError):
        return ""
    if isinstance(error, urllib.error.HTTPError):
        return f": the server answered {error.code} {error.reason}"
    inner: Any = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, TimeoutError):
        return ": no answer in time"
    return f": {getattr(inner, 'strerror', None) or inner or type(inner).__name__}"


def _unreachable(file: WeightsFile, kept: Path, reason: str, cause: Exception) -> NoReturn:
    raise UnreachableError(
        f"the weights {file.name} cannot be downloaded from {file.url}: {reason}",
        hint=f"fetch the file elsewhere and give it with `--weights FILE`, or put it at {kept}; "
        "`--weights none` starts from random weights",
    ) from cause
