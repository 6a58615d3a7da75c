# ruff: noqa: TID253
"""Pretrained weights: the cached download of an official file, and reading one without running its code."""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import pickle
import time
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from detloom.errors import PluginError, UnreachableError, WeightsError
from detloom.files import atomic_path, sha256_of, write_text
from detloom.specs import WeightsFile

Progress = Callable[[int, int | None], None]
"""(bytes so far, bytes in all or None when the server does not say)."""

_CHUNK = 1 << 18
_WRAPPERS = ("ema", "model", "state_dict", "module")
"""Where training codes put the weights in their checkpoints; averaged weights first: they are the published ones."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait: for a connection, for the next bytes, for the whole file."""

    connect_s: float = 5.0
    read_s: float = 30.0
    total_s: float = 3600.0


def cache_dir() -> Path:
    """Where downloads are kept: `DETLOOM_CACHE`, or the user's cache folder."""
    named = os.environ.get("DETLOOM_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "detloom"


def fetch_weights(
    file: WeightsFile,
    cache: Path | None = None,
    *,
    progress: Progress = lambda done, total: None,
    announce: Callable[[], None] = lambda: None,
    patience: Patience | None = None,
) -> Path:
    """The official file on this machine, downloaded once. announce: called before anything is asked for, and not at
    all when the file is here.

    Its hash must be the one of `file`; where the publisher gives none, the file must be readable as weights, and the
    hash it had on arrival is recorded beside it and checked from then on. Raises UnreachableError when it cannot be
    had, WeightsError when something else came, DetloomError when the cache cannot be written.
    """
    path = _cached_path(file, cache or cache_dir())
    note = path.with_name(path.name + ".sha256")
    if path.is_file() and _intact(path, file.sha256 or _recorded(note)):
        return path
    announce()
    with atomic_path(path) as part:
        arrived = _download(file, part, path, progress, patience or Patience())
        _accept(file, part, arrived)
    write_text(note, arrived + "\n")
    return path


def _cached_path(file: WeightsFile, cache: Path) -> Path:
    if Path(file.name).name != file.name or file.name in {"", ".", ".."}:
        raise WeightsError(f"{file.name!r} cannot name a weights file: it must be a plain file name")
    # Two publishers may use one file name: the folder says which address it came from.
    return cache / "weights" / hashlib.sha256(file.url.encode()).hexdigest()[:12] / file.name


def _recorded(note: Path) -> str:
    try:
        return note.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _intact(path: Path, expected: str) -> bool:
    """A file that somebody put there by hand has no recorded hash and is taken as it is."""
    return not expected or sha256_of(path) == expected


def _accept(file: WeightsFile, part: Path, arrived: str) -> None:
    """Raises WeightsError for anything but the file that was asked for."""
    if _is_web_page(_head(part)):
        raise WeightsError(
            f"{file.url} gave a web page instead of weights",
            hint="a proxy or a login page may stand in between: open the address in a browser, save the file and "
            "name it in `model.pretrain_weights`",
        )
    if file.sha256 and arrived != file.sha256:
        raise WeightsError(
            f"{file.url} gave a file with SHA-256 {arrived}, but {file.sha256} was expected",
            hint="the file was changed or damaged on its way; it was not kept",
        )
    if not file.sha256:
        _read(part, file.url)


def _head(path: Path) -> bytes:
    with path.open("rb") as opened:
        return opened.read(512)


def _is_web_page(start: bytes) -> bool:
    return start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))


class _Http(http.client.HTTPConnection):
    """Once connected, it waits longer for the next bytes than it waited for the connection."""

    def __init__(self, host: str, *, read_s: float, timeout: float | None) -> None:
        super().__init__(host, timeout=timeout)
        self.read_s = read_s

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self.read_s)


class _Https(http.client.HTTPSConnection):
    def __init__(self, host: str, *, read_s: float, timeout: float | None) -> None:
        super().__init__(host, timeout=timeout)
        self.read_s = read_s

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self.read_s)


class _HttpHandler(urllib.request.HTTPHandler):
    read_s = 0.0

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        connection: Any = partial(_Http, read_s=self.read_s)
        return self.do_open(connection, req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    read_s = 0.0

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        connection: Any = partial(_Https, read_s=self.read_s)
        return self.do_open(connection, req)


def _download(file: WeightsFile, part: Path, kept: Path, progress: Progress, patience: Patience) -> str:
    """Write the file to `part`; `kept` is where it will stay. Returns its SHA-256."""
    if not file.url.startswith(("https://", "http://")):
        raise WeightsError(f"{file.url!r} is not an http(s) address")
    deadline = time.monotonic() + patience.total_s
    digest, done = hashlib.sha256(), 0
    with part.open("wb") as target:
        try:
            response = _open(file.url, patience)
        except (OSError, http.client.HTTPException) as error:
            _unreachable(file, kept, _reason(error), error)
        with response:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
            while True:
                try:
                    chunk = response.read1(_CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    _unreachable(file, kept, f"it broke off after {done} bytes: {_reason(error)}", error)
                if not chunk:
                    break
                target.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(done, total)
                if time.monotonic() > deadline:
                    _unreachable(file, kept, f"not finished within {patience.total_s:g} s ({done} bytes)")
    if total is not None and done != total:
        _unreachable(file, kept, f"it broke off after {done} of {total} bytes")
    return digest.hexdigest()


def _open(url: str, patience: Patience) -> http.client.HTTPResponse:
    plain, encrypted = _HttpHandler(), _HttpsHandler()
    plain.read_s = encrypted.read_s = patience.read_s
    opener = urllib.request.build_opener(plain, encrypted)
    opener.addheaders = [("User-Agent", "detloom"), ("Accept", "application/octet-stream, */*;q=0.1")]
    response: http.client.HTTPResponse = opener.open(url, timeout=patience.connect_s)
    return response


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"the server answered {error.code} {error.reason}"
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, TimeoutError):
        return "no answer in time"
    return str(getattr(inner, "strerror", None) or inner) or type(inner).__name__


def _unreachable(file: WeightsFile, kept: Path, reason: str, cause: Exception | None = None) -> NoReturn:
    raise UnreachableError(
        f"the weights {file.name} cannot be downloaded from {file.url}: {reason}",
        hint=f"fetch the file elsewhere and give it with `--weights FILE`, or put it at {kept}; "
        "`--weights none` starts from random weights",
    ) from cause


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU; no code of the file is run.

    A training checkpoint is unwrapped (averaged weights before the others) and the prefix that data-parallel training
    adds is taken off. Raises WeightsError that says what the file is instead.
    """
    if not path.exists():
        raise WeightsError(f"there is no weights file {path}", hint="check `model.pretrain_weights`")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder, not a weights file", hint="name the file inside it")
    return _read(path, str(path))


def _read(path: Path, source: str) -> dict[str, Tensor]:
    start = _start(path, source)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _tensors(_read_safetensors(path, source), source)
    _refuse_by_look(path, start, source)
    try:
        # Trainings keep their arguments beside the weights; a namespace holds values and runs nothing.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "unsupported global" not in str(error).lower():
            raise _damaged(source) from error
        raise WeightsError(
            f"{source} holds Python objects besides tensors; reading them could run any code",
            hint="if you trust it, load it where it was made and save only `model.state_dict()`",
        ) from error
    except PermissionError as error:
        raise WeightsError(f"{source} may not be read: {error.strerror}") from error
    except RuntimeError as error:
        if "TorchScript" not in str(error):
            raise _damaged(source) from error
        raise WeightsError(
            f"{source} is a TorchScript program, made to run and not to train",
            hint="name the checkpoint it came from",
        ) from error
    except (EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise _damaged(source) from error
    return _tensors(content, source)


def _start(path: Path, source: str) -> bytes:
    """The first bytes. Raises WeightsError for what is no file of weights whatever its name says."""
    try:
        start = _head(path)
    except OSError as error:
        raise WeightsError(f"{source} cannot be read: {error.strerror}") from error
    if not start:
        raise WeightsError(f"{source} is empty", hint="the download or copy may have failed: fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{source} is a Git LFS pointer, not the weights", hint="run `git lfs pull` there")
    if _is_web_page(start):
        raise WeightsError(f"{source} is a web page, not weights", hint="download the file itself")
    return start


def _read_safetensors(path: Path, source: str) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise PluginError(
            f"{source} is a safetensors file; reading it needs safetensors, which is not installed",
            hint="pip install 'detloom[detr]'",
        ) from error
    try:
        return load_file(path)
    except PermissionError as error:
        raise WeightsError(f"{source} may not be read: {error.strerror}") from error
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise _damaged(source) from error


def _refuse_by_look(path: Path, start: bytes, source: str) -> None:
    """What people hand over by mistake, told by the first bytes."""
    if path.suffix == ".onnx":
        raise WeightsError(
            f"{source} is an ONNX graph, made to run and not to train", hint="name the checkpoint it came from"
        )
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise WeightsError(
            f"{source} is neither a PyTorch nor a safetensors file",
            hint="weights come as .pth, .pt or .safetensors files",
        )


def _damaged(source: str) -> WeightsError:
    return WeightsError(
        f"{source} is damaged, cut off, or not a file of weights",
        hint="fetch or copy it again and compare its size with the original",
    )


def _tensors(content: Any, source: str) -> dict[str, Tensor]:
    for _ in range(3):  # {"ema": {"module": {...}}} is the deepest that is known
        inner = next((content[key] for key in _WRAPPERS if _is_dict(content) and _is_dict(content.get(key))), None)
        if inner is None:
            break
        content = inner
    if not _is_dict(content) or not content:
        raise WeightsError(
            f"{source} holds {_describe(content)}, not named tensors",
            hint="save `model.state_dict()` with torch.save",
        )
    odd = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        raise WeightsError(
            f"{source} is not a file of weights: `{odd}` in it is {_describe(content[odd])}, not a tensor",
            hint="save `model.state_dict()` with torch.save",
        )
    prefix = "module." if all(str(key).startswith("module.") for key in content) else ""
    return {str(key).removeprefix(prefix): value for key, value in content.items()}


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"one tensor of shape {list(value.shape)}"
    if value is None or (_is_dict(value) and not value):
        return "nothing"
    return f"a value of type {type(value).__name__}"
